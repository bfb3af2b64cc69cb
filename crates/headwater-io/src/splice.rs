//! Moving bytes from one socket to another through a pipe, without copying them to user space (`splice(2)`).
//!
//! Called by the upstream engine for bodies that nobody needs to look at. nginx has no counterpart: it reads into buffers.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use crate::fault::{Op, point};
use crate::stream::Stream;

/// What a pipe is asked to hold, bytes; one that the system keeps smaller serves as well.
pub const PIPE_SIZE: usize = 256 * 1024;

/// How many unused pipes a thread keeps.
const KEPT: usize = 16;

thread_local! {
    static UNUSED: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan from this thread; bytes go into it from one socket and out of it to another.
#[derive(Debug)]
pub struct Pipe {
    /// Always there until the pipe is dropped.
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// What `pipe2(2)` returns.
    pub fn lend() -> io::Result<Pipe> {
        let unused = UNUSED.try_with(|unused| unused.borrow_mut().pop()).ok().flatten();
        let ends = match unused {
            Some(ends) => ends,
            None => {
                point(Op::FileCreate)?;
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                // A user's pipes may have no more room: a smaller one only takes more calls.
                let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
                Ends { read, write }
            }
        };
        Ok(Pipe { ends: Some(ends), held: 0 })
    }

    /// Bytes in the pipe.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `count` bytes of `stream` into the pipe, which must be empty; 0 means that the peer has closed its sending half.
    ///
    /// # Errors
    /// What `splice(2)` returns; `InvalidInput` for a TLS stream.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        let count = point(Op::Read)?.min(count).min(PIPE_SIZE);
        let Some(ends) = self.ends.as_ref().filter(|_| self.held == 0 && !stream.is_tls()) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        // The pipe is empty: when nothing can be moved, it is the socket that has nothing.
        let moved = ready!(stream.poll_io(cx, Interest::READABLE, || {
            Ok(splice(stream, None, &ends.write, None, count, FLAGS)?)
        }))?;
        self.held = moved;
        Poll::Ready(Ok(moved))
    }

    /// Moves what the pipe holds to `stream`, as far as that takes it; gives the bytes moved.
    ///
    /// # Errors
    /// What `splice(2)` returns; `InvalidInput` for a TLS stream and for an empty pipe.
    pub fn poll_empty(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<usize>> {
        let count = point(Op::Write)?.min(self.held);
        let Some(ends) = self.ends.as_ref().filter(|_| count > 0 && !stream.is_tls()) else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let moved = ready!(stream.poll_io(cx, Interest::WRITABLE, || {
            Ok(splice(&ends.read, None, stream, None, count, FLAGS)?)
        }))?;
        self.held = self.held.saturating_sub(moved);
        Poll::Ready(Ok(moved))
    }

    /// Reads what the pipe holds, as far as `buf` has room; gives the bytes read.
    ///
    /// # Errors
    /// What `read(2)` returns.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = point(Op::Read)?.min(self.held).min(buf.len());
        let (Some(ends), 1..) = (&self.ends, limit) else { return Ok(0) };
        let read = rustix::io::read(ends.read.as_fd(), buf.get_mut(..limit).unwrap_or_default())?;
        self.held = self.held.saturating_sub(read);
        Ok(read)
    }
}

/// Closes the pipes of this thread that nobody uses; called from time to time, so that a quiet server holds none.
pub fn close_unused() {
    let _ = UNUSED.try_with(|unused| unused.borrow_mut().clear());
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Drop for Pipe {
    /// An empty pipe is kept for the next; one that holds bytes of an exchange that failed is not.
    fn drop(&mut self) {
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        // When the thread is going away there is no one to keep the pipe for.
        let _ = UNUSED.try_with(|unused| {
            let mut unused = unused.borrow_mut();
            if unused.len() < KEPT {
                unused.push(ends);
            }
        });
    }
}
