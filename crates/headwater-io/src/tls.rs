//! A TLS session over a connected socket, as the third kind of [`Stream`].
//!
//! Made by [`Stream::handshake`], which the upstream engine awaits after connecting; everything else is reached through `Stream`'s own methods.
//! The sans-IO `rustls` does the protocol; here is how its bytes travel. nginx counterpart: `ngx_ssl_handshake`, `ngx_ssl_recv`, `ngx_ssl_write`.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection};

use crate::scratch::with_scratch;
use crate::stream::Stream;

/// What is kept free before the records that are read, bytes: plaintext is put there, and there can be more of it than of the records just
/// read, by the part of a record that came before. A record takes 18,437 bytes at most.
const ROOM: usize = 20 * 1024;
/// The smallest buffer that is read into directly.
const LARGE: usize = 2 * ROOM;
/// How much of a file is encrypted at once, bytes.
const FILE_PIECE: usize = 64 * 1024;
/// How often an idle connection is read at most to see what its peer sent.
const IDLE_READS: usize = 8;

/// Why there is no session.
#[derive(Debug)]
pub enum HandshakeError {
    /// The peer closed the connection in the middle of it.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// One side refused.
    Tls(rustls::Error),
}

/// A socket and the session on it. The session goes first: what it says at its end needs the socket.
#[derive(Debug)]
pub(crate) struct TlsStream {
    session: Session,
    socket: Stream,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    /// Plaintext that was read before it was asked for.
    held: Vec<u8>,
    /// The peer has said that it sends no more, or has closed the connection.
    ended: bool,
    /// The protocol was violated; nothing more is sent.
    failed: bool,
    /// Bytes of the caller's data that are encrypted and on their way; the caller is told once they have left.
    accepted: usize,
    /// The socket; -1 while it is away.
    fd: RawFd,
}

