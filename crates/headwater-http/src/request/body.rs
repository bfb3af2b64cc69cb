//! The request body: decoding its framing, keeping it in memory or a temp file, discarding it.
//!
//! Called by the content handlers that want a body (proxy) and by the connection loop, which must get an unread body out of the way. nginx's
//! counterpart: `ngx_http_request_body.c`.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_io::tempfile::TempFile;
use headwater_wire::http1::chunked::ChunkedDecoder;
use headwater_wire::http1::semantics::BodyFraming;

use super::Request;
use super::connection::ReadError;
use crate::flow::error_log::Level;

/// Where a body that was read is kept.
#[derive(Debug, Clone, Default)]
pub enum Stored {
    /// Nothing was read, or the body is empty.
    #[default]
    None,
    /// In memory.
    Memory(Bytes),
    /// In a temp file of this many bytes.
    File(Arc<TempFile>, u64),
}

impl Stored {
    /// Bytes of the body.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Stored::None => 0,
            Stored::Memory(bytes) => bytes.len() as u64,
            Stored::File(_, length) => *length,
        }
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The temp file, when there is one.
    #[must_use]
    pub fn file(&self) -> Option<Arc<File>> {
        match self {
            Stored::File(file, _) => file.file().try_clone().ok().map(Arc::new),
            _ => None,
        }
    }
}

/// The body of a client's request.
pub struct RequestBody {
    framing: BodyFraming,
    /// Body bytes still to come, when the length is known.
    remaining: Cell<u64>,
    decoder: RefCell<Option<Box<ChunkedDecoder>>>,
    complete: Cell<bool>,
    received: Cell<u64>,
    /// Bytes of the body on the wire, for `$request_length`.
    pub wire_bytes: Cell<u64>,
    /// What was read.
    pub stored: RefCell<Stored>,
    continued: Cell<bool>,
    /// Decoded bytes that came with the head, for a body that is read piece by piece.
    early: RefCell<Vec<u8>>,
    /// Whether somebody has begun to read it.
    pub started: Cell<bool>,
    /// Whether it was dropped: what was not kept is not to be had any more.
    dropped: Cell<bool>,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// Answer with this status.
    Status(u16),
    /// The client is gone or too slow: nothing can be answered; the status is for the log.
    Gone(u16),
}

impl RequestBody {
    /// A body that has not been read.
    #[must_use]
    pub fn new(framing: BodyFraming) -> Self {
        let (remaining, decoder, complete) = match framing {
            BodyFraming::None => (0, None, true),
            BodyFraming::Length(length) => (length, None, length == 0),
            BodyFraming::Chunked => (0, Some(Box::new(ChunkedDecoder::new())), false),
        };
        Self {
            framing,
            remaining: Cell::new(remaining),
            decoder: RefCell::new(decoder),
            complete: Cell::new(complete),
            received: Cell::new(0),
            wire_bytes: Cell::new(0),
            stored: RefCell::default(),
            continued: Cell::new(false),
            early: RefCell::default(),
            started: Cell::new(false),
            dropped: Cell::new(false),
        }
    }

    /// Whether the whole body was taken off the connection.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.get()
    }

    /// Decoded bytes so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// The declared length, when there is one; of a body that was dropped, what there is of it.
    #[must_use]
    pub fn declared(&self) -> Option<u64> {
        match self.framing {
            _ if self.dropped.get() => Some(self.stored.borrow().len()),
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked => None,
        }
    }

    /// Whether the body is chunked.
    #[must_use]
    pub fn is_chunked(&self) -> bool {
        matches!(self.framing, BodyFraming::Chunked)
    }

    /// Takes leave of what was not read: it counts as complete, and as empty unless it was kept before.
    pub(crate) fn drop_rest(&self) {
        self.complete.set(true);
        self.dropped.set(true);
        self.started.set(true);
    }

    /// Decodes what is at the front of `input`, appending body bytes to `out`; gives the bytes used.
    fn decode(&self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, &'static str> {
        if self.complete.get() {
            return Ok(0);
        }
        let before = out.len();
        let mut used = 0_usize;
        match self.decoder.borrow_mut().as_mut() {
            None => {
                used = usize::try_from(self.remaining.get()).unwrap_or(usize::MAX).min(input.len());
                out.extend_from_slice(input.get(..used).unwrap_or_default());
                self.remaining.set(self.remaining.get().saturating_sub(used as u64));
                self.complete.set(self.remaining.get() == 0);
            }
            Some(decoder) => loop {
                let rest = input.get(used..).unwrap_or_default();
                let step = decoder.decode(rest).map_err(|_| "client sent invalid chunked body")?;
                if let Some(range) = step.data {
                    out.extend_from_slice(rest.get(range).unwrap_or_default());
                }
                used = used.saturating_add(step.consumed);
                if step.done {
                    self.complete.set(true);
                    break;
                }
                if step.consumed == 0 {
                    break;
                }
            },
        }
        let grown = out.len().saturating_sub(before) as u64;
        self.received.set(self.received.get().saturating_add(grown));
        self.wire_bytes.set(self.wire_bytes.get().saturating_add(used as u64));
        Ok(used)
    }
}

