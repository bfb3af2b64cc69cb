//! Variables of the request: its line, head, arguments, body and place on disk.
//!
//! nginx's counterpart: the first half of `ngx_http_variables.c`, `ngx_http_arg`, `ngx_http_parse_multi_header_lines`.

use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use headwater_wire::headers::{HeaderList, KnownHeader};
use headwater_wire::method::Method;

use crate::flow::error_log::Level;
use crate::modules::static_files;
use crate::request::Request;
use crate::request::body::Stored;

/// The client's own request.
fn main_of(r: &Request) -> &Request {
    let mut r = r;
    while let Some(parent) = &r.parent {
        r = parent;
    }
    r
}

pub(super) fn line(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(r.exchange.head.request_line());
    true
}

pub(super) fn method(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let sent = r.exchange.head.method_text();
    let method = main_of(r).method.get();
    let name = if method == Method::Other || method == r.exchange.head.line.method {
        sent
    } else {
        method.as_str().as_bytes()
    };
    out.extend_from_slice(name);
    !name.is_empty()
}

pub(super) fn unparsed_uri(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(r.exchange.head.unparsed_uri());
    !r.exchange.head.unparsed_uri().is_empty()
}

pub(super) fn protocol(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let head = &r.exchange.head;
    let protocol = head.headers.span(head.line.protocol);
    out.extend_from_slice(protocol);
    !protocol.is_empty()
}

pub(super) fn uri(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let uri = r.uri.borrow();
    out.extend_from_slice(&uri);
    !uri.is_empty()
}

pub(super) fn args(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let args = r.args.borrow();
    out.extend_from_slice(&args);
    !args.is_empty()
}

pub(super) fn set_args(r: &Request, value: &[u8]) {
    *r.args.borrow_mut() = Bytes::copy_from_slice(value);
    r.valid_unparsed_uri.set(false);
}

pub(super) fn is_args(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    if !r.args.borrow().is_empty() {
        out.push(b'?');
    }
    true
}

pub(super) fn arg(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    let args = r.args.borrow();
    let value = argument(&args, name);
    out.extend_from_slice(value.unwrap_or_default());
    value.is_some()
}

/// The value of an argument, its name compared without regard to case; the first one when there are several.
#[must_use]
pub fn argument<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if name.is_empty() {
        return None;
    }
    args.split(|byte| *byte == b'&').find_map(|pair| {
        let (head, tail) = pair.split_at_checked(name.len())?;
        if head.eq_ignore_ascii_case(name) { tail.strip_prefix(b"=") } else { None }
    })
}

pub(super) fn host(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let host = &r.exchange.head.host;
    if host.is_empty() {
        out.extend_from_slice(r.srv().name.as_bytes());
    } else {
        out.extend_from_slice(host);
    }
    true
}

fn named_port(r: &Request) -> Option<u16> {
    r.exchange.head.port.filter(|port| *port != 0)
}

pub(super) fn port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    if let Some(port) = named_port(r) {
        let _ = write!(out, "{port}");
    }
    true
}

pub(super) fn is_port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    if named_port(r).is_some() {
        out.push(b':');
    }
    true
}

/// Appends the values of all lines that a variable's suffix names, joined; `false` when there is none. A dash in the header's name is an
/// underscore in the variable's.
pub(super) fn join_lines(list: &HeaderList, name: &[u8], separator: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for line in list.iter().filter(|line| is_named(line.name, name)) {
        if found {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(line.value);
        found = true;
    }
    found
}

/// Whether a header's name is what a variable's suffix says.
pub(super) fn is_named(header: &[u8], suffix: &[u8]) -> bool {
    header.len() == suffix.len()
        && header.iter().zip(suffix).all(|(byte, wanted)| match byte {
            b'-' => *wanted == b'_',
            byte => byte.to_ascii_lowercase() == *wanted,
        })
}

/// Joins all lines of a known header.
fn join_known(r: &Request, known: KnownHeader, separator: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for value in r.exchange.head.headers.get_all_known(known) {
        if found {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value);
        found = true;
    }
    found
}

pub(super) fn header(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    join_lines(&r.exchange.head.headers, name, b", ", out)
}

macro_rules! known_headers {
    ($($getter:ident = $known:ident, $separator:expr;)*) => {
        $(pub(super) fn $getter(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
            join_known(r, KnownHeader::$known, $separator, out)
        })*
    };
}

known_headers! {
    http_host = Host, b", ";
    http_user_agent = UserAgent, b", ";
    http_referer = Referer, b", ";
    http_via = Via, b", ";
    http_x_forwarded_for = XForwardedFor, b", ";
    http_cookie = Cookie, b"; ";
    content_type = ContentType, b", ";
}

pub(super) fn cookie(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    let value =
        r.exchange.head.headers.get_all_known(KnownHeader::Cookie).find_map(|line| cookie_in(line, name));
    out.extend_from_slice(value.unwrap_or_default());
    value.is_some()
}

/// One cookie of a `Cookie` line; names are compared without regard to case.
pub fn cookie_in<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = line;
    while !rest.is_empty() {
        if let Some((head, tail)) = rest.split_at_checked(name.len())
            && head.eq_ignore_ascii_case(name)
            && let Some(value) = skip_spaces(tail).strip_prefix(b"=")
        {
            return skip_spaces(value).split(|byte| *byte == b';').next();
        }
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b';' | b','))
            .map_or(rest.len(), |at| at.saturating_add(1));
        rest = skip_spaces(rest.get(end..).unwrap_or_default());
    }
    None
}

