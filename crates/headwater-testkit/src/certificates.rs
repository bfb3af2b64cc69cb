//! Certificates, keys and revocation lists of all the kinds that tests need, made once by `openssl`.
//!
//! Called by the runner (`%%TLS%%` in case files is their directory) and by tests; calls `certificates.sh`. nginx counterpart: none.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::oracle::target_dir;

const SCRIPT: &str = include_str!("certificates.sh");

/// The directory of the certificates, which are made first when they are missing or were made otherwise.
///
/// Safe to call from several processes at once: a file lock lets one of them make them.
///
/// # Errors
/// When `openssl` is missing or fails.
pub fn directory() -> io::Result<PathBuf> {
    let home = target_dir().join("certificates");
    fs::create_dir_all(&home)?;
    let lock = File::create(home.join("lock"))?;
    lock.lock()?;
    let made = home.join("made");
    let stamp = home.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|old| old == SCRIPT) {
        return Ok(made);
    }
    if made.exists() {
        fs::remove_dir_all(&made)?;
    }
    fs::create_dir_all(&made)?;
    let log = File::create(home.join("log"))?;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).current_dir(&made).stdin(Stdio::null());
    let status = command.stdout(log.try_clone()?).stderr(log).status()?;
    if !status.success() {
        let text = fs::read_to_string(home.join("log")).unwrap_or_default();
        return Err(io::Error::other(format!("certificates cannot be made: {text}")));
    }
    fs::write(stamp, SCRIPT)?;
    Ok(made)
}
