//! The response head, filtered and written as HTTP/1.
//!
//! Called by content handlers and `flow::special` through `Request::send_header`. nginx's counterpart: `ngx_http_header_filter`,
//! `ngx_http_chunked_header_filter`.

use std::io::Write as _;

use headwater_wire::escape::{Escape, escape_uri};
use headwater_wire::headers::KnownHeader;
use headwater_wire::http1::request::Version;
use headwater_wire::method::Method;

use super::output::{Framing, SendError};
use super::special::server_text;
use super::status::reason;
use crate::request::{HeadersOut, Request};

impl Request {
    /// Runs the header filters and hands the head to the output. Does nothing the second time.
    pub fn send_header(&self) -> Result<(), SendError> {
        if self.header_sent.get() {
            return Ok(());
        }
        let error_status = self.error_status.get();
        if error_status != 0 {
            let mut out = self.headers_out.borrow_mut();
            out.status = error_status;
            out.status_line = None;
        }
        if self.post_action.get() {
            self.header_sent.set(true);
            return Ok(());
        }
        self.ask_for_unread_body();
        self.run_header_filters()?;
        self.header_sent.set(true);
        self.output.header(self)
    }
}

/// Writes the HTTP/1 head and decides the framing of the body.
pub(super) fn write_http1(r: &Request, buffer: &mut Vec<u8>) -> Framing {
    let head = &r.exchange.head;
    let core = &r.loc().core;
    let mut out = r.headers_out.borrow_mut();
    let status = out.status();
    if status == 204 || status == 304 {
        r.header_only.set(true);
    }
    if status == 204 {
        out.content_length = None;
        out.content_type = None;
    }
    if !matches!(status, 200 | 206 | 304) {
        // The time is that of a file; an error page is not what was asked for.
        out.last_modified = None;
    }
    let framing = framing(r, &out, status);
    if framing == Framing::Chunked {
        // The length may be known when only the trailers ask for chunks.
        out.content_length = None;
    }
    buffer.extend_from_slice(b"HTTP/1.1 ");
    write_status(&out, status, buffer);
    write_own_headers(r, &out, buffer);
    write_entity_headers(&out, buffer);
    let location_left = write_absolute_location(r, &mut out, buffer);
    if framing == Framing::Chunked {
        buffer.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if framing == Framing::UntilClose {
        r.close_after();
    }
    if opens_tunnel(r, status) {
        // The connection is one from end to end now.
    } else if status == 101 {
        buffer.extend_from_slice(b"Connection: upgrade\r\n");
    } else if r.exchange.keepalive.get() {
        buffer.extend_from_slice(b"Connection: keep-alive\r\n");
        if let Some(seconds) = core.keepalive_timeout.header {
            let _ = write!(buffer, "Keep-Alive: timeout={seconds}\r\n");
        }
    } else {
        buffer.extend_from_slice(b"Connection: close\r\n");
    }
    if out.vary_accept_encoding {
        buffer.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
    if let Some(location) = location_left {
        field(buffer, b"Location", &location);
    }
    for line in out.list.iter() {
        field(buffer, line.name, line.value);
    }
    if out.allow_ranges {
        buffer.extend_from_slice(b"Accept-Ranges: bytes\r\n");
    }
    buffer.extend_from_slice(b"\r\n");
    if head.version() == Version::Http09 {
        buffer.clear();
    }
    framing
}

fn write_status(out: &HeadersOut, status: u16, buffer: &mut Vec<u8>) {
    match &out.status_line {
        Some(line) => buffer.extend_from_slice(line),
        None => {
            buffer.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
            buffer.push(b' ');
            buffer.extend_from_slice(reason(status).as_bytes());
        }
    }
    buffer.extend_from_slice(b"\r\n");
}

fn field(buffer: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    buffer.reserve(name.len().saturating_add(value.len()).saturating_add(4));
    buffer.extend_from_slice(name);
    buffer.extend_from_slice(b": ");
    buffer.extend_from_slice(value);
    buffer.extend_from_slice(b"\r\n");
}

fn write_own_headers(r: &Request, out: &HeadersOut, buffer: &mut Vec<u8>) {
    if !out.has_server {
        let server = server_text(r, &r.loc().core);
        if !server.is_empty() {
            field(buffer, b"Server", &server);
        }
    }
    if !out.has_date {
        headwater_io::clock::with_http_date(|date| field(buffer, b"Date", date));
    }
}

fn write_entity_headers(out: &HeadersOut, buffer: &mut Vec<u8>) {
    if let Some(kind) = out.content_type.as_ref().filter(|kind| !kind.is_empty()) {
        buffer.extend_from_slice(b"Content-Type: ");
        buffer.extend_from_slice(kind);
        if let Some(charset) = &out.charset {
            buffer.extend_from_slice(b"; charset=");
            buffer.extend_from_slice(charset);
        }
        buffer.extend_from_slice(b"\r\n");
    }
    if let Some(length) = out.content_length {
        field(buffer, b"Content-Length", itoa::Buffer::new().format(length).as_bytes());
    }
    if let Some(time) = out.last_modified
        && out.list.get_known(KnownHeader::LastModified).is_none()
    {
        field(buffer, b"Last-Modified", &headwater_io::clock::http_date(time));
    }
}

/// Writes `Location` when it starts with `/` and is to be absolute; otherwise gives it back for its place among the other headers.
fn write_absolute_location(r: &Request, out: &mut HeadersOut, buffer: &mut Vec<u8>) -> Option<bytes::Bytes> {
    let location = out.location.clone()?;
    let core = &r.loc().core;
    if !location.starts_with(b"/") || out.location_as_is || !core.absolute_redirect {
        return Some(location);
    }
    buffer.extend_from_slice(b"Location: ");
    let start = buffer.len();
    buffer.extend_from_slice(b"http://");
    let head = &r.exchange.head;
    let name = r.srv().name.as_bytes();
    if core.server_name_in_redirect && !name.is_empty() {
        buffer.extend_from_slice(name);
    } else if !head.host.is_empty() {
        buffer.extend_from_slice(&head.host);
    } else {
        r.connection().local().write_ip(buffer);
    }
    let port = r.connection().local().port();
    if core.port_in_redirect && port != 80 && port != 0 {
        let _ = write!(buffer, ":{port}");
    }
    buffer.extend_from_slice(&location);
    out.location = Some(buffer.get(start..).unwrap_or_default().to_vec().into());
    buffer.extend_from_slice(b"\r\n");
    None
}

/// Whether this is the answer to a `CONNECT` that succeeded, which has neither body nor length (RFC 9110 section 9.3.6).
fn opens_tunnel(r: &Request, status: u16) -> bool {
    r.method.get() == Method::Connect && (200..300).contains(&status)
}

fn framing(r: &Request, out: &HeadersOut, status: u16) -> Framing {
    let head = &r.exchange.head;
    if status == 101
        || opens_tunnel(r, status)
        || r.header_only.get()
        || status < 200
        || status == 204
        || status == 304
    {
        return Framing::None;
    }
    let wants_trailers = out.expect_trailers || !out.trailers.is_empty();
    match out.content_length {
        Some(length) if !(wants_trailers && head.version() == Version::Http11) => Framing::Length(length),
        Some(length) if !r.loc().core.chunked_transfer_encoding => Framing::Length(length),
        _ if head.version() == Version::Http11 && r.loc().core.chunked_transfer_encoding => Framing::Chunked,
        _ => Framing::UntilClose,
    }
}

/// A URI path escaped for a header.
#[must_use]
pub fn escaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    escape_uri(path, Escape::Uri, &mut out);
    out
}
