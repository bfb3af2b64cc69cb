//! Sending a request: its head, and its body from memory, from a file, or as the client sends it.
//!
//! Called by `engine` for each attempt, again and again until all is sent or an answer came first. nginx's counterpart:
//! `ngx_http_upstream_send_request`, `ngx_http_upstream_send_request_body`.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use headwater_io::stream::Stream;
use headwater_io::tempfile::read_exact_at;
use headwater_io::timer::{Elapsed, with_timeout};

use super::engine::{End, Engine};
use super::retry::{Attempt, Failure};
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::Outcome;
use crate::request::body::{BodyError, Stored};

/// How much of a file is read at once for a protocol that frames bodies, bytes.
const PIECE: u64 = 64 * 1024;
/// How much of a file one `sendfile` takes, bytes.
const FILE_PIECE: usize = 2 << 20;

/// How sending went.
pub(super) enum Sent {
    /// The whole request has left.
    All,
    /// Not yet, but the back end has something to say (or closed the connection).
    Readable,
}

/// What is left of a request on its way to a back end. Several calls of [`Engine::send`] work it off.
pub(super) struct Outgoing {
    /// What follows the request's head: the body, or a piece of it, as it is sent.
    body: Bytes,
    /// Bytes of head and `body` that have left.
    sent: usize,
    /// Whether the head has left, so that only `body` counts.
    head_gone: bool,
    rest: Rest,
}

/// What follows when head and body piece have left.
enum Rest {
    Nothing,
    /// The body lies in a file, from this offset to this length.
    File(Arc<File>, u64, u64),
    /// The same for a protocol that frames it.
    Framed(Arc<File>, u64, u64),
    /// The client is still sending it.
    Client,
}