impl Drop for Session {
    /// Says goodbye, so that the peer can tell the end from a cut connection and keeps the session for resumption.
    fn drop(&mut self) {
        let usable = !self.failed && !self.connection.is_handshaking() && !self.connection.wants_write();
        if self.fd < 0 || !usable {
            return;
        }
        self.connection.send_close_notify();
        let mut alert = Vec::new();
        if self.connection.write_tls(&mut alert).is_ok() {
            // SAFETY: `fd` is that of the socket beside this session in `TlsStream`, which is dropped after it; whoever takes the
            // socket away sets `fd` to -1 before.
            let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
            let _ = rustix::net::send(fd, &alert, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

impl Stream {
    /// Does the handshake of a client on a connected socket; `name` is what the certificate is checked against and, unless the
    /// configuration forbids it, what is asked for (SNI).
    ///
    /// # Errors
    /// See [`HandshakeError`]. The socket is closed then.
    pub async fn handshake(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Stream, HandshakeError> {
        let connection = ClientConnection::new(config, name).map_err(HandshakeError::Tls)?;
        let mut tls = Box::new(TlsStream {
            session: Session {
                connection: connection.into(),
                held: Vec::new(),
                ended: false,
                failed: false,
                accepted: 0,
                fd: self.fd(),
            },
            socket: self,
        });
        poll_fn(|cx| tls.poll_handshake(cx)).await?;
        Ok(Stream::from_tls(tls))
    }
}

impl TlsStream {
    pub(crate) fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Registers the socket with the current worker's reactor; the session stays.
    pub(crate) fn rehome(self) -> io::Result<TlsStream> {
        let TlsStream { mut session, socket } = self;
        session.fd = -1;
        let socket = socket.rehome()?;
        session.fd = socket.fd();
        Ok(TlsStream { session, socket })
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        loop {
            ready!(self.session.poll_flush(&mut self.socket, cx)).map_err(HandshakeError::Io)?;
            if !self.session.connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            let Self { session, socket } = self;
            let read = with_scratch(|scratch| {
                let received = ready!(socket.poll_read(cx, tail(scratch)));
                Poll::Ready(received.and_then(|length| {
                    let plain = session.decrypt(scratch, length)?;
                    session.held.extend_from_slice(scratch.get(..plain).unwrap_or_default());
                    Ok(())
                }))
            });
            match ready!(read) {
                Ok(()) if session.ended => return Poll::Ready(Err(HandshakeError::Closed)),
                Ok(()) => {}
                Err(error) => {
                    // The alert that says why.
                    let _ = session.poll_flush(socket, cx);
                    return Poll::Ready(Err(handshake_error(error)));
                }
            }
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.read(buf, |socket, buf| match socket.poll_read(cx, buf) {
            Poll::Ready(read) => read,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Answers of the protocol itself, to a key update for instance.
                if self.session.accepted == 0
                    && let Poll::Ready(Err(error)) = self.session.poll_flush(&mut self.socket, cx)
                {
                    return Poll::Ready(Err(error));
                }
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    pub(crate) fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read(buf, |socket, buf| socket.try_read(buf))
    }

    pub(crate) fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.session.held.is_empty() && !self.session.ended {
            with_scratch(|scratch| {
                let length = self.read(scratch, |socket, buf| socket.try_read(buf))?;
                self.session.held.extend_from_slice(scratch.get(..length).unwrap_or_default());
                io::Result::Ok(())
            })?;
        }
        let length = buf.len().min(self.session.held.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), self.session.held.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }

    /// Whether the peer has sent nothing but what belongs to the session itself (tickets, key updates), which is taken in.
    pub(crate) fn looks_idle(&mut self) -> bool {
        let Self { session, socket } = self;
        if session.accepted > 0 || session.failed {
            return false;
        }
        with_scratch(|scratch| {
            for _ in 0..IDLE_READS {
                if !session.held.is_empty() || session.ended {
                    return false;
                }
                match socket.try_read(tail(scratch)) {
                    Ok(length) if matches!(session.decrypt(scratch, length), Ok(0)) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return session.try_flush(socket).is_ok();
                    }
                    _ => return false,
                }
            }
            false
        })
    }

    /// Ready when there is plaintext, or something on the socket that may become some.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.session.held.is_empty() || self.session.ended {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.session.accept(bufs)?;
        ready!(self.session.poll_flush(&mut self.socket, cx))?;
        Poll::Ready(Ok(self.session.report(total(bufs))))
    }

    pub(crate) fn try_write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.session.accept(bufs)?;
        self.session.try_flush(&mut self.socket)?;
        Ok(self.session.report(total(bufs)))
    }

    pub(crate) fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        if self.session.accepted == 0 {
            let mut piece = vec![0; count.min(FILE_PIECE)];
            let length = rustix::io::pread(file, &mut piece, *offset)?;
            self.session.accept(&[IoSlice::new(piece.get(..length).unwrap_or_default())])?;
        }
        ready!(self.session.poll_flush(&mut self.socket, cx))?;
        let sent = self.session.report(count);
        *offset = offset.saturating_add(sent as u64);
        Poll::Ready(Ok(sent))
    }

    /// Gives plaintext; `receive` reads the socket without blocking.
    fn read(
        &mut self,
        buf: &mut [u8],
        mut receive: impl FnMut(&mut Stream, &mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let Self { session, socket } = self;
        loop {
            if !session.held.is_empty() {
                return Ok(session.take_held(buf));
            }
            if session.ended || buf.is_empty() {
                return Ok(0);
            }
            if buf.len() >= LARGE {
                let length = receive(socket, tail(buf))?;
                let plain = session.decrypt(buf, length)?;
                if plain > 0 {
                    return Ok(plain);
                }
            } else {
                with_scratch(|scratch| {
                    let length = receive(socket, tail(scratch))?;
                    let plain = session.decrypt(scratch, length)?;
                    session.held.extend_from_slice(scratch.get(..plain).unwrap_or_default());
                    io::Result::Ok(())
                })?;
            }
        }
    }
}

impl Session {
    /// Decrypts `length` bytes of records that were read into the tail of `buf`, and puts the plaintext to its front; the return value is
    /// how much that is.
    fn decrypt(&mut self, buf: &mut [u8], length: usize) -> io::Result<usize> {
        self.ended |= length == 0;
        let (mut used, mut plain) = (0_usize, 0_usize);
        while used < length && !self.ended {
            let (start, end) = (ROOM.saturating_add(used), ROOM.saturating_add(length));
            let fed = self.connection.read_tls(&mut buf.get(start..end).unwrap_or_default())?;
            used = used.saturating_add(fed);
            let state = self.connection.process_new_packets().map_err(|error| {
                self.failed = true;
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            // A peer that closes without a word is taken at its word all the same, as nginx does: bodies know their length, or end like this.
            self.ended |= state.peer_has_closed() || fed == 0;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let space = buf.get_mut(plain..ROOM.saturating_add(used)).unwrap_or_default();
                let read = self.connection.reader().read(space)?;
                if read == 0 {
                    // `ROOM` is more than a record can bring, so this cannot be.
                    self.failed = true;
                    return Err(io::ErrorKind::InvalidData.into());
                }
                plain = plain.saturating_add(read);
                left = left.saturating_sub(read);
            }
        }
        Ok(plain)
    }

    fn take_held(&mut self, buf: &mut [u8]) -> usize {
        let length = buf.len().min(self.held.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..length), self.held.get(..length)) {
            to.copy_from_slice(from);
        }
        self.held.drain(..length);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        length
    }

    /// Encrypts as much as is buffered at once, unless there is something on its way. A caller that was told to wait comes again with
    /// the same bytes.
    fn accept(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        if self.accepted == 0 && total(bufs) > 0 {
            self.accepted = self.connection.writer().write_vectored(bufs)?;
        }
        Ok(())
    }

    /// What the caller is told of what has left, of `offered` bytes that it came with.
    fn report(&mut self, offered: usize) -> usize {
        let sent = self.accepted.min(offered);
        self.accepted = self.accepted.saturating_sub(sent);
        sent
    }

    fn poll_flush(&mut self, socket: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = Out { socket, cx: Some(cx) };
        match self.write_records(&mut out) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    fn try_flush(&mut self, socket: &mut Stream) -> io::Result<()> {
        self.write_records(&mut Out { socket, cx: None })
    }

    fn write_records(&mut self, out: &mut Out<'_, '_>) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The socket as rustls writes to it.
struct Out<'a, 'cx> {
    socket: &'a mut Stream,
    /// Who is to be woken when the socket takes more.
    cx: Option<&'a mut Context<'cx>>,
}

impl Write for Out<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.cx {
            None => self.socket.try_write_vectored(bufs),
            Some(cx) => match self.socket.poll_write_vectored(cx, bufs) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where records are read to.
fn tail(buf: &mut [u8]) -> &mut [u8] {
    buf.get_mut(ROOM..).unwrap_or_default()
}

fn total(bufs: &[IoSlice<'_>]) -> usize {
    bufs.iter().fold(0, |total, buf| total.saturating_add(buf.len()))
}

fn handshake_error(error: io::Error) -> HandshakeError {
    match error.downcast::<rustls::Error>() {
        Ok(error) => HandshakeError::Tls(error),
        Err(error) => HandshakeError::Io(error),
    }
}
