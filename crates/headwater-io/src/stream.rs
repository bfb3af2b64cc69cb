//! One connected socket of any kind, registered with the reactor of its worker.
//!
//! Every connection, client or upstream, is read and written through this type. Reads and writes go through tokio's
//! `poll_read`/`poll_write`, which forget a socket's readiness after a short transfer, so that no probe for `EAGAIN`
//! follows. Options are in `sockopt.rs`, connecting in `connect.rs`, what TLS adds in `tls.rs`.
//! nginx counterpart: `ngx_connection_t` with `ngx_unix_recv`, `ngx_unix_send`, `ngx_writev_chain` and
//! `ngx_linux_sendfile_chain`.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use crate::fault::{Op, point};
use crate::tls::TlsStream;

/// A connected stream socket.
#[derive(Debug)]
pub struct Stream(Inner);

/// What a descriptor is, which [`Stream::from_fd`] must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix-domain stream socket.
    Unix,
}

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed, so that plain connections are no larger for it.
    Tls(Box<TlsStream>),
}

/// Runs the same expression on whichever socket this is, and another one on a TLS session.
macro_rules! each {
    ($inner:expr, $socket:ident => $body:expr, $tls:ident => $other:expr) => {
        match $inner {
            Inner::Tcp($socket) => $body,
            Inner::Unix($socket) => $body,
            Inner::Tls($tls) => $other,
        }
    };
}