fn skip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

pub(super) fn content_length(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let head = &r.exchange.head;
    if let Some(value) = head.headers.get_known(KnownHeader::ContentLength) {
        out.extend_from_slice(value);
        return true;
    }
    let body = &r.exchange.body;
    if body.is_chunked() && body.is_complete() {
        let _ = write!(out, "{}", body.received());
        return true;
    }
    false
}

pub(super) fn body(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match &*r.exchange.body.stored.borrow() {
        Stored::Memory(bytes) => {
            out.extend_from_slice(bytes);
            true
        }
        Stored::None | Stored::File(..) => false,
    }
}

pub(super) fn body_file(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match &*r.exchange.body.stored.borrow() {
        Stored::File(file, _) => {
            let path = file.path().map(|path| path.as_os_str().as_encoded_bytes());
            out.extend_from_slice(path.unwrap_or_default());
            path.is_some()
        }
        Stored::None | Stored::Memory(_) => false,
    }
}

/// Bytes of the request so far: head and body as they came over the wire.
#[must_use]
pub fn request_length(r: &Request) -> u64 {
    (r.exchange.head.length as u64).saturating_add(r.exchange.body.wire_bytes.get())
}

pub(super) fn length(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", request_length(r));
    true
}

/// Milliseconds since the first byte of the request.
#[must_use]
pub fn request_time_ms(r: &Request) -> u64 {
    super::connection::millis(headwater_io::clock::now().saturating_duration_since(r.exchange.start))
}

pub(super) fn time(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    super::connection::seconds(request_time_ms(r), out);
    true
}

pub(super) fn id(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let id = match r.exchange.request_id.get() {
        Some(id) => id,
        None => {
            let id = random_id();
            r.exchange.request_id.set(Some(id));
            id
        }
    };
    out.extend_from_slice(&id);
    true
}

fn random_id() -> [u8; 32] {
    let mut random = [0_u8; 16];
    // The kernel gives up to 256 bytes at once; before its pool is ready the clock must do.
    if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_err() {
        random = headwater_io::clock::unix_now().as_nanos().to_be_bytes();
    }
    let mut text = [0_u8; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
        for (digit, value) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = char::from_digit(u32::from(value), 16).map_or(b'0', |c| c as u8);
        }
    }
    text
}

pub(super) fn filename(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let uri = r.uri.borrow().clone();
    out.extend_from_slice(&static_files::map_path(r, &uri));
    true
}

pub(super) fn document_root(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&static_files::document_root(r));
    true
}

pub(super) fn realpath_root(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let root = static_files::document_root(r);
    match std::fs::canonicalize(Path::new(std::ffi::OsStr::from_bytes(&root))) {
        Ok(path) => {
            out.extend_from_slice(path.as_os_str().as_bytes());
            true
        }
        Err(error) => {
            let shown = String::from_utf8_lossy(&root);
            let text = crate::flow::os_error(&error);
            r.log(Level::Crit, format_args!("realpath() \"{shown}\" failed {text}"));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_is_found_whole_and_without_case() {
        let args = b"xa=0&a=1&A=2&b&c==&=z&abc=9";
        assert_eq!(argument(args, b"a"), Some(&b"1"[..]));
        assert_eq!(argument(args, b"XA"), Some(&b"0"[..]));
        assert_eq!(argument(args, b"b"), None);
        assert_eq!(argument(args, b"c"), Some(&b"="[..]));
        assert_eq!(argument(args, b"ab"), None);
        assert_eq!(argument(args, b""), None);
        assert_eq!(argument(b"", b"a"), None);
    }

    #[test]
    fn cookie_odd_lines_read_as_nginx_does() {
        assert_eq!(cookie_in(b"a=1; b=2", b"b"), Some(&b"2"[..]));
        assert_eq!(cookie_in(b"ab=1; a = x y ;b=2", b"A"), Some(&b"x y "[..]));
        assert_eq!(cookie_in(b"x=1,a=2;c", b"a"), Some(&b"2"[..]));
        assert_eq!(cookie_in(b"c; a", b"a"), None);
        assert_eq!(cookie_in(b"", b"a"), None);
    }

    #[test]
    fn header_names_map_dashes_to_underscores() {
        assert!(is_named(b"X-Forwarded-For", b"x_forwarded_for"));
        assert!(is_named(b"x_y", b"x_y"));
        assert!(!is_named(b"x-y", b"x-y"));
        let mut list = HeaderList::new();
        list.push(b"X-A", b"1");
        list.push(b"x-a", b"2");
        let mut out = Vec::new();
        assert!(join_lines(&list, b"x_a", b", ", &mut out));
        assert_eq!(out, b"1, 2");
        assert!(!join_lines(&list, b"x_b", b", ", &mut out));
    }

    #[test]
    fn random_ids_are_hexadecimal_and_differ() {
        let (a, b) = (random_id(), random_id());
        assert_ne!(a, b);
        assert!(a.iter().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    }
}
