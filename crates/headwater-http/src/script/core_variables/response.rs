//! Variables of the response: its status, sizes, headers and trailers.
//!
//! nginx's counterpart: the `sent_http_` part of `ngx_http_variables.c`.

use std::cell::Ref;
use std::io::Write as _;

use bytes::Bytes;
use headwater_conf::value::parse_size;
use headwater_wire::http1::request::Version;

use super::request::{is_named, join_lines};
use crate::flow::error_log::Level;
use crate::flow::output::Framing;
use crate::request::{HeadersOut, Request};

/// The response head; `None` while it is being changed, as when `server_tokens` is written into it.
fn head(r: &Request) -> Option<Ref<'_, HeadersOut>> {
    r.headers_out.try_borrow().ok()
}

/// The status as the log shows it: 0 when nothing was decided, 9 for the same under HTTP/0.9.
#[must_use]
pub fn status(r: &Request) -> u16 {
    let error = r.error_status.get();
    if error != 0 {
        return error;
    }
    match head(r).map_or(0, |headers| headers.status) {
        0 if r.header_sent.get() => 200,
        0 if r.exchange.head.version() == Version::Http09 => 9,
        status => status,
    }
}

pub(super) fn status_variable(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{:03}", status(r));
    true
}

pub(super) fn bytes_sent(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", r.exchange.bytes_sent.get());
    true
}

/// Bytes sent without the head.
#[must_use]
pub fn body_bytes_sent(r: &Request) -> u64 {
    r.exchange.bytes_sent.get().saturating_sub(r.exchange.header_size.get())
}

pub(super) fn body_bytes_variable(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", body_bytes_sent(r));
    true
}

/// Whether the whole response was handed to the output.
#[must_use]
pub fn completion(r: &Request) -> bool {
    r.finished.get() && !r.truncated.get() && !r.connection().broken.get()
}

pub(super) fn completion_variable(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    if completion(r) {
        out.extend_from_slice(b"OK");
    }
    true
}

pub(super) fn limit_rate(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let rate = match r.limit_rate.get() {
        Some(rate) => rate,
        // Before the body begins only an assigned rate counts.
        None if r.header_sent.get() => r.loc().core.limit_rate.value(r),
        None => 0,
    };
    let _ = write!(out, "{rate}");
    true
}

pub(super) fn set_limit_rate(r: &Request, value: &[u8]) {
    match parse_size(value) {
        Some(rate) => r.limit_rate.set(Some(rate as u64)),
        None => {
            r.log(Level::Error, format_args!("invalid $limit_rate \"{}\"", String::from_utf8_lossy(value)))
        }
    }
}

/// Appends a field that may be unset; an empty one counts as unset.
fn field(value: Option<&Bytes>, out: &mut Vec<u8>) -> bool {
    let value = value.filter(|value| !value.is_empty());
    out.extend_from_slice(value.map_or(&[], |value| value.as_ref()));
    value.is_some()
}

pub(super) fn content_type(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(headers) = head(r) else { return false };
    if !field(headers.content_type.as_ref(), out) {
        return false;
    }
    if let Some(charset) = &headers.charset {
        out.extend_from_slice(b"; charset=");
        out.extend_from_slice(charset);
    }
    true
}

pub(super) fn content_length(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match head(r).and_then(|headers| headers.content_length) {
        Some(length) => {
            let _ = write!(out, "{length}");
            true
        }
        None => false,
    }
}

pub(super) fn location(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(headers) = head(r) else { return false };
    field(headers.location.as_ref(), out) || join_lines(&headers.list, b"location", b", ", out)
}

pub(super) fn last_modified(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(headers) = head(r) else { return false };
    if join_lines(&headers.list, b"last_modified", b", ", out) {
        return true;
    }
    match headers.last_modified {
        Some(time) => {
            out.extend_from_slice(&headwater_io::clock::http_date(time));
            true
        }
        None => false,
    }
}

pub(super) fn connection(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let value: &[u8] = if status(r) == 101 {
        b"upgrade"
    } else if r.exchange.keepalive.get() {
        b"keep-alive"
    } else {
        b"close"
    };
    out.extend_from_slice(value);
    true
}

pub(super) fn keep_alive(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match r.loc().core.keepalive_timeout.header {
        Some(seconds) if r.exchange.keepalive.get() => {
            let _ = write!(out, "timeout={seconds}");
            true
        }
        _ => false,
    }
}

pub(super) fn transfer_encoding(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let chunked = r.framing.get() == Framing::Chunked;
    if chunked {
        out.extend_from_slice(b"chunked");
    }
    chunked
}

pub(super) fn cache_control(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    head(r).is_some_and(|headers| join_lines(&headers.list, b"cache_control", b", ", out))
}

pub(super) fn link(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    head(r).is_some_and(|headers| join_lines(&headers.list, b"link", b", ", out))
}

pub(super) fn header(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(headers) = head(r) else { return false };
    let found = match name {
        // Announced when the head is complete: until then no value can see it.
        b"accept_ranges" if headers.allow_ranges && r.header_sent.get() => {
            out.extend_from_slice(b"bytes");
            true
        }
        _ => false,
    };
    found || join_lines(&headers.list, name, b", ", out)
}

pub(super) fn trailer(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(headers) = head(r) else { return false };
    let mut found = false;
    for (_, value) in headers.trailers.iter().filter(|(key, _)| is_named(key, name)) {
        if found {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(value);
        found = true;
    }
    found
}