impl Request {
    /// Reads the next piece of the body, appending to `out`. `false` means the body is complete.
    pub async fn read_body_piece(&self, out: &mut Vec<u8>) -> Result<bool, BodyError> {
        let body = &self.exchange.body;
        let before = out.len();
        if !body.started.replace(true) {
            self.send_continue();
        }
        out.append(&mut body.early.borrow_mut());
        if out.len() > before {
            return Ok(true);
        }
        while !body.is_complete() && out.len() == before {
            self.decode_waiting(out)?;
            if body.is_complete() || out.len() > before {
                break;
            }
            let limit = *self.loc().core.client_body_timeout;
            match self.connection().fill(limit).await {
                Ok(_) => {}
                Err(ReadError::TimedOut) => {
                    self.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
                    self.connection().timed_out.set(true);
                    return Err(BodyError::Gone(408));
                }
                Err(ReadError::Closed) => {
                    self.log(Level::Info, format_args!("client prematurely closed connection"));
                    return Err(BodyError::Gone(400));
                }
                Err(ReadError::Failed(error)) => {
                    self.log(Level::Info, format_args!("recv() failed {}", crate::flow::os_error(&error)));
                    return Err(BodyError::Gone(400));
                }
            }
        }
        Ok(!body.is_complete() || out.len() > before)
    }

    fn decode_waiting(&self, out: &mut Vec<u8>) -> Result<(), BodyError> {
        let body = &self.exchange.body;
        let connection = self.connection();
        let used = body.decode(&connection.input.borrow(), out);
        match used {
            Ok(used) => connection.consume(used),
            Err(message) => {
                self.log(Level::Error, format_args!("{message}"));
                self.close_after();
                return Err(BodyError::Status(400));
            }
        }
        let limit = *self.loc().core.client_max_body_size;
        if limit > 0 && body.received() > limit {
            self.log(
                Level::Error,
                format_args!("client intended to send too large chunked body: {} bytes", body.received()),
            );
            return Err(BodyError::Status(413));
        }
        Ok(())
    }

