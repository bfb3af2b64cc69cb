//! Opening a connection to a peer.
//!
//! Called by the upstream engine (which sets the timeout around it) and by the resolver over TCP.
//! nginx counterpart: `ngx_event_connect_peer`.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use socket2::{Domain, Socket, Type};

use crate::addr::Addr;
use crate::fault::{Op, point};
use crate::stream::{Stream, StreamKind};
use crate::sys;

/// How to connect: `proxy_bind`, `proxy_socket_keepalive` and buffer sizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// The local address to bind to before connecting; port 0 lets the kernel choose.
    pub local: Option<SocketAddr>,
    /// Allow `local` to be an address this host does not have (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// `SO_KEEPALIVE`.
    pub keepalive: bool,
    /// `SO_SNDBUF`, bytes.
    pub sndbuf: Option<usize>,
    /// `SO_RCVBUF`, bytes.
    pub rcvbuf: Option<usize>,
    /// Whether something is sent as soon as there is a connection: it acknowledges the peer's part of the handshake, so that no segment
    /// of its own has to (`TCP_QUICKACK` off).
    pub speaks_first: bool,
}

/// A call that prepares a socket and failed: nothing was tried with the peer. It is the inner error of what [`Stream::connect`] returns.
#[derive(Debug)]
pub struct SetupError {
    /// `bind`, `setsockopt(SO_RCVBUF)`.
    pub call: &'static str,
    /// What the call returned.
    pub error: io::Error,
}

impl SetupError {
    /// The call inside of an error of [`Stream::connect`], if it was one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&SetupError> {
        error.get_ref()?.downcast_ref()
    }

    fn wrap(call: &'static str) -> impl FnOnce(io::Error) -> io::Error {
        move |error| io::Error::new(error.kind(), SetupError { call, error })
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.call)
    }
}

impl std::error::Error for SetupError {}

impl Stream {
    /// Connects to `addr` and registers the socket with the current worker.
    ///
    /// # Errors
    /// What `socket(2)`, `bind(2)` and `connect(2)` return, also when the failure is reported later
    /// (`ConnectionRefused`, `TimedOut`, ...); `Other` outside of a runtime.
    pub async fn connect(addr: &Addr, options: &ConnectOptions) -> io::Result<Stream> {
        point(Op::Connect)?;
        let socket = open(addr, options)?;
        let kind = if addr.is_unix() { StreamKind::Unix } else { StreamKind::Tcp };
        let waiting = match socket.connect(&addr.to_sockaddr()?) {
            Ok(()) => false,
            // EAGAIN from a Unix socket means a full backlog, which nginx reports as a failure, too.
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            Err(error) => return Err(error),
        };
        let stream = Stream::from_fd(socket.into(), kind)?;
        if waiting {
            poll_fn(|cx| stream.poll_write_ready(cx)).await?;
            rustix::net::sockopt::socket_error(stream.as_fd())??;
        }
        Ok(stream)
    }
}

/// Makes the socket and applies everything that must precede `connect`.
fn open(addr: &Addr, options: &ConnectOptions) -> io::Result<Socket> {
    let domain = match addr {
        Addr::Inet(SocketAddr::V4(_)) => Domain::IPV4,
        Addr::Inet(SocketAddr::V6(_)) => Domain::IPV6,
        Addr::Unix(_) => Domain::UNIX,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if let Some(bytes) = options.rcvbuf {
        socket.set_recv_buffer_size(bytes).map_err(SetupError::wrap("setsockopt(SO_RCVBUF)"))?;
    }
    if let Some(bytes) = options.sndbuf {
        socket.set_send_buffer_size(bytes).map_err(SetupError::wrap("setsockopt(SO_SNDBUF)"))?;
    }
    if options.keepalive {
        socket.set_keepalive(true)?;
    }
    if options.speaks_first && !addr.is_unix() {
        // Only saves a segment: no reason to fail.
        let _ = rustix::net::sockopt::set_tcp_quickack(&socket, false);
    }
    if let (Some(local), Addr::Inet(_)) = (options.local, addr) {
        bind_local(&socket, local, options.transparent)?;
    }
    Ok(socket)
}

/// Binds the local end.
fn bind_local(socket: &Socket, local: SocketAddr, transparent: bool) -> io::Result<()> {
    if transparent {
        match local {
            SocketAddr::V4(_) => {
                socket.set_ip_transparent_v4(true).map_err(SetupError::wrap("setsockopt(IP_TRANSPARENT)"))?
            }
            SocketAddr::V6(_) => socket
                .set_ip_transparent_v6(true)
                .map_err(SetupError::wrap("setsockopt(IPV6_TRANSPARENT)"))?,
        }
    }
    if local.port() == 0 {
        // Lets the kernel choose the port at connect(), when it knows the peer: more connections than ports are
        // possible then. Refused by old kernels, which does no harm.
        let _ = sys::setsockopt_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
    }
    socket.bind(&local.into()).map_err(SetupError::wrap("bind"))
}
