//! A reader of the JSON that this project's records usually are. It allocates nothing, knows no escapes and no fractions, and says
//! no at what it does not know: its callers then ask a general parser. It must accept nothing that such a parser refuses.

use super::bytes;

/// Digits that a number may have: any such number fits.
const DIGITS: usize = 18;

/// Reads from the front of a text.
pub struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// Whether all of it is plain, and so its strings need not be looked at.
    plain: bool,
}

/// Fills an empty slot; a field that stands twice is refused.
pub fn fill<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

impl<'a> Scan<'a> {
    /// At the front of `text`, which must be UTF-8.
    pub fn new(text: &'a [u8]) -> Option<Self> {
        Some(Self { text: std::str::from_utf8(text).ok()?, at: 0, plain: bytes::are_plain(text) })
    }

    /// That nothing but white space is left.
    pub fn end(&mut self) -> Option<()> {
        self.space();
        (self.at == self.text.len()).then_some(())
    }

    /// Reads an object; `field` reads the value of each name.
    pub fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.list((b'{', b'}'), |scan| {
            let name = scan.string()?;
            scan.take(b':').then_some(())?;
            field(scan, name)
        })
    }

    /// Reads an array; `item` reads each of its values.
    pub fn array(&mut self, item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.list((b'[', b']'), item)
    }

    fn list(&mut self, (open, close): (u8, u8), mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open).then_some(())?;
        if self.take(close) {
            return Some(());
        }
        loop {
            item(self)?;
            if self.take(close) {
                return Some(());
            }
            self.take(b',').then_some(())?;
        }
    }

    /// Reads exactly these characters.
    pub fn literal(&mut self, text: &str) -> Option<()> {
        let found = self.text.as_bytes().get(self.at..)?.starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found.then_some(())
    }

    /// Whether these characters come next; then they are read.
    pub fn has(&mut self, text: &str) -> bool {
        self.literal(text).is_some()
    }

    /// Reads a string without escapes.
    pub fn string(&mut self) -> Option<&'a str> {
        self.take(b'"').then_some(())?;
        let start = self.at;
        let len = bytes::position(self.text.as_bytes().get(start..)?, b'"')?;
        self.at += len + 1;
        let string = self.text.get(start..start + len)?;
        (self.plain || bytes::are_plain(string.as_bytes())).then_some(string)
    }

    /// Reads a whole number. What follows it is not looked at: a fraction is refused by whoever reads on.
    pub fn number(&mut self) -> Option<i64> {
        let negative = self.take(b'-');
        let digits = self.text.as_bytes().get(self.at..)?;
        let len = digits.iter().take(DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
        let leading_zero = len > 1 && digits[0] == b'0';
        if len == 0 || len > DIGITS || leading_zero {
            return None;
        }
        self.at += len;
        let value = digits[..len].iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        // A general parser reads -0 as a fraction.
        if negative && value == 0 {
            return None;
        }
        Some(if negative { -value } else { value })
    }

    /// Takes `byte` if it is what comes after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a list of numbers and strings.
    fn read(text: &[u8]) -> Option<(Vec<i64>, Vec<String>)> {
        let (mut numbers, mut strings) = (Vec::new(), Vec::new());
        let mut scan = Scan::new(text)?;
        scan.array(|scan| {
            scan.space();
            match scan.text.as_bytes().get(scan.at)? {
                b'"' => strings.push(scan.string()?.to_owned()),
                _ => numbers.push(scan.number()?),
            }
            Some(())
        })?;
        scan.end()?;
        Some((numbers, strings))
    }

    fn read_by_serde(text: &[u8]) -> Option<(Vec<i64>, Vec<String>)> {
        let values: Vec<serde_json::Value> = serde_json::from_slice(text).ok()?;
        let numbers = values.iter().filter(|v| v.is_number()).map(|v| v.as_i64()).collect::<Option<_>>()?;
        Some((numbers, values.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()))
    }

    #[test]
    fn whole_numbers_are_read_and_others_left_to_a_general_parser() {
        let numbers = |text: &str| read(text.as_bytes()).map(|(numbers, _)| numbers);
        assert_eq!(numbers(" [ 0,7 , -1,\n999999999999999999 ] "), Some(vec![0, 7, -1, 999_999_999_999_999_999]));
        for other in [
            "[01]",
            "[-0]",
            "[- 1]",
            "[-]",
            "[1.0]",
            "[1e3]",
            "[1234567890123456789]",
            "[1,]",
            "[1",
            "1]",
            "[1] 2",
            "[+1]",
        ] {
            assert_eq!(numbers(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_general_parser_reads(text in "[\\[\\],\"0-9ae\\\\ .\t-]{0,12}|\\[(\"[ -~]{0,9}\"|-?[0-9]{1,19})(,(\"\\PC{0,9}\"|[0-9]{1,4})){0,3}\\]") {
            if let Some(found) = read(text.as_bytes()) {
                prop_assert_eq!(Some(found), read_by_serde(text.as_bytes()));
            }
        }
    }
}
