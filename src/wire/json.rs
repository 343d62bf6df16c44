//! Writing JSON by hand: the few shapes this project writes need no serializer on the hot path.

use super::bytes;

/// Appends `text` as a JSON string. Only ASCII is written by the callers; other characters pass through as UTF-8.
pub fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if bytes::are_plain(text) && bytes::position(text, b'"').is_none() {
        out.extend_from_slice(text);
    } else {
        text.iter().for_each(|byte| push_escaped(out, *byte));
    }
    out.push(b'"');
}

fn push_escaped(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        0..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        _ => out.push(byte),
    }
}

/// Appends a text that has `value` at a place of its own. A text is appended once, which costs more than its bytes do.
pub fn push_filled<const N: usize>(out: &mut Vec<u8>, (text, at): (&[u8; N], usize), value: &[u8]) {
    let mut filled = *text;
    filled[at..at + value.len()].copy_from_slice(value);
    out.extend_from_slice(&filled);
}

/// Appends a decimal number.
pub fn push_number(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["", "IBAN", "a\"b\\c", "\u{1}\n"] {
            let mut out = Vec::new();
            push_string(&mut out, text.as_bytes());
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
        for number in [0, 7, -1, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
