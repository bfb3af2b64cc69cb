//! The output room: where filtered bytes are framed and written, and where back-pressure lives.
//!
//! Called by the end of the filter chain and by content handlers that must wait until the client took what there is. nginx's counterpart:
//! `ngx_http_write_filter`, `ngx_http_chunked_body_filter`, `ngx_http_writer`.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use headwater_wire::http1::chunked::encode_chunk_header;

use super::error_log::Level;
use crate::filters::{Chunk, End};
use crate::request::subrequest::MemorySink;
use crate::request::{Connection, Request};

/// Room for a usual response head, bytes: it is made once rather than by doubling.
const USUAL_HEAD: usize = 512;

/// Why a response could not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// The client is gone or the response cannot be completed: the connection ends.
    Broken,
    /// A filter wants this status instead.
    Status(u16),
}

impl SendError {
    /// What a handler says about it.
    #[must_use]
    pub fn outcome<'a>(self) -> super::phases::Outcome<'a> {
        match self {
            SendError::Broken => super::phases::Outcome::Close(499),
            SendError::Status(status) => super::phases::Outcome::Status(status),
        }
    }
}

/// How the end of a response body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body.
    #[default]
    None,
    /// By its length.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By closing the connection.
    UntilClose,
}

/// Where a response goes.
pub enum Output {
    /// To the client, as HTTP/1.
    Client(Rc<Connection>),
    /// Into the response of the parent, at its place.
    Part,
    /// Into memory.
    Memory(Rc<MemorySink>),
    /// Nowhere.
    Discard,
}

impl Output {
    /// Takes the head.
    pub(super) fn header(&self, r: &Request) -> Result<(), SendError> {
        let Output::Client(connection) = self else { return Ok(()) };
        if connection.broken.get() {
            return Err(SendError::Broken);
        }
        connection.response_started.set(true);
        if !r.loc().core.tcp_nodelay && connection.nodelay.replace(false) {
            let _ = connection.stream.borrow().set_nodelay(false);
        }
        let mut framing = Framing::None;
        let length = connection.out.borrow_mut().append_with(|buffer| {
            if buffer.is_empty() {
                buffer.reserve(USUAL_HEAD);
                framing = super::headers_out::write_http1(r, buffer);
            } else {
                let mut fresh = Vec::with_capacity(USUAL_HEAD);
                framing = super::headers_out::write_http1(r, &mut fresh);
                buffer.extend_from_slice(&fresh);
            }
        });
        r.exchange.header_size.set(length as u64);
        r.exchange.bytes_sent.set(r.exchange.bytes_sent.get().saturating_add(length as u64));
        r.framing.set(framing);
        Ok(())
    }

    /// Takes a chunk of the filtered body.
    pub(crate) fn push(&self, r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        let chunk = if r.header_only.get() && !r.is_main() { Chunk::Empty } else { chunk };
        if end == End::Last {
            r.finished.set(true);
        }
        if r.post_action.get() {
            return Ok(());
        }
        r.said.set(r.said.get().saturating_add(chunk.len()));
        match r.family() {
            None => self.deliver(r, chunk, end),
            Some(family) => family.push(r, chunk, end),
        }
    }

    /// Takes a chunk of a whole response, whose parts are in order by now.
    pub(crate) fn deliver(&self, r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        match self {
            Output::Client(_) => r.push_tail(chunk, end),
            Output::Memory(sink) => sink.push(r, &chunk),
            Output::Part | Output::Discard => Ok(()),
        }
    }

    /// Takes a chunk of the client's whole response, filtered.
    pub(crate) fn write(&self, r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        let Output::Client(connection) = self else { return Ok(()) };
        if connection.broken.get() {
            return Err(SendError::Broken);
        }
        let chunk = if r.header_only.get() { Chunk::Empty } else { chunk };
        let outcome = frame(r, connection, chunk, end);
        let outcome = outcome.and_then(|()| flush(r, connection, end));
        outcome.map_err(|error| {
            fail(r, connection, &error);
            SendError::Broken
        })
    }
}

