//! Socket addresses of any family, printed the way nginx prints them.
//!
//! Used by listeners, streams, upstream peers and the `$remote_addr`-like variables.
//! nginx counterpart: `ngx_sock_ntop` and `ngx_inet6_ntop` in `ngx_inet.c`.

use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

/// An address a socket listens on, is bound to or is connected with.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Addr {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A Unix-domain socket; the path is empty for an unnamed peer.
    Unix(Arc<Path>),
}

impl Addr {
    /// The address of an unnamed Unix peer, which is what a connecting client has.
    #[must_use]
    pub fn unnamed_unix() -> Addr {
        thread_local! {
            static UNNAMED: Arc<Path> = Arc::from(Path::new(""));
        }
        Addr::Unix(UNNAMED.try_with(Arc::clone).unwrap_or_else(|_| Arc::from(Path::new(""))))
    }

    /// A Unix address with the given path (without the `unix:` prefix).
    pub fn unix(path: impl AsRef<Path>) -> Addr {
        Addr::Unix(Arc::from(path.as_ref()))
    }

    /// True for a Unix-domain address.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self, Addr::Unix(_))
    }

    /// The IP address, or `None` for a Unix address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Addr::Inet(address) => Some(address.ip()),
            Addr::Unix(_) => None,
        }
    }

    /// The port, or 0 for a Unix address.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Addr::Inet(address) => address.port(),
            Addr::Unix(_) => 0,
        }
    }

    /// The internet socket address, or `None` for a Unix address.
    #[must_use]
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Addr::Inet(address) => Some(*address),
            Addr::Unix(_) => None,
        }
    }

    /// Appends the address without its port, as `$remote_addr` shows it: `127.0.0.1`, `::1`, `unix:` (with the path
    /// when there is one).
    pub fn write_ip(&self, out: &mut Vec<u8>) {
        match self {
            Addr::Inet(SocketAddr::V4(address)) => write_v4(out, *address.ip()),
            Addr::Inet(SocketAddr::V6(address)) => write_v6(out, *address.ip()),
            Addr::Unix(path) => {
                out.extend_from_slice(b"unix:");
                out.extend_from_slice(path.as_os_str().as_bytes());
            }
        }
    }

    /// Appends the address with its port: `127.0.0.1:80`, `[::1]:80`, `unix:/path`.
    pub fn write_full(&self, out: &mut Vec<u8>) {
        match self {
            Addr::Inet(SocketAddr::V4(address)) => {
                write_v4(out, *address.ip());
                write_port(out, address.port());
            }
            Addr::Inet(SocketAddr::V6(address)) => {
                out.push(b'[');
                write_v6(out, *address.ip());
                out.push(b']');
                write_port(out, address.port());
            }
            Addr::Unix(_) => self.write_ip(out),
        }
    }

    /// The address as socket2 wants it.
    pub(crate) fn to_sockaddr(&self) -> io::Result<socket2::SockAddr> {
        match self {
            Addr::Inet(address) => Ok((*address).into()),
            Addr::Unix(path) => socket2::SockAddr::unix(path),
        }
    }

    /// Reads an address the kernel gave; families other than inet and Unix become an unnamed Unix address.
    pub(crate) fn from_rustix(address: &rustix::net::SocketAddrAny) -> Addr {
        if let Ok(inet) = SocketAddr::try_from(address.clone()) {
            return Addr::Inet(inet);
        }
        let Ok(unix) = rustix::net::SocketAddrUnix::try_from(address.clone()) else {
            return Addr::unnamed_unix();
        };
        match unix.path() {
            Some(path) if !path.to_bytes().is_empty() => {
                Addr::unix(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())))
            }
            _ => Addr::unnamed_unix(),
        }
    }
}

impl From<SocketAddr> for Addr {
    fn from(address: SocketAddr) -> Addr {
        Addr::Inet(address)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(56);
        self.write_full(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

/// Appends an IPv4 address in dotted form.
fn write_v4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        write_decimal(out, u16::from(octet));
    }
}

/// Appends an IPv6 address as nginx does: the first longest run of two or more zero groups becomes `::`, and mapped
/// and compatible addresses end in dotted form (nginx's test for these is looser than RFC 5952, so it is repeated here).
fn write_v6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    let groups = ip.segments();
    let octets = ip.octets();
    let (zero_start, zero_len) = longest_zero_run(&groups);
    let dotted = zero_len > 1
        && zero_start == 0
        && match zero_len {
            5 => groups[5] == 0xffff,
            6 => true,
            7 => octets[14] != 0 && octets[15] != 1,
            _ => false,
        };
    let end = if dotted { 6 } else { 8 };
    if zero_len > 1 && zero_start == 0 {
        out.push(b':');
    }
    let mut index = 0;
    while index < end {
        if zero_len > 1 && index == zero_start {
            out.push(b':');
            index += zero_len;
            continue;
        }
        // Writing into a Vec cannot fail.
        let _ = write!(out, "{:x}", groups[index]);
        if index < 7 {
            out.push(b':');
        }
        index += 1;
    }
    if dotted {
        write_v4(out, Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]));
    }
}

/// Start and length of the first longest run of zero groups.
fn longest_zero_run(groups: &[u16; 8]) -> (usize, usize) {
    let (mut best, mut run) = ((0, 0), (0, 0));
    for (index, group) in groups.iter().enumerate() {
        if *group != 0 {
            run = (index + 1, 0);
            continue;
        }
        run.1 += 1;
        if run.1 > best.1 {
            best = run;
        }
    }
    best
}

/// Appends `:port`.
fn write_port(out: &mut Vec<u8>, port: u16) {
    out.push(b':');
    write_decimal(out, port);
}

/// Appends a small number in decimal, without the formatting machinery: this runs for every logged request.
fn write_decimal(out: &mut Vec<u8>, mut value: u16) {
    let mut digits = [0u8; 5];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, full: &str, ip: &str) {
        let address = Addr::Inet(address.parse().unwrap());
        let mut text = Vec::new();
        address.write_ip(&mut text);
        assert_eq!((address.to_string().as_str(), std::str::from_utf8(&text).unwrap()), (full, ip));
    }

    #[test]
    fn display_v4_prints_dotted() {
        check("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1");
        check("255.10.0.9:65535", "255.10.0.9:65535", "255.10.0.9");
    }

    #[test]
    fn display_v6_compresses_like_nginx() {
        check("[::1]:80", "[::1]:80", "::1");
        check("[::]:0", "[::]:0", "::");
        check("[2001:db8:0:0:1:0:0:1]:8", "[2001:db8::1:0:0:1]:8", "2001:db8::1:0:0:1");
        check("[1:0:2:0:3:0:4:0]:8", "[1:0:2:0:3:0:4:0]:8", "1:0:2:0:3:0:4:0");
        check("[1:2:3:4:5:6:0:0]:8", "[1:2:3:4:5:6::]:8", "1:2:3:4:5:6::");
        check("[fe80::1]:443", "[fe80::1]:443", "fe80::1");
    }

    #[test]
    fn display_v6_mapped_prints_dotted_tail() {
        check("[::ffff:10.1.2.3]:80", "[::ffff:10.1.2.3]:80", "::ffff:10.1.2.3");
        check("[::10.1.2.3]:80", "[::10.1.2.3]:80", "::10.1.2.3");
    }

    #[test]
    fn display_unix_prints_prefix() {
        assert_eq!(Addr::unix("/run/a.sock").to_string(), "unix:/run/a.sock");
        assert_eq!(Addr::unnamed_unix().to_string(), "unix:");
        assert_eq!(Addr::unnamed_unix().port(), 0);
    }
}
