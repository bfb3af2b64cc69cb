//! The process and its standing in the system: daemon, user, limits, pid file.
//!
//! Called by the binary at start and at exit. nginx counterparts: `ngx_daemon.c`, `ngx_create_pidfile`,
//! `ngx_worker_process_init` and `ngx_os_init`.

use std::ffi::OsStr;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit, Signal};

use crate::signals::Sig;

#[path = "process_thread.rs"]
mod thread;
#[path = "process_user.rs"]
mod user;

pub use thread::{groups_of_user, set_thread_user};
pub use user::{User, group_id, set_user, user_by_name};

/// Goes on in a child process with a session of its own; the parent exits with code 0. Standard input and output
/// become `/dev/null`; standard error stays, as in nginx, for messages until the error log takes over.
///
/// # Errors
/// `Other` when there are threads already, which would not follow; what `fork(2)`, `setsid(2)` and `open(2)` return.
pub fn daemonize() -> io::Result<()> {
    if thread_count() != Some(1) {
        return Err(io::Error::other("cannot become a daemon after threads were started"));
    }
    // SAFETY: there is one thread, so the child is a whole copy of the process: no lock is held by a thread that is
    // missing in it.
    match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {}
        // SAFETY: `_exit` has no preconditions. It leaves exit handlers and buffers to the child.
        _ => unsafe { libc::_exit(0) },
    }
    rustix::process::setsid()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Sends standard error to `/dev/null`, once the error log is open.
///
/// # Errors
/// What `open(2)` and `dup2(2)` return.
pub fn close_stderr() -> io::Result<()> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Sends standard error to an open file, as nginx does with the main error log.
///
/// # Errors
/// What `dup2(2)` returns.
pub fn redirect_stderr(file: &fs::File) -> io::Result<()> {
    Ok(rustix::stdio::dup2_stderr(file)?)
}

/// Number of threads of this process.
fn thread_count() -> Option<usize> {
    Some(fs::read_dir("/proc/self/task").ok()?.count())
}

/// Writes this process's id and a line feed to a file, mode 0644, replacing what was there.
///
/// # Errors
/// What `open(2)` and `write(2)` return.
pub fn write_pid_file(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.write_all(format!("{}\n", pid()).as_bytes())
}

/// Reads the process id in a pid file; spaces and line ends around it do not matter.
///
/// # Errors
/// What `open(2)` and `read(2)` return; `InvalidData` when there is no process id.
pub fn read_pid_file(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    let pid = text.trim().parse::<u32>().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("invalid PID number \"{}\"", text.trim()))
    })
}

/// Removes a pid file.
///
/// # Errors
/// What `unlink(2)` returns.
pub fn remove_pid_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Sets an environment variable; call it only while the process has one thread.
///
/// # Errors
/// When other threads run already.
pub fn set_env(name: &OsStr, value: &OsStr) -> io::Result<()> {
    if fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(io::Error::other("the process has threads"));
    }
    // SAFETY: no other thread exists that could read or change the environment meanwhile, as was just checked.
    unsafe { std::env::set_var(name, value) };
    Ok(())
}

/// The kernel's number of the calling thread.
#[must_use]
pub fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// This process's id.
#[must_use]
pub fn pid() -> u32 {
    std::process::id()
}

/// Sends a signal to a process.
///
/// # Errors
/// What `kill(2)` returns; `InvalidInput` for an id that no single process has.
pub fn kill(pid: u32, signal: Sig) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let signal = Signal::from_named_raw(signal.raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Whether this process runs with the rights of root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `worker_rlimit_nofile`: the most descriptors this process may have open.
///
/// # Errors
/// What `setrlimit(2)` returns.
pub fn set_rlimit_nofile(count: u64) -> io::Result<()> {
    set_rlimit(Resource::Nofile, count)
}

/// The most descriptors this process may have open now; `None` is no limit.
#[must_use]
pub fn rlimit_nofile() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).current
}

/// `worker_rlimit_core`: the largest core file, bytes.
///
/// # Errors
/// What `setrlimit(2)` returns.
pub fn set_rlimit_core(bytes: u64) -> io::Result<()> {
    set_rlimit(Resource::Core, bytes)
}

fn set_rlimit(resource: Resource, value: u64) -> io::Result<()> {
    Ok(rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
}

/// `worker_processes auto`: the processors this process may use.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Binds the calling thread to the processors whose bits are set: `worker_cpu_affinity`.
///
/// # Errors
/// What `sched_setaffinity(2)` returns.
pub fn set_cpu_affinity(processors: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for processor in processors {
        if processor < rustix::thread::CpuSet::MAX_CPU {
            set.set(processor);
        }
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// `worker_priority`: the nice value of the calling thread, -20 to 20.
///
/// # Errors
/// What `setpriority(2)` returns.
pub fn set_priority(nice: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// `working_directory`.
///
/// # Errors
/// What `chdir(2)` returns.
pub fn chdir(path: &Path) -> io::Result<()> {
    std::env::set_current_dir(path)
}

/// The host's name in lower case, as `$hostname` gives it.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
}

/// Makes writing to a closed connection an error instead of the end of the process. Rust programs start that way, but
/// a program that embeds this one may not.
///
/// # Errors
/// What `sigaction(2)` returns.
pub fn ignore_sigpipe() -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and runs no code.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Changes the owner of a path.
///
/// # Errors
/// What `chown(2)` returns.
pub fn chown(path: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), gid)
}

/// Makes a directory for temporary or cache files unless it is there, and gives it to the user of the workers.
///
/// # Errors
/// What `mkdir(2)`, `stat(2)`, `chown(2)` and `chmod(2)` return.
pub fn prepare_dir(path: &Path, uid: Option<u32>) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    crate::tempfile::make_dir(path, 0o700)?;
    let Some(uid) = uid else {
        return Ok(());
    };
    let meta = fs::metadata(path)?;
    if meta.uid() != uid {
        chown(path, uid, None)?;
    }
    if meta.mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() | 0o700))?;
    }
    Ok(())
}

/// The path of the running program, for a binary upgrade.
///
/// # Errors
/// When `/proc` is not there.
pub fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// A name as C wants it.
fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Copies a C string; empty for a null pointer.
///
/// # Safety
/// A pointer that is not null must point to a string that ends with a zero byte and lives through the call.
unsafe fn copy_c_string(pointer: *const libc::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tempfile::tests::scratch_dir;

    #[test]
    fn pid_file_round_trips() {
        let dir = scratch_dir("pid");
        let path = dir.join("nginx.pid");
        write_pid_file(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pid()));
        assert_eq!(read_pid_file(&path).unwrap(), pid());
        fs::write(&path, "x").unwrap();
        assert_eq!(read_pid_file(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        remove_pid_file(&path).unwrap();
        fs::remove_dir(dir).unwrap();
    }

    #[test]
    fn user_root_is_known_and_nobody_else_is_not() {
        let root = user_by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert!(user_by_name("no-such-user-here").unwrap().is_none());
        assert!(group_id("no-such-group-here").unwrap().is_none());
        assert!(user_by_name("nul\0byte").is_err());
    }

    #[test]
    fn daemonize_with_threads_is_refused() {
        // The test harness runs tests on threads of their own.
        let held = std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_millis(200)));
        assert!(daemonize().is_err());
        held.join().unwrap();
    }

    #[test]
    fn facts_of_the_host_are_sensible() {
        assert!(cpu_count() >= 1);
        assert!(!hostname().is_empty());
        assert!(rlimit_nofile().is_none_or(|limit| limit > 10));
        assert!(kill(0, Sig::Hup).is_err());
    }
}
