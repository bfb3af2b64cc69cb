//! Validation of a host and port as sent in a request line, a `Host` header or `:authority`.
//!
//! Called by [`crate::http1::semantics`] and the HTTP/2 head room. RFC 3986 §3.2.2 and §3.2.3 as nginx ≥ 1.29.4
//! checks them: no user info, bracketed literals, digits for a port. nginx counterpart: `ngx_http_validate_host`.

use std::borrow::Cow;
use std::fmt;

/// The text is not a host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError;

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid host")
    }
}

impl std::error::Error for HostError {}

/// Splits and checks `host[:port]`: the lower-cased host without port and without one trailing dot (brackets stay),
/// and the port if one was given. `host:` has no port. Borrows from the input when it is lower-case already.
///
/// # Errors
/// The host is empty, has two dots in a row, holds a character RFC 3986 does not allow, or the port is not a number
/// up to 65535.
pub fn validate(text: &[u8]) -> Result<(Cow<'_, [u8]>, Option<u16>), HostError> {
    let (host, port) = split(text)?;
    let has_upper = if host.first() == Some(&b'[') { literal(host) } else { name(host) }?;
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.is_empty() {
        return Err(HostError);
    }
    let port = match port {
        None | Some(b"") => None,
        Some(digits) => Some(parse_port(digits)?),
    };
    let host = if has_upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) };
    Ok((host, port))
}

/// Whether `byte` may stand in a registered name or IPv4 address: unreserved, sub-delims, `%`.
pub(crate) const fn is_host_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// Whether `byte` may stand between the brackets of a literal.
pub(crate) fn is_literal_char(byte: u8) -> bool {
    byte == b':' || (is_host_char(byte) && byte != b'%')
}

/// What a byte is in a name; 0 for one that may not stand there.
static CLASS: [u8; 256] = classes();
const PLAIN: u8 = 1;
const UPPER: u8 = 2;
const DOT: u8 = 4;

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let ch = byte as u8;
        table[byte] = match ch {
            b'.' => DOT,
            b'A'..=b'Z' => UPPER,
            _ if is_host_char(ch) => PLAIN,
            _ => 0,
        };
        byte += 1;
    }
    table
}

/// Checks a registered name or IPv4 address; gives whether it has upper-case letters.
fn name(host: &[u8]) -> Result<bool, HostError> {
    let (mut seen, mut before) = (0, 0);
    for byte in host {
        let class = CLASS[*byte as usize];
        if class == 0 || class & before & DOT != 0 {
            return Err(HostError);
        }
        seen |= class;
        before = class;
    }
    Ok(seen & UPPER != 0)
}

/// Checks a bracketed literal; gives whether it has upper-case letters.
fn literal(host: &[u8]) -> Result<bool, HostError> {
    let [b'[', inner @ .., b']'] = host else { return Err(HostError) };
    if !inner.iter().all(|byte| is_literal_char(*byte)) || inner.windows(2).any(|pair| pair == b"..") {
        return Err(HostError);
    }
    Ok(inner.iter().any(u8::is_ascii_uppercase))
}

/// Cuts the port off: behind the closing bracket for a literal, else at the first colon.
fn split(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), HostError> {
    let from = match text.first() {
        Some(b'[') => memchr::memchr(b']', text).ok_or(HostError)? + 1,
        _ => memchr::memchr(b':', text).unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(from).ok_or(HostError)?;
    match rest {
        [] => Ok((host, None)),
        [b':', port @ ..] => Ok((host, Some(port))),
        _ => Err(HostError),
    }
}

fn parse_port(digits: &[u8]) -> Result<u16, HostError> {
    digits.iter().try_fold(0u16, |port, &byte| {
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0')).ok_or(HostError)?;
        port.checked_mul(10).and_then(|port| port.checked_add(digit)).ok_or(HostError)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<(&str, Option<u16>)>) {
        let got = validate(text.as_bytes()).ok();
        let got = got.as_ref().map(|(host, port)| (std::str::from_utf8(host).unwrap(), *port));
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn validate_good_hosts_gives_host_and_port() {
        check("example.com", Some(("example.com", None)));
        check("Example.COM.:8080", Some(("example.com", Some(8080))));
        check("a_b~c%41!$&'()*+,;=", Some(("a_b~c%41!$&'()*+,;=", None)));
        check("[::1]", Some(("[::1]", None)));
        check("[FE80::1]:443", Some(("[fe80::1]", Some(443))));
        check("h:", Some(("h", None)));
        check("h:65535", Some(("h", Some(65535))));
    }

    #[test]
    fn validate_bad_hosts_fails() {
        for text in [
            "", ".", ":80", "a..b", "a/b", "a b", "user@h", "h:65536", "h:8a", "h:-1", "[::1", "::1",
            "[::1]x", "a\0", "a\x7f", "\u{e9}", "[a/b]", "h:80:80", "a[b]", "..", "h?x", "h#x", "a\\b",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn validate_lower_case_host_borrows() {
        assert!(matches!(validate(b"a.b:1"), Ok((Cow::Borrowed(b"a.b"), Some(1)))));
    }
}
