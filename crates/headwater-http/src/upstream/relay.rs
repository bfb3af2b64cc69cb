//! Passing a response body on: the back end is read at its own speed into bounded memory, or at the client's speed.
//!
//! Called by `engine` when the head was accepted. nginx's counterpart: `ngx_event_pipe.c`, `ngx_http_upstream_process_non_buffered_upstream`.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use headwater_io::scratch::with_scratch;
use headwater_io::stream::Stream;
use headwater_io::timer::{Elapsed, with_timeout};

use super::engine::{End, Engine};
use super::pool::Link;
use crate::filters::{Chunk, End as Mark};
use crate::flow::error_log::Level;
use crate::flow::output::{Framing, SendError};
use crate::flow::phases::Outcome;

/// How much of a body that filters expand is passed on at once, bytes: deflate makes up to a thousand times as much of it.
pub(super) const PIECE: usize = 4096;

/// What came of some bytes.
#[derive(Debug)]
pub enum Step {
    /// More are needed.
    More,
    /// The response is complete.
    Finished,
    /// It cannot be completed.
    Broken,
    /// The client cannot take it.
    Client(SendError),
    /// The connection became a tunnel; these bytes came behind the head.
    Upgraded(Vec<u8>),
}

impl Engine<'_> {
    /// Relays the rest of a body; `step` says what the bytes that came with the head amounted to.
    pub(super) async fn relay(&mut self, mut link: Link, step: Step, owner: usize) -> End {
        let r = self.r;
        let mut step = step;
        let buffered = self.buffers_response();
        let limit = if buffered { self.conf.buffers as u64 } else { 0 };
        while matches!(step, Step::More) {
            if let Some(error) = self.lost.filter(|_| !self.storing) {
                // Neither a client nor a file is left to read for.
                step = Step::Client(error);
                break;
            }
            if self.waits_in_file() > 0 && r.queued() <= limit {
                step = match self.read_back() {
                    Step::Client(error) => self.client_failed(error),
                    step => step,
                };
                continue;
            }
            if self.is_ahead(limit) && !(buffered && self.may_spool()) {
                if let Err(error) = r.drain_to(limit).await {
                    step = self.client_failed(error);
                }
                continue;
            }
            if !self.held.is_empty() {
                let piece = self.held.split_to(PIECE.min(self.held.len()));
                step = self.pass_bytes(&piece);
                continue;
            }
            if let Some(count) = self.pipe_count(&link.stream) {
                // Boxed, so that the future of a usual request has no room for it.
                step = match Box::pin(self.pipe_body(&link.stream, count, buffered)).await {
                    Step::Client(error) => self.client_failed(error),
                    step => step,
                };
                continue;
            }
            self.obey_limit_rate().await;
            if !self.is_ahead(0) {
                step = self.read_step(&mut link.stream).await;
            } else {
                // The client is slower: write what it takes while the back end is read.
                let stored = self.stored();
                step = tokio::select! {
                    biased;
                    drained = r.drained() => match drained {
                        Ok(()) => Step::More,
                        Err(error) => Step::Client(error),
                    },
                    step = self.read_step(&mut link.stream) => step,
                };
                if self.stored() > stored {
                    // A fast back end and a file that takes all could go on for long: the others have their turn first.
                    tokio::task::yield_now().await;
                }
            }
            if let Step::Client(error) = step {
                step = self.client_failed(error);
            }
        }
        self.finish(link, step, owner).await
    }

    /// Whether the response is read at the back end's speed: what the answer says of it (`X-Accel-Buffering`) goes before the configuration.
    pub(super) fn buffers_response(&self) -> bool {
        self.r.overrides.buffering.get().unwrap_or(self.conf.buffering)
    }

    async fn finish(&mut self, link: Link, step: Step, owner: usize) -> End {
        let r = self.r;
        match step {
            Step::Finished => {
                self.note_end();
                self.keep(link, owner);
                // The client may take its time; the back end is done.
                self.peer_is_done(false);
                self.save();
                if let Some(error) = self.lost {
                    return End::Outcome(error.outcome());
                }
                match self.deliver().await {
                    Ok(()) => End::Outcome(Outcome::Done),
                    Err(error) => End::Outcome(error.outcome()),
                }
            }
            Step::Client(error) => End::Outcome(error.outcome()),
            _ => {
                drop(link);
                self.withhold_if_garbled();
                // Before the end is noted: the time of half an answer is no measure of the peer.
                self.peer_is_done(false);
                self.note_end();
                // What was received is delivered; the closed connection tells the client that it is not all.
                let _ = r.push(Chunk::Empty, Mark::Flush);
                let _ = self.deliver().await;
                End::Outcome(Outcome::Close(502))
            }
        }
    }

    /// Keeps an answer back whose body made no sense from the start, when the client could take its end for that of a whole one.
    fn withhold_if_garbled(&self) {
        let r = self.r;
        let nothing_left = r.is_main() && r.queued() >= r.exchange.bytes_sent.get();
        if self.garbled && nothing_left && r.framing.get() == Framing::UntilClose {
            r.connection().broken.set(true);
        }
    }

    /// Waits until the client took all, what waits in the temp file included. The back end is not needed for that any more.
    async fn deliver(&mut self) -> Result<(), SendError> {
        while self.waits_in_file() > 0 {
            self.r.drain_to(self.conf.buffers as u64).await?;
            match self.read_back() {
                Step::Client(error) => return Err(error),
                Step::Broken => return Err(SendError::Broken),
                _ => {}
            }
        }
        self.r.drained().await
    }

    /// Whether more waits for the client than this; nothing waits for one that is lost.
    fn is_ahead(&self, limit: u64) -> bool {
        self.lost.is_none() && self.r.queued() > limit
    }

    async fn obey_limit_rate(&self) {
        let rate = self.conf.limit_rate.value(self.r);
        if rate == 0 {
            return;
        }
        loop {
            let (received, ms) = {
                let mut upstream = self.r.upstream.borrow_mut();
                let Some(state) = upstream.current() else { return };
                (state.bytes_received, state.header_ms.unwrap_or(0))
            };
            let mut elapsed = 0;
            self.note(|_, now| elapsed = now.saturating_sub(ms));
            let allowed = rate.saturating_mul(elapsed / 1000 + 1);
            if received <= allowed {
                return;
            }
            let wait = (received - allowed).saturating_mul(1000) / rate + 1;
            headwater_io::timer::sleep(Duration::from_millis(wait)).await;
        }
    }

    /// Reads once and passes on what came.
    async fn read_step(&mut self, stream: &mut Stream) -> Step {
        let timer = self.timer.clone();
        let limit = self.conf.read_timeout;
        let read = poll_fn(|cx| {
            with_scratch(|scratch| {
                let length = ready!(stream.poll_read(cx, scratch))?;
                if let Some(state) = self.r.upstream.borrow_mut().current() {
                    state.bytes_received = state.bytes_received.saturating_add(length as u64);
                }
                let bytes = scratch.get(..length).unwrap_or_default();
                let step = if bytes.is_empty() { self.end_of_stream() } else { self.body_bytes(bytes) };
                Poll::Ready(io::Result::Ok(step))
            })
        });
        let read = with_timeout(&timer, limit, read).await;
        self.received(read).unwrap_or_else(|step| step)
    }

    /// Logs why nothing was received from the back end.
    pub(super) fn received<T>(&self, outcome: Result<io::Result<T>, Elapsed>) -> Result<T, Step> {
        match outcome {
            Ok(Ok(received)) => return Ok(received),
            Ok(Err(error)) => {
                // The calls that nginx makes for either kind of body.
                self.log_broken("SSL_read", if self.buffers_response() { "readv" } else { "recv" }, &error);
            }
            Err(_) => self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)")),
        }
        Err(Step::Broken)
    }

    pub(super) fn end_of_stream(&mut self) -> Step {
        if self.protocol.input_end(self.r) {
            if self.waits_in_file() > 0 {
                self.end_waits = true;
                return Step::Finished;
            }
            if self.lost.is_none()
                && let Err(error) = self.r.push_end()
                && let step @ Step::Client(_) = self.client_failed(error)
            {
                return step;
            }
            return Step::Finished;
        }
        self.log(Level::Error, format_args!("upstream prematurely closed connection"));
        Step::Broken
    }

    /// Decodes body bytes and pushes them to the client; those that must wait are held.
    pub(super) fn body_bytes(&mut self, bytes: &[u8]) -> Step {
        match bytes.split_at_checked(PIECE) {
            Some((piece, rest)) if self.r.expands.get() => {
                self.held = Bytes::copy_from_slice(rest);
                self.pass_bytes(piece)
            }
            _ => self.pass_bytes(bytes),
        }
    }

    fn pass_bytes(&mut self, bytes: &[u8]) -> Step {
        if self.rest.is_empty() {
            let (step, used) = self.decode(bytes);
            self.rest.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return step;
        }
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let (step, used) = self.decode(&all);
        all.drain(..used.min(all.len()));
        self.rest = all;
        step
    }

    /// Takes the trailers of a complete body, for the client and for `$upstream_trailer_*`.
    fn take_trailers(&mut self) {
        let Some(trailers) = self.protocol.trailers() else { return };
        if self.conf.pass_trailers {
            let mut out = self.r.headers_out.borrow_mut();
            for line in trailers.iter() {
                if !self.conf.hide.contains(line.known, line.name) {
                    let copy = Bytes::copy_from_slice;
                    out.trailers.push((copy(line.name), copy(line.value)));
                }
            }
        }
        self.r.upstream.borrow_mut().trailers = Some(trailers);
    }

    /// What of body bytes goes to the client now: they themselves, or a stretch of the temp file where memory is full. `None` when they can be
    /// kept nowhere.
    pub(super) fn place<'d>(&mut self, data: &'d [u8], buffered: bool) -> Option<Chunk<'d>> {
        if data.is_empty() {
            return Some(Chunk::Empty);
        }
        // What comes behind bytes that wait in the file waits there, too.
        let full = self.is_ahead(self.conf.buffers as u64) && self.may_spool();
        if buffered && (full || self.waits_in_file() > 0) {
            return self.spool(data);
        }
        if self.storing {
            self.store_bytes(data);
        }
        Some(Chunk::Slice(data))
    }

    fn decode(&mut self, bytes: &[u8]) -> (Step, usize) {
        let r = self.r;
        let unbuffered = !self.buffers_response();
        let mut used = 0_usize;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let piece = match self.protocol.input_filter(r, rest) {
                Ok(piece) => piece,
                Err(text) => {
                    self.log(Level::Error, format_args!("{text}"));
                    self.garbled = true;
                    return (Step::Broken, bytes.len());
                }
            };
            used = used.saturating_add(piece.consumed);
            let data = piece.data.and_then(|range| rest.get(range)).unwrap_or_default();
            if let Some(state) = r.upstream.borrow_mut().current() {
                state.response_length = state.response_length.saturating_add(piece.consumed as u64);
            }
            if piece.done {
                self.take_trailers();
            }
            let stalled = piece.consumed == 0 || used >= bytes.len();
            let mark = match (piece.done, stalled && unbuffered) {
                (true, _) => Mark::Last,
                (false, true) => Mark::Flush,
                (false, false) => Mark::More,
            };
            let Some(chunk) = self.place(data, !unbuffered) else { return (Step::Broken, bytes.len()) };
            let waits = self.waits_in_file() > 0;
            self.end_waits |= waits && piece.done;
            let mark = if waits { Mark::More } else { mark };
            if self.lost.is_none()
                && (!chunk.is_empty() || mark != Mark::More)
                && let Err(error) = r.push(chunk, mark)
                && let step @ Step::Client(_) = self.client_failed(error)
            {
                return (step, used);
            }
            if piece.done {
                return (Step::Finished, used);
            }
            if stalled {
                return (Step::More, used);
            }
        }
    }
}
