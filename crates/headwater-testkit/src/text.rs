//! Escapes of the case files: bytes as text and back.
//!
//! Called by the case parser, the scripts and the reports; calls nothing. nginx counterpart: none.

/// Turns `\r \n \t \0 \\ \xHH` into the bytes they stand for; every other character stands for itself.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escape = bytes.get(at).copied();
        at += 1;
        match escape {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'0') => out.push(0),
            Some(b'x') => {
                let digits = text.get(at..at + 2).unwrap_or_default();
                if let Ok(value) = u8::from_str_radix(digits, 16) {
                    out.push(value);
                    at += 2;
                }
            }
            Some(other) => out.push(other),
            None => out.push(b'\\'),
        }
    }
    out
}

/// Shows bytes as lines of text: control and non-ASCII bytes as escapes, a bare CR as `\r`, LF as a line end.
///
/// A body of more than 2,000 bytes is shown by its two ends, its length and a checksum.
#[must_use]
pub fn show(bytes: &[u8]) -> String {
    if bytes.len() > 2000 {
        let (head, tail) = (&bytes[..60], &bytes[bytes.len() - 60..]);
        let sum = checksum(bytes);
        return format!("{}\n<{} bytes, sum {sum:016x}>\n{}", show(head), bytes.len(), show(tail));
    }
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' => out.push('\n'),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

/// FNV-1a over the bytes: tells long bodies apart.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Position of `needle` in `haystack`.
#[must_use]
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescape_known_escapes_gives_bytes() {
        assert_eq!(unescape(r"a\r\n\x00\\\0"), b"a\r\n\0\\\0");
    }

    #[test]
    fn show_control_bytes_gives_escapes() {
        assert_eq!(show(b"a\r\nb\x01"), "a\\r\nb\\x01");
    }
}