impl Stream {
    /// Reads into `buf`; 0 means the peer has closed its sending half (or `buf` is empty).
    ///
    /// # Errors
    /// What `recv(2)` returns.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let limit = point(Op::Read)?.min(buf.len());
        let mut read = ReadBuf::new(buf.get_mut(..limit).unwrap_or_default());
        ready!(each!(
            &mut self.0,
            socket => Pin::new(socket).poll_read(cx, &mut read),
            tls => return tls.poll_read(cx, read.initialize_unfilled())
        ))?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Writes from `buf`, returning how many bytes were taken.
    ///
    /// # Errors
    /// What `send(2)` returns.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let limit = point(Op::Write)?.min(buf.len());
        let buf = buf.get(..limit).unwrap_or_default();
        each!(
            &mut self.0,
            socket => Pin::new(socket).poll_write(cx, buf),
            tls => tls.poll_write_vectored(cx, &[IoSlice::new(buf)])
        )
    }

    /// Writes from several buffers in one call, returning how many bytes were taken in all.
    ///
    /// # Errors
    /// What `writev(2)` returns.
    pub fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let limit = point(Op::Write)?;
        let short = first_bytes(bufs, limit);
        let bufs = short.as_ref().map_or(bufs, std::slice::from_ref);
        each!(
            &mut self.0,
            socket => Pin::new(socket).poll_write_vectored(cx, bufs),
            tls => tls.poll_write_vectored(cx, bufs)
        )
    }

    /// [`Self::poll_write_vectored`] when more is written right behind: the kernel may wait for it before it sends a segment that is not full
    /// (`MSG_MORE`).
    ///
    /// # Errors
    /// What `sendmsg(2)` returns.
    pub fn poll_write_vectored_more(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !matches!(self.0, Inner::Tcp(_)) {
            return self.poll_write_vectored(cx, bufs);
        }
        let limit = point(Op::Write)?;
        let short = first_bytes(bufs, limit);
        let bufs = short.as_ref().map_or(bufs, std::slice::from_ref);
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_io(cx, Interest::WRITABLE, || {
            Ok(rustix::net::sendmsg(self.as_fd(), bufs, &mut SendAncillaryBuffer::default(), flags)?)
        })
    }

    /// Writes what fits now.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; otherwise what `send(2)` returns.
    pub fn try_write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let limit = point(Op::Write)?.min(buf.len());
        let buf = buf.get(..limit).unwrap_or_default();
        each!(
            &mut self.0,
            socket => socket.try_write(buf),
            tls => tls.try_write_vectored(&[IoSlice::new(buf)])
        )
    }

    /// Writes what fits now from several buffers.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits; otherwise what `writev(2)` returns.
    pub fn try_write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let limit = point(Op::Write)?;
        let short = first_bytes(bufs, limit);
        let bufs = short.as_ref().map_or(bufs, std::slice::from_ref);
        each!(&mut self.0, socket => socket.try_write_vectored(bufs), tls => tls.try_write_vectored(bufs))
    }

    /// Reads what is there now.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; otherwise what `recv(2)` returns.
    pub fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = point(Op::Read)?.min(buf.len());
        let buf = buf.get_mut(..limit).unwrap_or_default();
        each!(&mut self.0, socket => socket.try_read(buf), tls => tls.try_read(buf))
    }

    /// Ready when the reactor has seen the socket readable (data, end of file or error); one waker per socket and
    /// direction is kept, that of the last call.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&self.0, socket => socket.poll_read_ready(cx), tls => tls.poll_read_ready(cx))
    }

    /// Ready when the reactor has seen the socket writable.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&self.0, socket => socket.poll_write_ready(cx), tls => tls.socket().poll_write_ready(cx))
    }

    /// Sends up to `count` bytes of `file` from `offset` without copying them to user space; moves `offset` forward. Under TLS they are
    /// read and encrypted.
    ///
    /// 0 means that the file ends at `offset`.
    ///
    /// # Errors
    /// What `sendfile(2)` returns; `InvalidInput` when the file is of a kind that cannot be sent this way.
    pub fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        file: impl AsFd,
        offset: &mut u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        let count = point(Op::Sendfile)?.min(count);
        if let Inner::Tls(tls) = &mut self.0 {
            return tls.poll_sendfile(cx, file.as_fd(), offset, count);
        }
        self.poll_io(cx, Interest::WRITABLE, || {
            Ok(rustix::fs::sendfile(self.as_fd(), file.as_fd(), Some(&mut *offset), count)?)
        })
    }

    /// Looks at incoming bytes without taking them; 0 means the peer has closed.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing (without a system call when the reactor has reported nothing).
    pub fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        point(Op::Read)?;
        if let Inner::Tls(tls) = &mut self.0 {
            return tls.try_peek(buf);
        }
        self.try_io(Interest::READABLE, || {
            Ok(rustix::net::recv(self.as_fd(), &mut *buf, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
        })
    }

    /// Waits for incoming bytes and looks at them without taking them; 0 means the peer has closed.
    ///
    /// # Errors
    /// What `recv(2)` returns.
    pub fn poll_peek(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_peek(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Whether a pooled connection can be used again: the peer has sent nothing and has not closed. What a TLS session sends by itself
    /// (tickets) does not count.
    ///
    /// Costs no system call while the reactor has reported nothing since the last short read.
    #[must_use]
    pub fn looks_idle(&mut self) -> bool {
        if let Inner::Tls(tls) = &mut self.0 {
            return tls.looks_idle();
        }
        let mut byte = [0u8; 1];
        matches!(self.try_peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// True for a Unix-domain socket.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        self.kind() == StreamKind::Unix
    }

    /// True when what is read and written is encrypted on the way.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Inner::Tls(_))
    }

    /// What kind of socket this is, whether encrypted or not.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        match &self.0 {
            Inner::Tcp(_) => StreamKind::Tcp,
            Inner::Unix(_) => StreamKind::Unix,
            Inner::Tls(tls) => tls.socket().kind(),
        }
    }

    /// The descriptor's number, for logs and `$connection`-like identification.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Takes the socket out of its reactor and returns the bare descriptor (still non-blocking).
    ///
    /// May be called on any thread, also away from the worker that registered the socket.
    ///
    /// # Errors
    /// When the reactor refuses to let it go; the socket is closed then. `InvalidInput` for TLS, which is more than its socket.
    pub fn into_std_fd(self) -> io::Result<OwnedFd> {
        match self.0 {
            Inner::Tcp(socket) => Ok(socket.into_std()?.into()),
            Inner::Unix(socket) => Ok(socket.into_std()?.into()),
            Inner::Tls(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Moves the connection from the reactor it is registered with to the current worker's.
    ///
    /// # Errors
    /// What [`into_std_fd`](Self::into_std_fd) and [`from_fd`](Self::from_fd) return; the socket is closed then.
    pub fn rehome(self) -> io::Result<Stream> {
        match self.0 {
            Inner::Tls(tls) => Ok(Stream(Inner::Tls(Box::new(tls.rehome()?)))),
            socket => {
                let socket = Stream(socket);
                let kind = socket.kind();
                Stream::from_fd(socket.into_std_fd()?, kind)
            }
        }
    }

    pub(crate) fn from_tls(tls: Box<TlsStream>) -> Stream {
        Stream(Inner::Tls(tls))
    }

    /// Registers a connected, non-blocking socket with the current worker's reactor.
    ///
    /// # Errors
    /// `Other` outside of a runtime; what `epoll_ctl(2)` returns.
    pub fn from_fd(fd: OwnedFd, kind: StreamKind) -> io::Result<Stream> {
        // tokio panics without a runtime; here that is an error like any other.
        let _runtime = Handle::try_current().map_err(io::Error::other)?;
        Ok(Stream(match kind {
            StreamKind::Tcp => Inner::Tcp(TcpStream::from_std(fd.into())?),
            StreamKind::Unix => Inner::Unix(UnixStream::from_std(fd.into())?),
        }))
    }

    /// Runs a system call as often as the reactor thinks the socket ready, until it does something. A short count is no proof that the socket is
    /// full or empty (a file may have been truncated, a pipe have no room), so readiness is forgotten on `WouldBlock` only.
    pub(crate) fn poll_io<R>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut call: impl FnMut() -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            ready!(if interest.is_readable() {
                self.poll_read_ready(cx)
            } else {
                self.poll_write_ready(cx)
            })?;
            match self.try_io(interest, &mut call) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Runs a system call when the reactor thinks the socket ready, and forgets readiness when it says `WouldBlock`.
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        each!(&self.0, socket => socket.try_io(interest, call), tls => tls.socket().try_io(interest, call))
    }
}

/// The first of the bytes when less than a whole buffer may be written.
fn first_bytes<'a>(bufs: &'a [IoSlice<'_>], limit: usize) -> Option<IoSlice<'a>> {
    if limit == usize::MAX {
        return None;
    }
    let first = bufs.iter().find(|buf| !buf.is_empty())?;
    first.get(..limit.min(first.len())).map(IoSlice::new)
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(&self.0, socket => socket.as_fd(), tls => tls.socket().as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_connections_are_no_larger_for_tls() {
        assert!(size_of::<Stream>() <= size_of::<TcpStream>() + size_of::<usize>());
    }
}
