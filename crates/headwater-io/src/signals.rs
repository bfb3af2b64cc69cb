//! Signals as events of one worker's loop, through a signalfd.
//!
//! The binary blocks its signals before it starts threads, then one thread reads them here.
//! nginx counterpart: `ngx_init_signals` and `ngx_signal_handler`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::sys;

/// The signals that mean something to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sig {
    /// Reload the configuration.
    Hup,
    /// Fast shutdown.
    Int,
    /// Fast shutdown.
    Term,
    /// Graceful shutdown.
    Quit,
    /// Reopen log files.
    Usr1,
    /// Upgrade the binary.
    Usr2,
    /// Shut the workers down gracefully.
    Winch,
    /// A child process has ended.
    Chld,
    /// A timer of `alarm(2)`.
    Alrm,
}

/// All of them, which [`block_all_for_workers`] blocks.
pub const ALL: [Sig; 9] =
    [Sig::Hup, Sig::Int, Sig::Term, Sig::Quit, Sig::Usr1, Sig::Usr2, Sig::Winch, Sig::Chld, Sig::Alrm];

impl Sig {
    /// The system's number.
    #[must_use]
    pub fn raw(self) -> i32 {
        match self {
            Sig::Hup => libc::SIGHUP,
            Sig::Int => libc::SIGINT,
            Sig::Term => libc::SIGTERM,
            Sig::Quit => libc::SIGQUIT,
            Sig::Usr1 => libc::SIGUSR1,
            Sig::Usr2 => libc::SIGUSR2,
            Sig::Winch => libc::SIGWINCH,
            Sig::Chld => libc::SIGCHLD,
            Sig::Alrm => libc::SIGALRM,
        }
    }

    /// The signal with a number.
    #[must_use]
    pub fn from_raw(raw: i32) -> Option<Sig> {
        ALL.into_iter().find(|signal| signal.raw() == raw)
    }
}

/// Blocks [`ALL`] in the calling thread and the threads it will start. To be called before any thread is started.
///
/// # Errors
/// What `pthread_sigmask(3)` returns.
pub fn block_all_for_workers() -> io::Result<()> {
    mask(libc::SIG_BLOCK, &ALL)
}

/// Undoes [`block_all_for_workers`] in the calling thread, for a program that is about to be started from it.
///
/// # Errors
/// What `pthread_sigmask(3)` returns.
pub fn unblock_all() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK, &ALL)
}

/// A source of signals.
#[derive(Debug)]
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Blocks the signals in the calling thread and registers a signalfd for them with the current worker. They must be
    /// blocked in all other threads, too.
    ///
    /// # Errors
    /// What `pthread_sigmask(3)`, `signalfd(2)` and `epoll_ctl(2)` return; `Other` outside of a runtime.
    pub fn new(signals: &[Sig]) -> io::Result<Signals> {
        mask(libc::SIG_BLOCK, signals)?;
        let set = set_of(signals);
        // SAFETY: `set` is an initialised signal set that lives through the call.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Signals(sys::readable_fd(fd)?))
    }

    /// Waits for a signal. Equal signals that come in fast succession may be one event.
    ///
    /// # Errors
    /// What `read(2)` returns.
    pub async fn try_next(&mut self) -> io::Result<Sig> {
        Ok(self.try_next_from().await?.0)
    }

    /// The same, with the id of the process that sent the signal; 0 when the kernel did.
    ///
    /// # Errors
    /// What `read(2)` returns.
    pub async fn try_next_from(&mut self) -> io::Result<(Sig, u32)> {
        loop {
            let mut guard = self.0.readable().await?;
            match read_one(self.0.get_ref()) {
                Ok(Some(signal)) => return Ok(signal),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a signal; waits for ever when the signalfd has failed, which the kernel gives no reason for.
    pub async fn next(&mut self) -> Sig {
        match self.try_next().await {
            Ok(signal) => signal,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Reads one signal; `None` for one that has no [`Sig`].
fn read_one(fd: &OwnedFd) -> io::Result<Option<(Sig, u32)>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the pointer and size describe `info`.
    let count = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure is made of integers, for which the zeroes that were not overwritten are valid.
    let info = unsafe { info.assume_init() };
    let signal = i32::try_from(info.ssi_signo).ok().and_then(Sig::from_raw);
    Ok(signal.map(|signal| (signal, info.ssi_pid)))
}

fn mask(how: i32, signals: &[Sig]) -> io::Result<()> {
    let set = set_of(signals);
    // SAFETY: `set` is an initialised signal set, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        rc => Err(io::Error::from_raw_os_error(rc)),
    }
}

fn set_of(signals: &[Sig]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `sigemptyset` initialises the set; `sigaddset` gets that set and valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.raw());
        }
        set.assume_init()
    }
}
