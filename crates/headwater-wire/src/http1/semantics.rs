//! What a head means: how the body is framed, whether the connection lives on, which host is asked for.
//!
//! Called by the head-reading room after [`super::request`] and by the proxy after [`super::response`]. Every rule
//! against request smuggling that needs more than one header is here. nginx counterparts:
//! `ngx_http_process_unique_header_line`, `ngx_http_process_host`, `ngx_http_process_request_header`.

mod response;

use std::fmt;

use super::request::{RequestLine, Version};
use crate::headers::{HeaderList, KnownHeader, Line, Span};
use crate::host;
use crate::method::Method;

pub use response::{ResponseFraming, response_connection_close, response_framing};

/// How the body of a request is framed (RFC 9112 §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither header: no body.
    #[default]
    None,
    /// `Content-Length`, in bytes; at most `i64::MAX`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A validated host: lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidHost {
    /// Where it lies in the arena of the headers, in the case it was sent in.
    span: Span,
    /// The lower-case copy, only if the text sent was not lower-case.
    lower: Option<Box<[u8]>>,
}

impl ValidHost {
    /// The host; `buffer` is [`HeaderList::buffer`] of the headers that were checked.
    #[must_use]
    pub fn get<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        self.lower.as_deref().unwrap_or_else(|| self.span.get(buffer))
    }
}

/// What a request head means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestSemantics {
    /// How the body is framed.
    pub framing: BodyFraming,
    /// The client lets the connection live on, by version and `Connection`.
    pub keep_alive: bool,
    /// `Connection` holds `close`.
    pub connection_close: bool,
    /// `Connection` holds `keep-alive`, and no `close` in the same line or a later one.
    pub connection_keep_alive: bool,
    /// `Connection` lists `upgrade`.
    pub upgrade: bool,
    /// `Expect: 100-continue` in HTTP/1.1 or later.
    pub expect_continue: bool,
    /// The host of the request line, else of `Host`.
    pub host: Option<ValidHost>,
    /// The port given with that host.
    pub port: Option<u16>,
}

/// Why a head is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemanticsError {
    /// The status nginx answers with (400, 405, 501); 502 for a response.
    pub status: u16,
    /// nginx's error-log text, without the header lines that may follow it.
    pub message: &'static str,
    /// The line at fault.
    pub line: Option<Line>,
    /// The earlier line it contradicts.
    pub previous: Option<Line>,
}

impl SemanticsError {
    fn new(status: u16, message: &'static str) -> Self {
        Self { status, message, line: None, previous: None }
    }

    fn duplicate(status: u16, message: &'static str, line: Line, previous: Option<Line>) -> Self {
        Self { status, message, line: Some(line), previous }
    }

    /// The whole error-log text: the message with the lines at fault, as nginx writes it.
    #[must_use]
    pub fn describe(&self, headers: &HeaderList) -> Vec<u8> {
        let mut text = self.message.as_bytes().to_vec();
        let mut quote = |before: &str, line: &Line| {
            let line = headers.line(line);
            text.extend_from_slice(before.as_bytes());
            for part in [line.name, b": ", line.value, b"\""] {
                text.extend_from_slice(part);
            }
        };
        if let Some(line) = &self.line {
            quote(": \"", line);
        }
        if let Some(previous) = &self.previous {
            quote(", previous value: \"", previous);
        }
        text
    }
}

impl fmt::Display for SemanticsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for SemanticsError {}

/// Checks a request head and says what it means. `headers` has adopted the head `line` was parsed from.
///
/// CONNECT is not refused here: the caller answers 405 where no tunnel is configured. TRACE is.
///
/// # Errors
/// 400 for repeated singletons, a bad or missing host, a bad length, `Transfer-Encoding` with HTTP/1.0 or with
/// `Content-Length`; 501 for a transfer coding other than chunked; 405 for TRACE.
pub fn check(line: &RequestLine, headers: &HeaderList) -> Result<RequestSemantics, SemanticsError> {
    let mut found = RequestSemantics { keep_alive: line.version == Version::Http11, ..Default::default() };
    if let Some(span) = line.host {
        let end = line.port.map_or_else(|| span.end(), |port| port.end());
        let authority = Span::between(span.start as usize, end);
        found
            .take_host(authority, headers)
            .ok_or_else(|| SemanticsError::new(400, "client sent invalid host in request line"))?;
    }
    if line.version == Version::Http09 {
        return Ok(found);
    }
    let mut seen = Seen::default();
    for header in headers.lines() {
        found.take_line(header, headers, &mut seen)?;
    }
    if seen.host.is_none() && line.version == Version::Http11 {
        return Err(SemanticsError::new(400, "client sent HTTP/1.1 request without \"Host\" header"));
    }
    found.framing = request_framing(line.version, headers, &seen)?;
    found.expect_continue &= line.version == Version::Http11;
    if found.connection_close || found.connection_keep_alive {
        found.keep_alive = found.connection_keep_alive;
    }
    if line.method == Method::Trace {
        return Err(SemanticsError::new(405, "client sent TRACE method"));
    }
    Ok(found)
}

/// The singletons met so far.
#[derive(Default)]
struct Seen {
    /// One bit for each known header that may not be repeated.
    bits: u64,
    host: Option<Line>,
    length: Option<Line>,
    coding: Option<Line>,
}