fn frame(r: &Request, connection: &Connection, chunk: Chunk<'_>, end: End) -> io::Result<()> {
    let mut out = connection.out.borrow_mut();
    let length = chunk.len();
    // What the framing adds counts as sent too.
    let mut overhead = 0_usize;
    match r.framing.get() {
        Framing::None => {}
        Framing::Length(left) => {
            // More than was announced would be read as the next response.
            if length > left {
                let message = "the response body is longer than its Content-Length";
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            r.framing.set(Framing::Length(left.saturating_sub(length)));
            append(r, connection, &mut out, chunk, b"")?;
            if end == End::Last && left > length {
                r.exchange.keepalive.set(false);
                r.truncated.set(true);
            }
        }
        Framing::UntilClose => append(r, connection, &mut out, chunk, b"")?,
        Framing::Chunked => {
            if length > 0 {
                let size = usize::try_from(length).unwrap_or(usize::MAX);
                overhead = out.append_with(|buffer| encode_chunk_header(size, buffer)).saturating_add(2);
                append(r, connection, &mut out, chunk, b"\r\n")?;
            }
            if end == End::Last && !r.header_only.get() {
                let headers = r.headers_out.borrow();
                let end = out.append_with(|buffer| {
                    buffer.extend_from_slice(b"0\r\n");
                    for (name, value) in &headers.trailers {
                        for part in [name, &b": "[..], value, b"\r\n"] {
                            buffer.extend_from_slice(part);
                        }
                    }
                    buffer.extend_from_slice(b"\r\n");
                });
                overhead = overhead.saturating_add(end);
            }
        }
    }
    let sent = r.exchange.bytes_sent.get().saturating_add(length).saturating_add(overhead as u64);
    r.exchange.bytes_sent.set(sent);
    Ok(())
}

fn append(
    r: &Request,
    connection: &Connection,
    out: &mut super::out_queue::OutQueue,
    chunk: Chunk<'_>,
    after: &[u8],
) -> io::Result<()> {
    match chunk {
        Chunk::Slice(slice) if r.is_rate_limited() => {
            out.append(slice);
            out.append(after);
        }
        Chunk::Slice(slice) => {
            let sent = out.append_or_write(&mut connection.stream.borrow_mut(), slice, after)?;
            connection.sent.set(connection.sent.get().saturating_add(sent as u64));
        }
        Chunk::Bytes(bytes) => {
            out.append_bytes(bytes);
            out.append(after);
        }
        Chunk::File(range) => {
            if r.loc().core.tcp_nopush && !connection.corked.replace(true) {
                let _ = connection.stream.borrow().set_cork(true);
            }
            out.append_file(range);
            out.append(after);
        }
        Chunk::Empty => {}
    }
    Ok(())
}

/// Writes at once when there is reason to: the end, a flush mark, or enough bytes.
fn flush(r: &Request, connection: &Connection, end: End) -> io::Result<()> {
    if r.is_rate_limited() {
        return Ok(());
    }
    let mut out = connection.out.borrow_mut();
    let enough = out.queued() >= *r.loc().core.postpone_output as u64;
    if end == End::More && !enough {
        return Ok(());
    }
    let sent = out.write_now(&mut connection.stream.borrow_mut(), r.chunk_limit())?;
    connection.sent.set(connection.sent.get().saturating_add(sent));
    Ok(())
}

pub(super) fn fail(r: &Request, connection: &Connection, error: &io::Error) {
    if !connection.broken.replace(true) {
        let level = match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Level::Info,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Level::Alert,
            _ => Level::Error,
        };
        if error.raw_os_error().is_some() {
            r.log(level, format_args!("send() failed {}", super::os_error(error)));
        } else {
            r.log(level, format_args!("{error}"));
        }
    }
}

/// Ends a connection whose client took nothing for `send_timeout`.
pub(super) fn too_slow(r: &Request, connection: &Connection) -> SendError {
    connection.timed_out.set(true);
    connection.broken.set(true);
    r.log(Level::Info, format_args!("client timed out (110: Connection timed out)"));
    SendError::Broken
}

