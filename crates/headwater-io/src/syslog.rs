//! Log messages to a syslog server over UDP or a Unix datagram socket, never waiting for it.
//!
//! Used by `access_log syslog:` and `error_log syslog:`; may be shared by workers.
//! nginx counterpart: `ngx_syslog.c` (RFC 3164).

use std::io::{self, IoSlice, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockRef, Socket, Type};

use crate::addr::Addr;
use crate::clock;
use crate::sys;

/// Facility names in the order of their codes.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp",
    "ntp", "audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Severity names in the order of their codes; `debug` is 7.
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];

/// Where messages go and how they are marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyslogOptions {
    /// `server=`.
    pub server: Addr,
    /// `facility=`, 0–23; nginx's default is 23, `local7`.
    pub facility: u8,
    /// `severity=`, 0–7; nginx's default is 6, `info`.
    pub severity: u8,
    /// `tag=`; nginx's default is `nginx`.
    pub tag: String,
    /// `None` for `nohostname`.
    pub hostname: Option<String>,
}

/// The code of a facility name such as `local7`.
#[must_use]
pub fn facility(name: &str) -> Option<u8> {
    FACILITIES.iter().position(|known| *known == name).map(|code| code as u8)
}

/// The code of a severity name such as `info`.
#[must_use]
pub fn severity(name: &str) -> Option<u8> {
    SEVERITIES.iter().position(|known| *known == name).map(|code| code as u8)
}

/// A connected datagram socket with its marks. When the server is away, messages are lost and later ones try again.
#[derive(Debug)]
pub struct Syslog {
    options: SyslogOptions,
    socket: Socket,
    connected: AtomicBool,
}

impl Syslog {
    /// Makes the socket; the server need not be there yet.
    ///
    /// # Errors
    /// What `socket(2)` returns.
    pub fn new(options: SyslogOptions) -> io::Result<Syslog> {
        let socket = open(&options.server)?;
        Ok(Syslog { options, socket, connected: AtomicBool::new(false) })
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> &SyslogOptions {
        &self.options
    }

    /// Sends a message with the configured severity. A trailing line feed is left out.
    ///
    /// # Errors
    /// What `connect(2)` and `send(2)` return; the message is lost.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        self.send_with(self.options.severity, message)
    }

    /// Sends a message with a severity of its own, as the error log does.
    ///
    /// # Errors
    /// As [`Syslog::send`].
    pub fn send_with(&self, severity: u8, message: &[u8]) -> io::Result<()> {
        self.connect()?;
        let mut head = Vec::with_capacity(64);
        self.write_head(&mut head, severity);
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        let sent = SockRef::from(&self.socket).send_vectored(&[IoSlice::new(&head), IoSlice::new(message)]);
        match sent {
            Ok(_) => Ok(()),
            // The server is slow: this message is lost, the socket is as good as before.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                self.reset();
                Err(error)
            }
        }
    }

    /// Appends `<PRI>TIME HOST TAG: `.
    fn write_head(&self, out: &mut Vec<u8>, severity: u8) {
        // Writing into a Vec cannot fail.
        let _ = write!(out, "<{}>", u32::from(self.options.facility) * 8 + u32::from(severity));
        clock::with_syslog_time(|time| out.extend_from_slice(time));
        out.push(b' ');
        if let Some(hostname) = &self.options.hostname {
            out.extend_from_slice(hostname.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(self.options.tag.as_bytes());
        out.extend_from_slice(b": ");
    }

    fn connect(&self) -> io::Result<()> {
        if !self.connected.load(Ordering::Acquire) {
            self.socket.connect(&self.options.server.to_sockaddr()?)?;
            self.connected.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Puts a fresh socket in the place of a broken one; the next message connects it.
    fn reset(&self) {
        self.connected.store(false, Ordering::Release);
        // Without descriptors the old socket stays, and its next connect() may still succeed.
        let _ =
            open(&self.options.server).and_then(|fresh| sys::replace_fd(fresh.as_fd(), self.socket.as_fd()));
    }
}

fn open(server: &Addr) -> io::Result<Socket> {
    let domain = match server {
        Addr::Inet(SocketAddr::V4(_)) => Domain::IPV4,
        Addr::Inet(SocketAddr::V6(_)) => Domain::IPV6,
        Addr::Unix(_) => Domain::UNIX,
    };
    Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)
}