    /// Sends `100 Continue` once, when the client waits for it.
    pub fn send_continue(&self) {
        let body = &self.exchange.body;
        if !self.exchange.head.expect_continue || body.continued.replace(true) {
            return;
        }
        self.send_interim(b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    /// Sends an interim response, whole and at once.
    pub fn send_interim(&self, head: &[u8]) {
        let connection = self.connection();
        let mut out = connection.out.borrow_mut();
        out.append(head);
        if out.write_now(&mut connection.stream.borrow_mut(), usize::MAX).is_err() {
            connection.broken.set(true);
        }
    }

    /// Whether the client was told to send its body, or never waited for that.
    fn may_send_body(&self) -> bool {
        !self.exchange.head.expect_continue || self.exchange.body.continued.get()
    }

    /// Asks for the body of a request whose answer does not need it, as nginx does before any answer but an error page.
    pub fn ask_for_unread_body(&self) {
        if self.is_main() && self.error_status.get() == 0 && !self.exchange.body.is_complete() {
            self.send_continue();
        }
    }

    /// Reads the whole body into memory or, past `client_body_buffer_size`, a temp file. Does nothing when it was read before.
    pub async fn read_body(&self) -> Result<(), BodyError> {
        let body = &self.exchange.body;
        if !self.is_main() {
            // It is the client's: what was read of it is there for subrequests, too.
            return Ok(());
        }
        if body.is_complete() && (body.started.get() || body.declared() == Some(0)) {
            return Ok(());
        }
        // Boxed, so that the future of a request without a body has no room for one.
        Box::pin(self.receive_body()).await
    }

    async fn receive_body(&self) -> Result<(), BodyError> {
        let body = &self.exchange.body;
        let core = self.loc().core.clone();
        let in_file = core.client_body_in_file_only.is_on();
        if !in_file && let Some(whole) = self.whole_body_at_once(*core.client_body_buffer_size) {
            *body.stored.borrow_mut() = Stored::Memory(whole);
            return Ok(());
        }
        let mut memory = Vec::new();
        if let Some(length) = body.declared() {
            memory.reserve(usize::try_from(length).unwrap_or(usize::MAX).min(*core.client_body_buffer_size));
        }
        let mut file: Option<(TempFile, u64)> = None;
        loop {
            let more = self.read_body_piece(&mut memory).await?;
            let spill = memory.len() > *core.client_body_buffer_size || file.is_some() || in_file;
            if spill && !memory.is_empty() {
                self.spill(&mut file, &memory)?;
                memory.clear();
            }
            if !more || body.is_complete() {
                break;
            }
        }
        *body.stored.borrow_mut() = match file {
            Some((file, length)) => Stored::File(Arc::new(file), length),
            None if memory.is_empty() => Stored::None,
            None => Stored::Memory(memory.into()),
        };
        Ok(())
    }

    /// Takes the body without copying it, when exactly that came with the head and it fits into memory.
    fn whole_body_at_once(&self, limit: usize) -> Option<Bytes> {
        let body = &self.exchange.body;
        let connection = self.connection();
        let present = connection.input.borrow().len();
        let whole = BodyFraming::Length(present as u64);
        if body.framing != whole || present > limit || body.started.replace(true) {
            return None;
        }
        self.send_continue();
        let bytes = connection.input.borrow_mut().take();
        body.remaining.set(0);
        body.complete.set(true);
        body.received.set(present as u64);
        body.wire_bytes.set(present as u64);
        Some(bytes)
    }

    fn spill(&self, file: &mut Option<(TempFile, u64)>, data: &[u8]) -> Result<(), BodyError> {
        let core = &self.loc().core;
        let fail = |error: std::io::Error| {
            let text = crate::flow::os_error(&error);
            self.log(
                Level::Crit,
                format_args!("a client request body cannot be written to a temporary file {text}"),
            );
            BodyError::Status(500)
        };
        if file.is_none() {
            let keep = core.client_body_in_file_only == crate::config::core::BodyInFile::On;
            let temp = core
                .client_body_temp_path
                .create(&self.exchange.generation.main.prefix, keep)
                .map_err(fail)?;
            let path = temp.path().map(|path| path.display().to_string()).unwrap_or_default();
            self.log(
                Level::Warn,
                format_args!("a client request body is buffered to a temporary file {path}"),
            );
            *file = Some((temp, 0));
        }
        if let Some((temp, length)) = file {
            temp.append(data).map_err(fail)?;
            *length = length.saturating_add(data.len() as u64);
        }
        Ok(())
    }

    /// Decodes what came with the head; a body that is complete by that is stored like a buffered one.
    pub fn preread_body(&self) -> Result<(), BodyError> {
        let body = &self.exchange.body;
        if !self.is_main() || body.started.get() || body.is_complete() {
            return Ok(());
        }
        body.started.set(true);
        self.send_continue();
        let mut bytes = Vec::new();
        self.decode_waiting(&mut bytes)?;
        if body.is_complete() {
            *body.stored.borrow_mut() =
                if bytes.is_empty() { Stored::None } else { Stored::Memory(bytes.into()) };
        } else {
            *body.early.borrow_mut() = bytes;
        }
        Ok(())
    }

    /// Takes an unread body off the connection, for at most `lingering_time`. `false` when the connection cannot be used again.
    pub async fn discard_body(&self) -> bool {
        let body = &self.exchange.body;
        if !self.may_send_body() && !body.is_complete() {
            // The client still waits for leave to send: nothing will come, or it may come after the answer. The connection ends.
            return false;
        }
        let core = self.loc().core.clone();
        let until = headwater_io::clock::now() + *core.lingering_time;
        let mut sink = Vec::new();
        loop {
            let used = body.decode(&self.connection().input.borrow(), &mut sink);
            sink.clear();
            match used {
                Ok(used) => self.connection().consume(used),
                Err(_) => return false,
            }
            if body.is_complete() {
                return true;
            }
            let left = until.saturating_duration_since(headwater_io::clock::now());
            if left == Duration::ZERO {
                return false;
            }
            let limit = (*core.lingering_timeout).min(left);
            if self.connection().fill(limit).await.is_err() {
                return false;
            }
        }
    }
}
