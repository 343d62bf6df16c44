//! The `dt` of a completion: whole seconds with a numeric offset, never `Z`.

use jiff::{Timestamp, civil, tz::Offset};
use std::fmt;

/// An offset from UTC in whole minutes: any that RFC 3339 allows, −23:59 to +23:59.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UtcOffset(i16);

impl UtcOffset {
    /// Length of the text.
    const TEXT: usize = 6;

    /// Reads `±hh:mm`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = text else { return None };
        let (hours, minutes) = (two_digits(h1, h2)?, two_digits(m1, m2)?);
        if hours > 23 || minutes > 59 {
            return None;
        }
        let total = hours * 60 + minutes;
        Some(Self(if sign == b'-' { -total } else { total }))
    }

    /// The offset from minutes; `None` outside what RFC 3339 allows.
    pub const fn from_minutes(minutes: i16) -> Option<Self> {
        if minutes.unsigned_abs() < 24 * 60 { Some(Self(minutes)) } else { None }
    }

    /// The offset in minutes.
    pub const fn minutes(self) -> i16 {
        self.0
    }
}

impl fmt::Display for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", self.0.unsigned_abs() / 60, self.0.unsigned_abs() % 60)
    }
}

fn two_digits(tens: u8, ones: u8) -> Option<i16> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i16::from(tens - b'0') * 10 + i16::from(ones - b'0'))
}

/// A completion's time: the decision time, and the offset it is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dt {
    /// Milliseconds since the epoch, UTC; the text shows whole seconds.
    pub at_ms: i64,
    /// The offset it is shown with.
    pub offset: UtcOffset,
}

impl Dt {
    /// Length of the text, `YYYY-MM-DDThh:mm:ss±hh:mm`.
    pub const TEXT: usize = 25;

    /// The text. Times outside the years 0 to 9999 are shown at the nearest one that has a text.
    pub fn text(self) -> [u8; Self::TEXT] {
        const FIRST_S: i64 = -62_167_219_200 + 86_400;
        const LAST_S: i64 = 253_402_300_799 - 86_400;
        let shown_s = self.at_ms.div_euclid(1000).clamp(FIRST_S, LAST_S);
        let (days, second_of_day) = local(shown_s, self.offset);
        let date = civil_from_days(days);
        let mut text = *b"0000-00-00T00:00:00+00:00";
        let mut put = |at: usize, width: usize, mut value: i64| {
            for place in text[at..at + width].iter_mut().rev() {
                *place = b'0' + (value % 10) as u8;
                value /= 10;
            }
        };
        put(0, 4, i64::from(date.year()));
        put(5, 2, i64::from(date.month()));
        put(8, 2, i64::from(date.day()));
        put(11, 2, second_of_day / 3600);
        put(14, 2, second_of_day / 60 % 60);
        put(17, 2, second_of_day % 60);
        let minutes = i64::from(self.offset.0.unsigned_abs());
        put(20, 2, minutes / 60);
        put(23, 2, minutes % 60);
        if self.offset.0 < 0 {
            text[19] = b'-';
        }
        text
    }

    /// The offset that a text shows; `None` when it is no `dt`.
    pub fn offset_of(text: &str) -> Option<UtcOffset> {
        let bytes = text.as_bytes();
        if bytes.len() != Self::TEXT {
            return None;
        }
        UtcOffset::parse(&bytes[Self::TEXT - UtcOffset::TEXT..])
    }
}

fn local(seconds: i64, offset: UtcOffset) -> (i64, i64) {
    let local = seconds + i64::from(offset.0) * 60;
    (local.div_euclid(86_400), local.rem_euclid(86_400))
}

fn civil_from_days(days: i64) -> civil::Date {
    // Within the clamp of `Dt::text` the day is one that jiff can show.
    Timestamp::from_second(days * 86_400).map_or(civil::Date::ZERO, |t| Offset::UTC.to_datetime(t).date())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(at_ms: i64, offset: &str) -> String {
        let offset = UtcOffset::parse(offset.as_bytes()).unwrap();
        String::from_utf8(Dt { at_ms, offset }.text().to_vec()).unwrap()
    }

    #[test]
    fn the_sources_examples_are_written_as_printed() {
        assert_eq!(text(1_735_689_661_000, "+05:00"), "2025-01-01T05:01:01+05:00");
        assert_eq!(text(1_735_687_861_999, "+00:30"), "2025-01-01T00:01:01+00:30");
    }

    #[test]
    fn every_offset_and_edge_has_a_text() {
        assert_eq!(text(0, "+00:00"), "1970-01-01T00:00:00+00:00");
        assert_eq!(text(-1, "-00:01"), "1969-12-31T23:58:59-00:01");
        assert_eq!(text(1_709_164_800_000, "-23:59"), "2024-02-28T00:01:00-23:59");
        assert_eq!(text(i64::MAX, "+23:59").len(), Dt::TEXT);
        assert_eq!(text(i64::MIN, "-23:59").len(), Dt::TEXT);
    }

    #[test]
    fn an_offset_is_read_back_from_the_text() {
        for offset in ["+00:00", "+05:30", "-12:45", "+23:59"] {
            let read = Dt::offset_of(&text(1_735_689_661_000, offset)).unwrap();
            assert_eq!(read.to_string(), offset);
        }
        for wrong in ["", "+0030", "+24:00", "+00:60", "Z", "00:30", "+1:30"] {
            assert_eq!(UtcOffset::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
