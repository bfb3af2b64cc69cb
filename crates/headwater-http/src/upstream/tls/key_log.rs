//! `*_ssl_key_log`: secrets of sessions for programs that look into recorded traffic.
//!
//! Called by rustls. nginx's counterpart: the directive of its commercial version. The format is that of NSS (`SSLKEYLOGFILE`).

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustls::KeyLog;

/// The file.
#[derive(Debug)]
pub(super) struct KeyLogFile(File);

impl KeyLogFile {
    /// Opens it for appending; what is made is for its owner alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for (bytes, end) in [(client_random, ' '), (secret, '\n')] {
            for byte in bytes {
                let _ = write!(line, "{byte:02x}");
            }
            line.push(end);
        }
        // One write, so that lines of several workers do not mix. There is no one to tell when it fails.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}
