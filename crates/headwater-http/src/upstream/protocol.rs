//! The protocol callbacks: synchronous, without I/O, named as nginx names them. One engine does all waiting.
//!
//! A protocol sees bytes and says what they mean; it never learns how they travel. Implemented by `modules::proxy`, `modules::fastcgi`,
//! `modules::cgi` (SCGI and uwsgi), `modules::memcached` and `modules::tunnel`; called by `engine`.

use std::fmt;

use bytes::Bytes;
use headwater_wire::headers::HeaderList;

use crate::flow::error_log::Level;
use crate::request::Request;

/// What `process_header` made of the bytes so far.
#[derive(Debug)]
pub enum Header {
    /// More bytes are needed.
    Again,
    /// More bytes are needed; so many of the buffer are used up and not shown again.
    Skip(usize),
    /// The head is complete; it took this many bytes of the buffer.
    Ok(usize),
    /// The bytes are no response of this protocol: 502 or the next peer. The text is for the log; an empty one is not logged.
    Invalid(String),
}

/// What `input_filter` made of body bytes.
#[derive(Debug, Default)]
pub struct Piece {
    /// Bytes used up.
    pub consumed: usize,
    /// Where in the buffer body bytes stand.
    pub data: Option<std::ops::Range<usize>>,
    /// Whether the body is complete.
    pub done: bool,
}

/// A response head as the engine takes it.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// Code and reason as received.
    pub status_line: Option<Bytes>,
    /// Header lines.
    pub headers: HeaderList,
    /// The body's length, when known.
    pub content_length: Option<u64>,
    /// Whether the connection may carry another request after this response.
    pub keepalive: bool,
    /// Whether the connection becomes a tunnel.
    pub upgrade: bool,
}

/// One request's conversation with a back end.
pub trait Protocol {
    /// `http://` or another word for the error log.
    fn scheme(&self) -> &'static str;

    /// Whether connections are secured by TLS.
    fn is_secure(&self) -> bool {
        false
    }

    /// Whether there is no conversation: the connection becomes a tunnel as soon as there is one.
    fn is_tunnel(&self) -> bool {
        false
    }

    /// The URI in a request built by `create_request`, for the error log.
    fn uri<'b>(&self, request: &'b [u8]) -> &'b [u8] {
        let _ = request;
        &[]
    }

    /// Builds the request's head; called once per request, after the body was read when it is buffered.
    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16>;

    /// Forgets what was parsed; called before each further attempt. The bytes of `create_request` are sent again.
    fn reinit_request(&mut self, r: &Request);

    /// Encodes a piece of an unbuffered request body; `last` when the body is complete. Plain protocols append the bytes as they are.
    fn encode_body(&mut self, data: &[u8], last: bool, out: &mut Vec<u8>) {
        let _ = last;
        out.extend_from_slice(data);
    }

    /// Whether stored bodies go through `encode_body` too, an empty one included.
    fn frames_body(&self) -> bool {
        false
    }

    /// Whether the request says how long its body is: one of unknown length is read before, whatever `*_request_buffering` says.
    fn needs_length(&self) -> bool {
        false
    }

    /// Parses the response head from all bytes received so far but those skipped. Any split of the bytes gives the same result.
    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header;

    /// How much of `*_buffer_size` the head takes so far, after `process_header` looked at `used` bytes. A protocol that skips bytes counts itself.
    fn header_size(&self, used: usize) -> usize {
        used
    }

    /// Prepares for the body; the head is known.
    fn input_filter_init(&mut self, r: &Request, head: &ResponseHead);

    /// Decodes body bytes. The error is a text for the log: the response cannot be completed.
    fn input_filter(&mut self, r: &Request, buffer: &[u8]) -> Result<Piece, String>;

    /// How many bytes follow that belong to the body as they are and mean nothing else. They may go to the client without being shown to
    /// [`Self::input_filter`]; then [`Self::passed`] is called instead.
    fn plain_bytes(&self) -> u64 {
        0
    }

    /// So many of the plain bytes went to the client.
    fn passed(&mut self, count: u64) {
        let _ = count;
    }

    /// The back end closed the connection: whether the body is complete by that.
    fn input_end(&mut self, r: &Request) -> bool;

    /// Whether the connection may carry another request, now that the body is complete.
    fn reusable(&self) -> bool;

    /// The client left while the back end was at work, or the request was dropped by a panic; called once at most, right before
    /// `finalize_request`.
    fn abort_request(&mut self, r: &Request) {
        let _ = r;
    }

    /// The request is over; called exactly once on every path that reached `create_request`, also when that failed or a callback panicked.
    fn finalize_request(&mut self, r: &Request, status: u16) {
        let _ = (r, status);
    }

    /// Rewrites a `Location` or `Refresh` value; `None` leaves it as it is.
    fn rewrite_redirect(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        let _ = (r, value);
        None
    }

    /// Rewrites a `Set-Cookie` value; `None` leaves it as it is.
    fn rewrite_cookie(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        let _ = (r, value);
        None
    }

    /// Trailer fields that followed the body.
    fn trailers(&mut self) -> Option<HeaderList> {
        None
    }
}

/// Logs with the URL of the back end being asked, which is put together only when a line is written.
pub fn log(r: &Request, scheme: &str, uri: &[u8], level: Level, text: fmt::Arguments<'_>) {
    if !r.loc().error_log.wants(level) {
        return;
    }
    *r.upstream_url.borrow_mut() = Some(url(r, scheme, uri));
    r.log(level, text);
    *r.upstream_url.borrow_mut() = None;
}

/// The URL of the back end being asked, as the error log shows it.
pub(super) fn url(r: &Request, scheme: &str, uri: &[u8]) -> Bytes {
    let peer = r.upstream.borrow().states.last().map(|state| state.peer.clone());
    let mut url = scheme.as_bytes().to_vec();
    if let Some(peer) = &peer {
        url.extend_from_slice(peer.as_bytes());
        if peer.starts_with("unix:") {
            url.push(b':');
        }
    }
    url.extend_from_slice(uri);
    url.into()
}
