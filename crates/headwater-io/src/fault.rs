//! Where input and output can be made to fail: the N-th operation of the process, for tests.
//!
//! Called by the files of this crate before each system call of a kind that [`Op`] names. Without the feature `fault-injection` a point is
//! a constant and nothing of this is in the program. nginx counterpart: none.

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "only told apart when they may fail"))]
pub(crate) enum Op {
    Connect,
    Accept,
    Read,
    Write,
    Sendfile,
    FileCreate,
    FileWrite,
    FileRead,
    SocketOption,
}

/// How many bytes the operation may move, or the error it ends with.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn point(_: Op) -> std::io::Result<usize> {
    Ok(usize::MAX)
}

#[cfg(feature = "fault-injection")]
pub(crate) use armed::point;
#[cfg(feature = "fault-injection")]
pub use armed::{Flavour, arm, disarm};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::io;
    use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

    use super::Op;

    /// What kind of fault an operation meets.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Flavour {
        /// The error that is usual for the operation: `ECONNRESET` of a read, `ENOSPC` of a file.
        Usual,
        /// One that is not: `EIO`, `EMFILE`.
        Odd,
        /// One byte is moved instead of many; an operation that moves none meets the usual error.
        Short,
    }

    /// Operations until the fault; 0 and less: none.
    static LEFT: AtomicI64 = AtomicI64::new(0);
    static FLAVOUR: AtomicU8 = AtomicU8::new(0);
    /// The operation that failed, counted from 1.
    static FIRED: AtomicU8 = AtomicU8::new(0);

    /// Makes the `nth` operation from now on fail, counted from 1.
    pub fn arm(nth: u32, flavour: Flavour) {
        FIRED.store(0, Ordering::SeqCst);
        FLAVOUR.store(flavour as u8, Ordering::SeqCst);
        LEFT.store(nth.into(), Ordering::SeqCst);
    }

    /// Lets everything succeed again; tells which operation failed since `arm`.
    pub fn disarm() -> Option<&'static str> {
        LEFT.store(0, Ordering::SeqCst);
        const NAMES: [&str; 9] = [
            "connect",
            "accept",
            "read",
            "write",
            "sendfile",
            "file create",
            "file write",
            "file read",
            "socket option",
        ];
        let fired = usize::from(FIRED.swap(0, Ordering::SeqCst));
        NAMES.get(fired.checked_sub(1)?).copied()
    }

    pub(crate) fn point(op: Op) -> io::Result<usize> {
        if LEFT.load(Ordering::Relaxed) <= 0 || LEFT.fetch_sub(1, Ordering::SeqCst) != 1 {
            return Ok(usize::MAX);
        }
        FIRED.store(op as u8 + 1, Ordering::SeqCst);
        let (usual, odd) = match op {
            Op::Connect => (libc::ECONNREFUSED, libc::EMFILE),
            Op::Accept => (libc::EMFILE, libc::ECONNABORTED),
            Op::Read | Op::Write => (libc::ECONNRESET, libc::EIO),
            Op::Sendfile | Op::FileRead => (libc::EIO, libc::ENOMEM),
            Op::FileCreate => (libc::ENOSPC, libc::EMFILE),
            Op::FileWrite => (libc::ENOSPC, libc::EIO),
            Op::SocketOption => (libc::EINVAL, libc::ENOBUFS),
        };
        match FLAVOUR.load(Ordering::SeqCst) {
            1 => Err(io::Error::from_raw_os_error(odd)),
            2 if matches!(op, Op::Read | Op::Write | Op::Sendfile) => Ok(1),
            _ => Err(io::Error::from_raw_os_error(usual)),
        }
    }
}
