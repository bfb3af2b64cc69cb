//! Credentials of Basic authentication (RFC 7617), for `$remote_user` and `auth_basic`.
//!
//! nginx's counterpart: `ngx_http_auth_basic_user`.

use headwater_wire::base64;
use headwater_wire::headers::KnownHeader;
use headwater_wire::method::Method;

use crate::request::Request;

/// User and password of the `Authorization` header (`Proxy-Authorization` for CONNECT); `None` when there are none that can be read.
#[must_use]
pub fn basic_credentials(r: &Request) -> Option<(Vec<u8>, Vec<u8>)> {
    let headers = &r.exchange.head.headers;
    let line = if r.method.get() == Method::Connect {
        headers.get(b"proxy-authorization")
    } else {
        headers.get_known(KnownHeader::Authorization)
    };
    credentials(line?)
}

pub(super) fn remote_user(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match basic_credentials(r) {
        Some((user, _)) => {
            out.extend_from_slice(&user);
            true
        }
        None => false,
    }
}

fn credentials(line: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, rest) = line.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    let mut user = base64::decode(rest.get(spaces..).unwrap_or_default())?;
    let colon = user.iter().position(|byte| *byte == b':').filter(|at| *at > 0)?;
    let password = user.split_off(colon).get(1..).unwrap_or_default().to_vec();
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(line: &str) -> Option<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        credentials(line.as_bytes()).map(|(user, password)| (text(user), text(password)))
    }

    #[test]
    fn credentials_good_lines_are_split_at_the_first_colon() {
        let known = Some(("Aladdin".into(), "open sesame".into()));
        assert_eq!(pair("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), known);
        assert_eq!(pair("bASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ"), known);
        assert_eq!(pair("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
    }

    #[test]
    fn credentials_bad_lines_are_none() {
        for line in [
            "",
            "Basic",
            "Basic ",
            "Digest QWxh",
            "Basic QWxhZGRpbg==",
            "Basic Og==",
            "Basic Q",
            "Basic Q$$=",
            "Basic =",
        ] {
            assert_eq!(pair(line), None, "{line}");
        }
    }
}
