//! An append-only log file that can be reopened while others write to it.
//!
//! Shared by all workers behind an `Arc`; access logs reach it through `logbuffer.rs`, the error log directly.
//! nginx counterpart: `ngx_open_file_t` and `ngx_reopen_files`.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::sys;

/// A log file. Its descriptor number stays the same for life, so writing needs no lock.
#[derive(Debug)]
pub struct LogFile {
    /// `None` is standard error.
    fd: Option<OwnedFd>,
    path: PathBuf,
}

impl LogFile {
    /// Opens a file for appending, making it with mode 0644 if it is not there.
    ///
    /// # Errors
    /// What `open(2)` returns.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<LogFile> {
        let path = path.into();
        Ok(LogFile { fd: Some(open(&path)?), path })
    }

    /// Standard error.
    #[must_use]
    pub fn stderr() -> LogFile {
        LogFile { fd: None, path: PathBuf::new() }
    }

    /// Where the file is; empty for standard error.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is standard error.
    #[must_use]
    pub fn is_stderr(&self) -> bool {
        self.fd.is_none()
    }

    /// Opens the path again and switches all users over at once, after the file was renamed (USR1). May be called on
    /// any thread. Does nothing on standard error.
    ///
    /// # Errors
    /// What `open(2)` returns; the old file stays in use then.
    pub fn reopen(&self) -> io::Result<()> {
        match &self.fd {
            Some(fd) => sys::replace_fd(open(&self.path)?.as_fd(), fd.as_fd()),
            None => Ok(()),
        }
    }

    /// Gives the file to a user before privileges are dropped, so that workers can reopen it.
    ///
    /// # Errors
    /// What `fchown(2)` returns.
    pub fn chown(&self, uid: u32) -> io::Result<()> {
        match &self.fd {
            Some(fd) => std::os::unix::fs::fchown(fd, Some(uid), None),
            None => Ok(()),
        }
    }

    /// Appends bytes with one `write(2)`, more only if the kernel took a part.
    ///
    /// # Errors
    /// What `write(2)` returns (`StorageFull`, ...); a part may have been written.
    pub fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(self.as_fd(), bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            None => rustix::stdio::stderr(),
        }
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().append(true).create(true).mode(0o644).open(path)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tempfile::tests::scratch_dir;

    #[test]
    fn reopen_after_rename_writes_to_the_new_file() {
        let dir = scratch_dir("logfile");
        let path = dir.join("access.log");
        let log = LogFile::open(&path).unwrap();
        log.write(b"one\n").unwrap();
        std::fs::rename(&path, dir.join("old.log")).unwrap();
        log.write(b"two\n").unwrap();
        log.reopen().unwrap();
        log.write(b"three\n").unwrap();
        assert_eq!(std::fs::read(dir.join("old.log")).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn reopen_missing_directory_keeps_the_old_file() {
        let dir = scratch_dir("logfile-gone");
        let log = LogFile::open(dir.join("access.log")).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(log.reopen().is_err());
        log.write(b"still works\n").unwrap();
    }
}
