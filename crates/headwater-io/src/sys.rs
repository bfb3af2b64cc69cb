//! Thin safe wrappers over the few libc calls that rustix and socket2 do not offer.
//!
//! Called by the other files of this crate only; each wrapper takes and returns Rust values.
//! nginx counterpart: the raw system calls spread over `src/os/unix`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use crate::sockopt::TcpInfo;

/// Sets an integer socket option.
pub(crate) fn setsockopt_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads `TCP_INFO`; `None` when the socket is not TCP.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `info`; the kernel writes at most `length` bytes.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if rc != 0 {
        return None;
    }
    // SAFETY: `tcp_info` is made of integers, for which the zeroes that the kernel did not overwrite are valid.
    let info = unsafe { info.assume_init() };
    Some(TcpInfo {
        rtt_us: info.tcpi_rtt,
        rttvar_us: info.tcpi_rttvar,
        snd_cwnd: info.tcpi_snd_cwnd,
        rcv_space: info.tcpi_rcv_space,
    })
}

/// Has the kernel give this process and its children no transparent huge pages any more.
pub(crate) fn disable_huge_pages() -> io::Result<()> {
    // SAFETY: this request takes a number and three zeroes, no pointers.
    let rc = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `target` refer to the file of `source` in one step, as `dup3(2)` with `O_CLOEXEC` does.
///
/// Users of `target` on other threads see either the old or the new file. `target` stays open and owned by the caller.
pub(crate) fn replace_fd(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: both descriptors are open for the length of the call; the number of `target` keeps naming an open
        // file, so nobody's ownership of it is broken.
        let rc = unsafe { libc::dup3(source.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
        if rc >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) {
            return Err(error);
        }
    }
}

/// A broken-down time with its distance from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) year: i64,
    /// 1–12.
    pub(crate) month: u8,
    /// 1–31.
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
    pub(crate) second: u8,
    /// 0 is Sunday.
    pub(crate) weekday: u8,
    /// Minutes east of UTC.
    pub(crate) offset_minutes: i32,
}

/// Breaks a Unix time down in the local zone; `None` when the C library cannot.
pub(crate) fn local_time(unix: i64) -> Option<Broken> {
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    let time: libc::time_t = unix;
    // SAFETY: both pointers are valid for the call and `localtime_r` keeps neither.
    let result = unsafe { libc::localtime_r(&raw const time, tm.as_mut_ptr()) };
    if result.is_null() {
        return None;
    }
    // SAFETY: the structure was zeroed (a valid value) and then filled by `localtime_r`.
    let tm = unsafe { tm.assume_init() };
    Some(Broken {
        year: i64::from(tm.tm_year) + 1900,
        month: (tm.tm_mon + 1) as u8,
        day: tm.tm_mday as u8,
        hour: tm.tm_hour as u8,
        minute: tm.tm_min as u8,
        second: tm.tm_sec.min(59) as u8,
        weekday: tm.tm_wday as u8,
        offset_minutes: (tm.tm_gmtoff / 60) as i32,
    })
}

/// Registers a descriptor for reading with the current worker's reactor.
///
/// `Other` outside of a runtime, where tokio would panic.
pub(crate) fn readable_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let _runtime = Handle::try_current().map_err(io::Error::other)?;
    // SAFETY: an `OwnedFd` names one open file from here until the `AsyncFd` drops it; none of this crate's users
    // hands out `&mut` to it or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