impl Request {
    /// Whether the rate to this client is limited.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        self.rate() > 0
    }

    /// Bytes per second to the client, 0 when there is no limit.
    #[must_use]
    pub fn rate(&self) -> u64 {
        match self.limit_rate.get() {
            Some(rate) => rate,
            None => {
                let rate = self.loc().core.limit_rate.value(self);
                self.limit_rate.set(Some(rate));
                rate
            }
        }
    }

    /// Bytes that wait to be written to the client, or for their turn in the response.
    #[must_use]
    pub fn queued(&self) -> u64 {
        let Some(family) = self.family() else { return self.written_queue() };
        let own = self.postponed.borrow().bytes().saturating_add(self.held.get());
        match family.is_active(self) {
            true => self.due().saturating_add(own),
            false => own,
        }
    }

    /// Bytes that wait for the client's socket and are to be written now. A part of a response does not ask for the little that is collected
    /// before it is written (`postpone_output`): the next part may add to it.
    fn due(&self) -> u64 {
        let root = self.output_root();
        let queued = root.written_queue();
        let collected = !std::ptr::eq(self, root) && queued < *root.loc().core.postpone_output as u64;
        if collected { 0 } else { queued }
    }

    /// Bytes that wait for the client's socket.
    fn written_queue(&self) -> u64 {
        match &self.output {
            Output::Client(connection) => connection.out.borrow().queued(),
            _ => 0,
        }
    }

    /// Waits until everything pushed so far was written.
    pub async fn drained(&self) -> Result<(), SendError> {
        self.drain_to(0).await
    }

    /// Waits until at most this many bytes wait to be written.
    pub async fn drain_to(&self, limit: u64) -> Result<(), SendError> {
        let connection = self.connection();
        loop {
            if connection.broken.get() {
                return Err(SendError::Broken);
            }
            if self.queued() <= limit {
                return Ok(());
            }
            let Some(family) = self.family() else {
                self.write_some(connection).await?;
                continue;
            };
            if family.failed().is_some() {
                return Err(SendError::Broken);
            }
            let mine = family.is_active(self) && self.due() > 0;
            if mine && !connection.writing.get() {
                self.output_root().write_some(connection).await?;
            } else {
                family.changed.notified().await;
            }
        }
    }

    /// Waits until the client took something of what waits. Only one task of a request does at a time.
    pub(crate) async fn write_some(&self, connection: &Connection) -> Result<(), SendError> {
        let _writing = Writing::start(self, connection);
        let allowance = self.allowance().min(self.chunk_limit());
        if allowance == 0 {
            let rate = self.rate().max(1);
            let over = self.over_limit();
            headwater_io::timer::sleep(Duration::from_millis(over.saturating_mul(1000) / rate + 1)).await;
            return Ok(());
        }
        let timeout = *self.loc().core.send_timeout;
        let write = poll_fn(|cx| poll_write(connection, cx, allowance));
        let written = headwater_io::timer::with_timeout(&connection.write_timer, timeout, write).await;
        match written {
            Ok(Ok(sent)) => {
                connection.sent.set(connection.sent.get().saturating_add(sent as u64));
                if sent >= self.chunk_limit() {
                    // The client takes all it gets: the others have their turn first.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Ok(Err(error)) => {
                fail(self, connection, &error);
                Err(SendError::Broken)
            }
            Err(_) => Err(too_slow(self, connection)),
        }
    }

    /// How much one call may send (`sendfile_max_chunk`; 0: no limit).
    fn chunk_limit(&self) -> usize {
        match *self.loc().core.sendfile_max_chunk {
            0 => usize::MAX,
            limit => limit,
        }
    }

    /// Bytes that have left for this response.
    fn sent_so_far(&self) -> u64 {
        self.exchange.bytes_sent.get().saturating_sub(self.queued())
    }

    fn over_limit(&self) -> u64 {
        let after = self.loc().core.limit_rate_after.value(self);
        let elapsed = self.exchange.start.elapsed().as_secs().saturating_add(1);
        let allowed = self.rate().saturating_mul(elapsed).saturating_add(after);
        self.sent_so_far().saturating_sub(allowed).saturating_add(1)
    }

    /// How many bytes may be written now.
    fn allowance(&self) -> usize {
        let rate = self.rate();
        if rate == 0 {
            return usize::MAX;
        }
        let after = self.loc().core.limit_rate_after.value(self);
        let elapsed = self.exchange.start.elapsed().as_secs().saturating_add(1);
        let allowed = rate.saturating_mul(elapsed).saturating_add(after);
        usize::try_from(allowed.saturating_sub(self.sent_so_far())).unwrap_or(usize::MAX)
    }
}

/// Notes that a task waits for the client's socket, and tells the others when it stops to.
struct Writing<'a>(&'a Request, &'a Connection);

impl<'a> Writing<'a> {
    fn start(r: &'a Request, connection: &'a Connection) -> Self {
        connection.writing.set(true);
        Self(r, connection)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.1.writing.set(false);
        if let Some(family) = self.0.family() {
            family.changed.notify_waiters();
        }
    }
}

fn poll_write(connection: &Connection, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
    connection.out.borrow_mut().poll_write(&mut connection.stream.borrow_mut(), cx, limit)
}
