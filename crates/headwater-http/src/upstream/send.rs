//! Sending a request: its head, and its body from memory, from a file, or as the client sends it.
//!
//! Called by `engine` once per attempt. nginx's counterpart: `ngx_http_upstream_send_request`, `ngx_http_upstream_send_request_body`.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;

use headwater_io::stream::Stream;
use headwater_io::timer::{Elapsed, with_timeout};

use super::engine::{End, Engine};
use super::retry::{Attempt, Failure};
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::Outcome;
use crate::request::body::{BodyError, Stored};

/// How much of a file is read at once for a protocol that frames bodies, bytes.
const PIECE: u64 = 64 * 1024;

impl Engine<'_> {
    /// Sends the request's head and body.
    pub(super) async fn send(&mut self, stream: &mut Stream, attempt: Attempt) -> Result<(), End> {
        let r = self.r;
        let body =
            if self.conf.pass_request_body { r.exchange.body.stored.borrow().clone() } else { Stored::None };
        let streams = self.streams_body;
        if streams || matches!(body, Stored::File(..)) || self.protocol.frames_body() {
            // Several writes: none is to wait until what was written before is acknowledged.
            let _ = stream.set_nodelay(true);
        }
        if self.protocol.frames_body() && !streams {
            let sent = self.send_framed(stream, &body).await;
            return sent.map_err(|failure| End::Failed(failure, attempt));
        }
        let request = std::mem::take(&mut self.request);
        let sent = match &body {
            Stored::Memory(bytes) => self.write_all(stream, &request, bytes).await,
            _ => self.write_all(stream, &request, &[]).await,
        };
        self.request = request;
        sent.map_err(|failure| End::Failed(failure, attempt))?;
        if let Some(file) = body.file() {
            self.send_file(stream, &file, body.len())
                .await
                .map_err(|failure| End::Failed(failure, attempt))?;
        }
        if streams {
            self.stream_body(stream, attempt).await?;
        }
        Ok(())
    }

    /// Sends the head and a body that the protocol frames.
    async fn send_framed(&mut self, stream: &mut Stream, body: &Stored) -> Result<(), Failure> {
        let mut encoded = Vec::new();
        match body {
            Stored::None => self.protocol.encode_body(&[], true, &mut encoded),
            Stored::Memory(bytes) => self.protocol.encode_body(bytes, true, &mut encoded),
            Stored::File(..) => {}
        }
        let request = std::mem::take(&mut self.request);
        let sent = self.write_all(stream, &request, &encoded).await;
        self.request = request;
        sent?;
        let Stored::File(temp, length) = body else { return Ok(()) };
        let mut piece = Vec::new();
        let mut offset = 0;
        while offset < *length {
            let count = length.saturating_sub(offset).min(PIECE);
            piece.resize(usize::try_from(count).unwrap_or_default(), 0);
            if let Err(error) = temp.file().read_exact_at(&mut piece, offset) {
                self.log(
                    Level::Crit,
                    format_args!("the request body cannot be read from its file {}", os_error(&error)),
                );
                return Err(Failure::Error);
            }
            offset = offset.saturating_add(count);
            encoded.clear();
            self.protocol.encode_body(&piece, offset >= *length, &mut encoded);
            self.write_all(stream, &encoded, &[]).await?;
        }
        Ok(())
    }

    /// Sends the body piece by piece as the client sends it.
    async fn stream_body(&mut self, stream: &mut Stream, attempt: Attempt) -> Result<(), End> {
        let mut piece = Vec::new();
        let mut encoded = Vec::new();
        loop {
            piece.clear();
            encoded.clear();
            let more = match self.r.read_body_piece(&mut piece).await {
                Ok(more) => more,
                Err(BodyError::Status(status)) => return Err(End::Outcome(Outcome::Status(status))),
                Err(BodyError::Gone(status)) => return Err(End::Outcome(Outcome::Close(status))),
            };
            let last = !more || self.r.exchange.body.is_complete();
            self.protocol.encode_body(&piece, last, &mut encoded);
            let sent = self.write_all(stream, &encoded, &[]).await;
            sent.map_err(|failure| End::Failed(failure, attempt))?;
            if last {
                return Ok(());
            }
        }
    }

    async fn write_all(&mut self, stream: &mut Stream, first: &[u8], second: &[u8]) -> Result<(), Failure> {
        let total = first.len().saturating_add(second.len());
        let mut done = 0_usize;
        while done < total {
            let rest = first.get(done..).unwrap_or_default();
            let after = second.get(done.saturating_sub(first.len())..).unwrap_or_default();
            let write = poll_fn(|cx| {
                if after.is_empty() || second.is_empty() {
                    stream.poll_write(cx, rest)
                } else if rest.is_empty() {
                    stream.poll_write(cx, after)
                } else {
                    stream.poll_write_vectored(cx, &[IoSlice::new(rest), IoSlice::new(after)])
                }
            });
            let sent = with_timeout(&self.timer, self.conf.send_timeout, write).await;
            let sent = self.sent(sent)?;
            done = done.saturating_add(sent);
        }
        Ok(())
    }

    async fn send_file(&mut self, stream: &mut Stream, file: &File, length: u64) -> Result<(), Failure> {
        let mut offset = 0;
        while offset < length {
            let count = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(2 << 20);
            let write = poll_fn(|cx| stream.poll_sendfile(cx, file, &mut offset, count));
            let sent = with_timeout(&self.timer, self.conf.send_timeout, write).await;
            self.sent(sent)?;
        }
        Ok(())
    }

    fn sent(&self, outcome: Result<io::Result<usize>, Elapsed>) -> Result<usize, Failure> {
        match outcome {
            Ok(Ok(0)) => Err(Failure::Error),
            Ok(Ok(sent)) => {
                if let Some(state) = self.r.upstream.borrow_mut().current() {
                    state.bytes_sent = state.bytes_sent.saturating_add(sent as u64);
                }
                Ok(sent)
            }
            Ok(Err(error)) => {
                self.log(Level::Error, format_args!("send() failed {}", os_error(&error)));
                Err(Failure::Error)
            }
            Err(_) => {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err(Failure::Timeout)
            }
        }
    }
}