impl Engine<'_> {
    /// The request as it is to be sent.
    pub(super) fn outgoing(&mut self, stream: &Stream) -> Outgoing {
        let stored = if self.conf.pass_request_body { self.r.stored_body() } else { Stored::None };
        let frames = self.protocol.frames_body();
        if self.streams_body || matches!(stored, Stored::File(..)) {
            // Several writes: none is to wait until what was written before is acknowledged.
            let _ = stream.set_nodelay(true);
        }
        let mut body = Bytes::new();
        let rest = match (&stored, stored.file()) {
            _ if self.streams_body => Rest::Client,
            (_, Some(file)) if frames => Rest::Framed(file, 0, stored.len()),
            (_, Some(file)) => Rest::File(file, 0, stored.len()),
            (Stored::Memory(bytes), None) if !frames => {
                body = bytes.clone();
                Rest::Nothing
            }
            (stored, None) => {
                if frames {
                    let plain = if let Stored::Memory(bytes) = stored { bytes.as_ref() } else { &[] };
                    let mut encoded = Vec::new();
                    self.protocol.encode_body(plain, true, &mut encoded);
                    body = encoded.into();
                }
                Rest::Nothing
            }
        };
        Outgoing { body, sent: 0, head_gone: false, rest }
    }

    /// Sends until all has left or the back end has something to say.
    pub(super) async fn send(
        &mut self,
        stream: &mut Stream,
        out: &mut Outgoing,
        attempt: Attempt,
    ) -> Result<Sent, End> {
        let failed = |failure| End::Failed(failure, attempt);
        loop {
            if !self.write_present(stream, out).await.map_err(failed)? {
                return Ok(Sent::Readable);
            }
            match &mut out.rest {
                Rest::Nothing => return Ok(Sent::All),
                Rest::File(_, offset, length) | Rest::Framed(_, offset, length) if *offset >= *length => {
                    out.rest = Rest::Nothing;
                }
                Rest::File(file, offset, length) => {
                    if !self.send_file(stream, file, offset, *length).await.map_err(failed)? {
                        return Ok(Sent::Readable);
                    }
                }
                Rest::Framed(file, offset, length) => {
                    let encoded = self.encode_file(file, offset, *length).map_err(failed)?;
                    out.set_body(encoded);
                }
                Rest::Client => {
                    let Some((piece, last)) = self.client_piece(stream).await? else {
                        return Ok(Sent::Readable);
                    };
                    let mut encoded = Vec::new();
                    self.protocol.encode_body(&piece, last, &mut encoded);
                    out.set_body(encoded);
                    if last {
                        out.rest = Rest::Nothing;
                    }
                }
            }
        }
    }

    /// The next piece of the client's body and whether it is the last; nothing when the back end speaks first.
    async fn client_piece(&self, stream: &Stream) -> Result<Option<(Vec<u8>, bool)>, End> {
        let mut piece = Vec::new();
        let read = tokio::select! {
            biased;
            read = self.r.read_body_piece(&mut piece) => read,
            _ = poll_fn(|cx| stream.poll_read_ready(cx)) => return Ok(None),
        };
        match read {
            Ok(more) => Ok(Some((piece, !more || self.r.exchange.body.is_complete()))),
            Err(BodyError::Status(status)) => Err(End::Outcome(Outcome::Status(status))),
            Err(BodyError::Gone(status)) => Err(End::Outcome(Outcome::Close(status))),
        }
    }

    /// Reads a piece of a stored body and encodes it.
    fn encode_file(&mut self, file: &File, offset: &mut u64, length: u64) -> Result<Vec<u8>, Failure> {
        let count = length.saturating_sub(*offset).min(PIECE);
        let mut piece = vec![0; usize::try_from(count).unwrap_or_default()];
        if let Err(error) = read_exact_at(file, &mut piece, *offset) {
            let text = os_error(&error);
            self.log(Level::Crit, format_args!("the request body cannot be read from its file {text}"));
            return Err(Failure::Error);
        }
        *offset = offset.saturating_add(count);
        let mut encoded = Vec::new();
        self.protocol.encode_body(&piece, *offset >= length, &mut encoded);
        Ok(encoded)
    }

    /// Writes head and body piece; `false` when the back end spoke before all of it had left.
    async fn write_present(&mut self, stream: &mut Stream, out: &mut Outgoing) -> Result<bool, Failure> {
        let request = std::mem::take(&mut self.request);
        let outcome = self.write_parts(stream, if out.head_gone { &[] } else { &request }, out).await;
        self.request = request;
        outcome
    }

    async fn write_parts(
        &self,
        stream: &mut Stream,
        head: &[u8],
        out: &mut Outgoing,
    ) -> Result<bool, Failure> {
        let total = head.len().saturating_add(out.body.len());
        while out.sent < total {
            let first = head.get(out.sent..).unwrap_or_default();
            let second = out.body.get(out.sent.saturating_sub(head.len())..).unwrap_or_default();
            let write = poll_fn(|cx| {
                let written = match (first, second) {
                    (first, []) => stream.poll_write(cx, first),
                    ([], second) => stream.poll_write(cx, second),
                    (first, second) => {
                        stream.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
                    }
                };
                or_readable(written, stream, cx)
            });
            let sent = with_timeout(&self.timer, self.conf.send_timeout, write).await;
            let Some(sent) = self.sent(sent)? else { return Ok(false) };
            out.sent = out.sent.saturating_add(sent);
        }
        out.head_gone = true;
        out.set_body(Vec::new());
        Ok(true)
    }

    async fn send_file(
        &self,
        stream: &mut Stream,
        file: &File,
        offset: &mut u64,
        length: u64,
    ) -> Result<bool, Failure> {
        let count = usize::try_from(length.saturating_sub(*offset)).unwrap_or(usize::MAX).min(FILE_PIECE);
        let write = poll_fn(|cx| {
            let written = stream.poll_sendfile(cx, file, offset, count);
            or_readable(written, stream, cx)
        });
        let sent = with_timeout(&self.timer, self.conf.send_timeout, write).await;
        Ok(self.sent(sent)?.is_some())
    }

    fn sent(&self, outcome: Result<io::Result<Option<usize>>, Elapsed>) -> Result<Option<usize>, Failure> {
        match outcome {
            Ok(Ok(Some(0))) => Err(Failure::Error),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(sent))) => {
                if let Some(state) = self.r.upstream.borrow_mut().current() {
                    state.bytes_sent = state.bytes_sent.saturating_add(sent as u64);
                }
                Ok(Some(sent))
            }
            Ok(Err(error)) => {
                self.log_broken("SSL_write", "send", &error);
                Err(Failure::Error)
            }
            Err(_) => {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err(Failure::Timeout)
            }
        }
    }
}

impl Outgoing {
    fn set_body(&mut self, body: Vec<u8>) {
        self.body = body.into();
        self.sent = 0;
    }
}

/// What was written, or nothing when the socket takes no more and there is something to read.
fn or_readable(
    written: Poll<io::Result<usize>>,
    stream: &Stream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<usize>>> {
    match written {
        Poll::Ready(written) => Poll::Ready(written.map(Some)),
        Poll::Pending => stream.poll_read_ready(cx).map(|ready| ready.map(|()| None)),
    }
}
