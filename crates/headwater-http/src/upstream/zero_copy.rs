//! A body that goes from the back end's socket to the client's through a pipe.
//!
//! Called by `relay` as long as the protocol says that plain bytes follow and nobody between it and the client wants to see them. The end of a body always
//! takes the usual way, which knows what the end means. nginx has no counterpart: it reads into buffers.

use std::future::poll_fn;

use headwater_io::scratch::with_scratch;
use headwater_io::splice::Pipe;
use headwater_io::stream::Stream;
use headwater_io::timer::with_timeout;

use super::engine::Engine;
use super::relay::Step;
use crate::filters::End as Mark;

/// Bytes left in a body from which on a pipe is worth its calls.
const WORTHWHILE: u64 = 128 * 1024;
/// How many bytes at the end of a body take the usual way.
const TAIL: u64 = 16 * 1024;
/// After so many bytes without a wait the worker's other connections have their turn.
const TURN: u64 = 2 << 20;

impl Engine<'_> {
    /// How many bytes may go through a pipe now, if any.
    pub(super) fn pipe_count(&self, stream: &Stream) -> Option<u64> {
        let left = self.protocol.plain_bytes();
        let free = left >= WORTHWHILE
            && self.may_use_pipe
            && self.lost.is_none()
            && !self.storing
            && !self.probing
            && self.rest.is_empty()
            && self.waits_in_file() == 0
            && !stream.is_tls()
            && self.conf.limit_rate.value(self.r) == 0;
        (free && self.r.takes_pipe() == Some(left)).then(|| left.saturating_sub(TAIL))
    }

    /// Moves so many bytes from the back end to the client. In buffered mode a client that is slower ends it: what it did not take goes where a
    /// body waits, so that the back end is read on.
    pub(super) async fn pipe_body(&mut self, stream: &Stream, count: u64, buffered: bool) -> Step {
        let r = self.r;
        let Ok(mut pipe) = Pipe::lend() else {
            // No descriptors are left: bytes can still be copied.
            self.may_use_pipe = false;
            return Step::More;
        };
        let (mut left, mut turn) = (count, 0_u64);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX);
            let fill = poll_fn(|cx| pipe.poll_fill(cx, stream, want));
            let filled = with_timeout(&self.timer, self.conf.read_timeout, fill).await;
            let filled = match self.received(filled) {
                Ok(0) => return self.end_of_stream(),
                Ok(filled) => filled as u64,
                Err(step) => return step,
            };
            left = left.saturating_sub(filled);
            self.protocol.passed(filled);
            if let Some(state) = r.upstream.borrow_mut().current() {
                state.bytes_received = state.bytes_received.saturating_add(filled);
                state.response_length = state.response_length.saturating_add(filled);
            }
            let sent = if buffered { r.pipe_now(&mut pipe) } else { r.pipe_out(&mut pipe).await };
            if let Err(error) = sent {
                return Step::Client(error);
            }
            if pipe.held() > 0 {
                return self.unpipe(&mut pipe);
            }
            turn = turn.saturating_add(filled);
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
        Step::More
    }

    /// Takes what is in the pipe into memory or, as far as that is full, the temp file.
    fn unpipe(&mut self, pipe: &mut Pipe) -> Step {
        while pipe.held() > 0 {
            let step = with_scratch(|scratch| {
                let length = match pipe.read(scratch) {
                    Ok(length) => length,
                    Err(error) => {
                        self.log_broken("SSL_read", "read", &error);
                        return Step::Broken;
                    }
                };
                let Some(chunk) = self.place(scratch.get(..length).unwrap_or_default(), true) else {
                    return Step::Broken;
                };
                match self.r.push(chunk, Mark::More) {
                    Ok(()) => Step::More,
                    Err(error) => Step::Client(error),
                }
            });
            if !matches!(step, Step::More) {
                return step;
            }
        }
        Step::More
    }
}
