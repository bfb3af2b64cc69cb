//! Whether a client accepts a content coding.
//!
//! Called by the gzip, gzip_static and gunzip modules. A simple reading of `Accept-Encoding` that nginx and therefore
//! existing caches agree on; `*` is not looked at. nginx counterparts: `ngx_http_gzip_accept_encoding`,
//! `ngx_http_gzip_quantity`.

/// Whether the value of `Accept-Encoding` accepts gzip.
#[must_use]
pub fn accepts_gzip(value: &[u8]) -> bool {
    accepts(value, b"gzip")
}

/// Whether the value of `Accept-Encoding` names `coding` with a weight above 0. Only the first mention counts.
#[must_use]
pub fn accepts(value: &[u8], coding: &[u8]) -> bool {
    let mut from = 0;
    let behind = loop {
        let rest = value.get(from..).unwrap_or_default();
        let Some(at) = rest.windows(coding.len().max(1)).position(|part| part.eq_ignore_ascii_case(coding))
        else {
            return false;
        };
        let begins = match at.checked_sub(1).and_then(|before| rest.get(before)) {
            // behind an earlier mention that did not count, nginx takes a mention without looking back
            None => true,
            Some(&before) => before == b',' || before == b' ',
        };
        from += at + coding.len();
        if begins {
            break value.get(from..).unwrap_or_default();
        }
    };
    match skip_spaces(behind) {
        [] | [b',', ..] => true,
        [b';', parameter @ ..] => weight(parameter),
        _ => false,
    }
}

/// What stands behind `;`: nothing, or `q=` and a weight above 0.
fn weight(parameter: &[u8]) -> bool {
    match skip_spaces(parameter) {
        [] => true,
        [b'q' | b'Q', b'=', digits @ ..] => quantity(digits) > 0,
        _ => false,
    }
}

/// A weight in hundredths, roughly: only whether it is 0 matters. Malformed weights are 0.
fn quantity(text: &[u8]) -> u32 {
    let (whole, rest) = match text {
        [b'0', rest @ ..] => (0, rest),
        [b'1', rest @ ..] => (100, rest),
        _ => return 0,
    };
    let fraction = match rest {
        [] | [b',' | b' ', ..] => return whole,
        [b'.', fraction @ ..] => fraction,
        _ => return 0,
    };
    let end = fraction.iter().position(|&byte| byte == b',' || byte == b' ').unwrap_or(fraction.len());
    let digits = fraction.get(..end).unwrap_or_default();
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let sum = whole + digits.iter().map(|&byte| u32::from(byte - b'0')).sum::<u32>();
    if sum > 100 { 0 } else { sum }
}

fn skip_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_gzip_named_with_weight() {
        for value in [
            "gzip",
            "GZip",
            "gzip, deflate",
            "deflate,gzip",
            "deflate, gzip ;q=0.5",
            "gzip;q=1",
            "gzip;q=1.000",
            "gzip; q=0.001",
            "gzip;",
            "gzip ; Q=0.9, br",
            "x-gzip, gzip",
        ] {
            assert!(accepts_gzip(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn accepts_gzip_not_when_absent_or_refused() {
        for value in [
            "",
            "gzi",
            "br",
            "*",
            "x-gzip",
            "gzipx",
            "gzip;q=0",
            "gzip;q=0.0",
            "gzip;q=0.000",
            "gzip;q=2",
            "gzip;q=1.1",
            "gzip;q=0.0001",
            "gzip;q=",
            "gzip;x=1",
            "gzip;q=0,gzip",
            "gzip/2",
            "gzip;q=0.x",
        ] {
            assert!(!accepts_gzip(value.as_bytes()), "{value}");
        }
    }
}
