//! What the head of a CGI response means, and how much of its body is to come.
//!
//! Called by the protocols with a complete head. nginx's counterpart: the end of `ngx_http_fastcgi_process_header` and `ngx_http_scgi_process_header`,
//! `ngx_http_scgi_input_filter_init`.

use bytes::Bytes;
use headwater_wire::cgi;
use headwater_wire::headers::{HeaderList, Span};
use headwater_wire::http1::ResponseError;
use headwater_wire::http1::semantics::{ResponseFraming, response_framing};
use headwater_wire::method::Method;

use crate::flow::error_log::Level;
use crate::request::Request;
use crate::upstream::protocol::{ResponseHead, log};

/// How much of a body is to come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::modules) enum Rest {
    /// Whatever comes.
    Unknown,
    /// Nothing has to come, as the request was HEAD; when something does, it is this much.
    Head(Option<u64>),
    /// Exactly this much, bytes.
    Length(u64),
}

impl Rest {
    /// Takes body bytes that came: how many of them count. What is beyond the length is logged.
    pub(in crate::modules) fn take(&mut self, r: &Request, scheme: &str, count: usize) -> usize {
        if let Rest::Head(declared) = self {
            *self = declared.map_or(Rest::Unknown, Rest::Length);
        }
        let Rest::Length(left) = self else { return count };
        let counted = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
        *left = left.saturating_sub(counted as u64);
        if counted < count {
            let text = "upstream sent more data than specified in \"Content-Length\" header";
            log(r, scheme, b"", Level::Warn, format_args!("{text}"));
        }
        counted
    }

    /// Whether more has to come.
    pub(in crate::modules) fn is_missing(self) -> bool {
        matches!(self, Rest::Length(left) if left > 0)
    }
}

/// Makes a complete head the response's; `line` is the status line, code and text, if there was one. An error is a text for the log.
pub(in crate::modules) fn take_head(
    r: &Request,
    headers: HeaderList,
    line: Option<(u16, Bytes)>,
    head: &mut ResponseHead,
) -> Result<Rest, String> {
    let invalid =
        |value: &[u8]| format!("upstream sent invalid status \"{}\"", String::from_utf8_lossy(value));
    let (code, line) = match line {
        Some((code, text)) if code < 100 => return Err(invalid(&text)),
        Some((code, text)) => (code, Some(text)),
        None => {
            let status = cgi::status(&headers).map_err(invalid)?;
            (status.code, status.line.map(Bytes::copy_from_slice))
        }
    };
    let framing = response_framing(200, false, &headers)
        .map_err(|error| String::from_utf8_lossy(&error.describe(&headers)).into_owned())?;
    let length = match framing {
        ResponseFraming::Length(length) => Some(length),
        _ => None,
    };
    head.status = code;
    head.status_line = line;
    head.content_length = length;
    head.headers = headers;
    Ok(match (code, length) {
        (204 | 304, _) => Rest::Length(0),
        _ if r.method.get() == Method::Head => Rest::Head(length),
        (_, Some(length)) => Rest::Length(length),
        (_, None) => Rest::Unknown,
    })
}

/// The text for the log about a header line that was refused: the line up to the byte behind `offending`, and that byte.
pub(in crate::modules) fn invalid_line(error: ResponseError, offending: Span, head: &[u8]) -> String {
    let line = String::from_utf8_lossy(offending.get(head)).into_owned();
    let bad = head.get(offending.end()).copied().unwrap_or_default();
    format!("{}: \"{line}\\x{bad:02x}...\"", error.message())
}
