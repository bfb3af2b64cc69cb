//! Base64 as nginx reads and writes it.
//!
//! Called by Basic authentication, `userid` and `secure_link`. nginx's counterpart: `ngx_encode_base64`, `ngx_decode_base64`,
//! `ngx_decode_base64url`.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes with padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3).saturating_mul(4));
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4_usize {
            let digit = bits >> (18_usize.saturating_sub(index.saturating_mul(6))) & 0x3f;
            out.push(if index <= group.len() {
                DIGITS.get(digit as usize).copied().unwrap_or(b'=')
            } else {
                b'='
            });
        }
    }
    out
}

/// Decodes up to the first `=`; `None` for other characters or a length that cannot be.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    decode_with(text, |byte| byte)
}

/// The same with `-` and `_` in place of `+` and `/`.
#[must_use]
pub fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    decode_with(text, |byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        b'+' | b'/' => 0,
        other => other,
    })
}

fn decode_with(text: &[u8], plain: fn(u8) -> u8) -> Option<Vec<u8>> {
    let text = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    if text.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len());
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for at in 0..4 {
            let digit = group.get(at).map_or(Some(0), |byte| value(plain(*byte)))?;
            bits = bits << 6 | digit;
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend(bytes.into_iter().take(group.len().saturating_sub(1)));
    }
    Some(out)
}

fn value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte.saturating_sub(b'A'),
        b'a'..=b'z' => byte.saturating_sub(b'a').saturating_add(26),
        b'0'..=b'9' => byte.saturating_sub(b'0').saturating_add(52),
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_known_texts_round_trip() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{7ff}\u{fff}", "37/gv78="),
        ] {
            assert_eq!(encode(plain.as_bytes()), coded.as_bytes());
            assert_eq!(decode(coded.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn decode_is_as_lenient_as_nginx() {
        assert_eq!(decode(b"Zm8").as_deref(), Some(&b"fo"[..]));
        assert_eq!(decode(b"Zm8=rest").as_deref(), Some(&b"fo"[..]));
        assert_eq!(decode(b"Z"), None);
        assert_eq!(decode(b"Zm 8"), None);
        assert_eq!(decode(b"__-_"), None);
        assert_eq!(decode_url(b"__-_").as_deref(), Some(&b"\xff\xff\xbf"[..]));
        assert_eq!(decode_url(b"//+/"), None);
    }
}
