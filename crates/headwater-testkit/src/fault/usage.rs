//! What a process holds: descriptors, memory.
//!
//! Called by tests that look for leaks; reads `/proc`. nginx counterpart: none.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Number of open descriptors.
///
/// # Errors
/// When the process is gone.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Resident memory, bytes.
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> io::Result<u64> {
    status(pid, "VmRSS:")
}

/// The most resident memory so far, bytes.
///
/// # Errors
/// When the process is gone.
pub fn peak(pid: u32) -> io::Result<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
    Ok(kilobytes << 10)
}

/// Waits until the process has at most so many descriptors; gives how many it has.
///
/// # Errors
/// When the process is gone.
pub fn settle(pid: u32, wanted: usize, patience: Duration) -> io::Result<usize> {
    let end = Instant::now() + patience;
    loop {
        let now = descriptors(pid)?;
        if now <= wanted || Instant::now() >= end {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
