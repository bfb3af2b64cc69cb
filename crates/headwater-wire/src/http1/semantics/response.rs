//! What the head of a response means for its body.
//!
//! Called by the proxy after the response parser. nginx counterparts: `ngx_http_upstream_process_content_length`,
//! `ngx_http_upstream_process_transfer_encoding`, `ngx_http_upstream_process_connection`.

use super::{SemanticsError, contains_ignore_case, parse_length};
use crate::headers::{HeaderList, KnownHeader};

/// How the body of a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// The response to HEAD, or 1xx, 204, 304: no body whatever the headers say.
    None,
    /// `Content-Length`, in bytes; at most `i64::MAX`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Everything until the connection is closed.
    Close,
}

/// How the body of a response with this status and these headers is framed; `head` says that the request was HEAD.
///
/// # Errors
/// 502 for a repeated or bad `Content-Length`, a repeated `Transfer-Encoding`, both together, or a transfer coding
/// other than a lone `chunked`, also where no body is expected.
pub fn response_framing(
    status: u16,
    head: bool,
    headers: &HeaderList,
) -> Result<ResponseFraming, SemanticsError> {
    let mut length = None;
    let mut coding = None;
    for line in headers.lines() {
        let (mine, other) = match line.known {
            KnownHeader::ContentLength => (&mut length, &coding),
            KnownHeader::TransferEncoding => (&mut coding, &length),
            _ => continue,
        };
        if mine.is_some() {
            return Err(SemanticsError::duplicate(502, "upstream sent duplicate header line", *line, *mine));
        }
        if other.is_some() {
            let message =
                "upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time";
            return Err(SemanticsError::new(502, message));
        }
        *mine = Some(*line);
    }
    let framing = match (length, coding) {
        (Some(line), _) => match parse_length(headers.span(line.value)) {
            Some(length) => ResponseFraming::Length(length),
            None => {
                let message = "upstream sent invalid \"Content-Length\" header";
                return Err(SemanticsError::duplicate(502, message, line, None));
            }
        },
        (None, Some(line)) if headers.span(line.value).eq_ignore_ascii_case(b"chunked") => {
            ResponseFraming::Chunked
        }
        (None, Some(line)) => {
            return Err(SemanticsError::duplicate(
                502,
                "upstream sent unknown \"Transfer-Encoding\"",
                line,
                None,
            ));
        }
        (None, None) => ResponseFraming::Close,
    };
    let bodiless = head || matches!(status, 100..=199 | 204 | 304);
    Ok(if bodiless { ResponseFraming::None } else { framing })
}

/// Whether any `Connection` line of a response holds `close` (anywhere in it, as nginx looks for it).
#[must_use]
pub fn response_connection_close(headers: &HeaderList) -> bool {
    headers.get_all_known(KnownHeader::Connection).any(|value| contains_ignore_case(value, b"close"))
}