impl RequestSemantics {
    fn take_line(
        &mut self,
        line: &Line,
        headers: &HeaderList,
        seen: &mut Seen,
    ) -> Result<(), SemanticsError> {
        match line.known {
            KnownHeader::Other => return Ok(()),
            KnownHeader::Host => return self.take_host_header(line, headers, seen),
            KnownHeader::Connection => self.take_connection(headers.span(line.value)),
            KnownHeader::ContentLength => seen.unique(0, line, headers)?,
            KnownHeader::TransferEncoding => seen.unique(1, line, headers)?,
            KnownHeader::Expect => {
                seen.unique(2, line, headers)?;
                self.expect_continue = headers.span(line.value).eq_ignore_ascii_case(b"100-continue");
            }
            KnownHeader::IfModifiedSince => seen.unique(3, line, headers)?,
            KnownHeader::IfUnmodifiedSince => seen.unique(4, line, headers)?,
            KnownHeader::IfMatch => seen.unique(5, line, headers)?,
            KnownHeader::IfNoneMatch => seen.unique(6, line, headers)?,
            KnownHeader::IfRange => seen.unique(7, line, headers)?,
            KnownHeader::ContentRange => seen.unique(8, line, headers)?,
            KnownHeader::Authorization => seen.unique(9, line, headers)?,
            _ => {}
        }
        match line.known {
            KnownHeader::ContentLength => seen.length = Some(*line),
            KnownHeader::TransferEncoding => seen.coding = Some(*line),
            _ => {}
        }
        Ok(())
    }

    fn take_host_header(
        &mut self,
        line: &Line,
        headers: &HeaderList,
        seen: &mut Seen,
    ) -> Result<(), SemanticsError> {
        if let Some(previous) = seen.host {
            return Err(SemanticsError::duplicate(
                400,
                "client sent duplicate host header",
                *line,
                Some(previous),
            ));
        }
        seen.host = Some(*line);
        let mut from_header = RequestSemantics::default();
        let target = if self.host.is_none() { self } else { &mut from_header };
        target
            .take_host(line.value, headers)
            .ok_or_else(|| SemanticsError::new(400, "client sent invalid host header"))
    }

    /// Validates the host and port at `span` and keeps them.
    fn take_host(&mut self, span: Span, headers: &HeaderList) -> Option<()> {
        let (name, port) = host::validate(headers.span(span)).ok()?;
        let len = u32::try_from(name.len()).ok()?;
        let lower = match name {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(name) => Some(name.into_boxed_slice()),
        };
        self.host = Some(ValidHost { span: Span { start: span.start, len }, lower });
        self.port = port;
        Some(())
    }

    /// nginx looks for the words anywhere in the value; the last line that holds one of them decides.
    fn take_connection(&mut self, value: &[u8]) {
        if contains_ignore_case(value, b"close") {
            self.connection_close = true;
            self.connection_keep_alive = false;
        } else if contains_ignore_case(value, b"keep-alive") {
            self.connection_keep_alive = true;
            self.connection_close = false;
        }
        self.upgrade |= lists_token(value, b"upgrade");
    }
}

impl Seen {
    fn unique(&mut self, bit: u32, line: &Line, headers: &HeaderList) -> Result<(), SemanticsError> {
        let mask = 1 << bit;
        if self.bits & mask != 0 {
            let previous = headers.lines().iter().find(|other| other.known == line.known).copied();
            return Err(SemanticsError::duplicate(400, "client sent duplicate header line", *line, previous));
        }
        self.bits |= mask;
        Ok(())
    }
}

fn request_framing(
    version: Version,
    headers: &HeaderList,
    seen: &Seen,
) -> Result<BodyFraming, SemanticsError> {
    let length = match seen.length {
        None => None,
        Some(line) => Some(
            parse_length(headers.span(line.value))
                .ok_or_else(|| SemanticsError::new(400, "client sent invalid \"Content-Length\" header"))?,
        ),
    };
    let Some(coding) = seen.coding else {
        return Ok(length.map_or(BodyFraming::None, BodyFraming::Length));
    };
    if version < Version::Http11 {
        let message = "client sent HTTP/1.0 request with \"Transfer-Encoding\" header";
        return Err(SemanticsError::new(400, message));
    }
    if !headers.span(coding.value).eq_ignore_ascii_case(b"chunked") {
        let mut error = SemanticsError::new(501, "client sent unknown \"Transfer-Encoding\"");
        error.line = Some(coding);
        return Err(error);
    }
    if length.is_some() {
        let message = "client sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time";
        return Err(SemanticsError::new(400, message));
    }
    Ok(BodyFraming::Chunked)
}

/// A decimal number of bytes: digits only, at least one, at most `i64::MAX`.
#[must_use]
pub fn parse_length(digits: &[u8]) -> Option<u64> {
    const MAX: u64 = i64::MAX as u64;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit).filter(|&value| value <= MAX)
    })
}

/// Whether a comma-separated list holds `token` (ASCII case ignored, spaces and tabs around it allowed).
#[must_use]
pub fn lists_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether `text` holds `word` anywhere (ASCII case ignored).
fn contains_ignore_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests;
