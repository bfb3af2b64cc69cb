//! Socket options as plain records and methods on [`Stream`].
//!
//! Called when a connection is accepted, opened or finished. nginx counterparts: `ngx_tcp_nodelay`, `ngx_tcp_push`,
//! the `so_keepalive` parameter of `listen`, and `$tcpinfo_*`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::sockopt;

use crate::addr::Addr;
use crate::fault::{Op, point};
use crate::stream::Stream;
use crate::sys;

/// TCP keepalive of a socket: `so_keepalive=on|off|[idle]:[interval]:[count]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepaliveParams {
    /// Whether keepalive probes are sent at all.
    pub on: bool,
    /// `TCP_KEEPIDLE`, seconds; the system's default when `None`.
    pub idle: Option<u32>,
    /// `TCP_KEEPINTVL`, seconds; the system's default when `None`.
    pub intvl: Option<u32>,
    /// `TCP_KEEPCNT`, probes; the system's default when `None`.
    pub cnt: Option<u32>,
}

/// What the kernel knows about a TCP connection: `$tcpinfo_rtt` and its siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Round-trip time variance, microseconds.
    pub rttvar_us: u32,
    /// Congestion window, segments.
    pub snd_cwnd: u32,
    /// Advertised receive space, bytes.
    pub rcv_space: u32,
}

/// Applies keepalive parameters to any TCP socket.
pub(crate) fn apply_keepalive(fd: BorrowedFd<'_>, params: &KeepaliveParams) -> io::Result<()> {
    point(Op::SocketOption)?;
    sockopt::set_socket_keepalive(fd, params.on)?;
    if !params.on {
        return Ok(());
    }
    if let Some(idle) = params.idle {
        sockopt::set_tcp_keepidle(fd, Duration::from_secs(idle.into()))?;
    }
    if let Some(interval) = params.intvl {
        sockopt::set_tcp_keepintvl(fd, Duration::from_secs(interval.into()))?;
    }
    if let Some(count) = params.cnt {
        sockopt::set_tcp_keepcnt(fd, count)?;
    }
    Ok(())
}

impl Stream {
    /// `TCP_NODELAY`; does nothing on a Unix socket.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        if self.is_unix() {
            return Ok(());
        }
        point(Op::SocketOption)?;
        Ok(sockopt::set_tcp_nodelay(self.as_fd(), on)?)
    }

    /// `TCP_CORK`, which `tcp_nopush` means on Linux; does nothing on a Unix socket.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_cork(&self, on: bool) -> io::Result<()> {
        if self.is_unix() {
            return Ok(());
        }
        point(Op::SocketOption)?;
        Ok(sockopt::set_tcp_cork(self.as_fd(), on)?)
    }

    /// TCP keepalive; on a Unix socket only `SO_KEEPALIVE` itself has a meaning, so it does nothing there.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_keepalive(&self, params: &KeepaliveParams) -> io::Result<()> {
        if self.is_unix() {
            return Ok(());
        }
        apply_keepalive(self.as_fd(), params)
    }

    /// `SO_SNDBUF` in bytes.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_sndbuf(&self, bytes: usize) -> io::Result<()> {
        point(Op::SocketOption)?;
        Ok(sockopt::set_socket_send_buffer_size(self.as_fd(), bytes)?)
    }

    /// `SO_RCVBUF` in bytes.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_rcvbuf(&self, bytes: usize) -> io::Result<()> {
        point(Op::SocketOption)?;
        Ok(sockopt::set_socket_recv_buffer_size(self.as_fd(), bytes)?)
    }

    /// Makes closing send RST and drop unsent data at once: `reset_timedout_connection`.
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn set_linger_zero(&self) -> io::Result<()> {
        point(Op::SocketOption)?;
        Ok(sockopt::set_socket_linger(self.as_fd(), Some(Duration::ZERO))?)
    }

    /// Closes the sending half: the peer reads an end of file, this side can still read.
    ///
    /// # Errors
    /// What `shutdown(2)` returns; `NotConnected` when the peer is gone.
    pub fn shutdown_write(&self) -> io::Result<()> {
        point(Op::SocketOption)?;
        Ok(rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Write)?)
    }

    /// The local address.
    ///
    /// # Errors
    /// What `getsockname(2)` returns.
    pub fn local_addr(&self) -> io::Result<Addr> {
        point(Op::SocketOption)?;
        Ok(Addr::from_rustix(&rustix::net::getsockname(self.as_fd())?))
    }

    /// The peer's address.
    ///
    /// # Errors
    /// What `getpeername(2)` returns; `NotConnected` when the peer is gone.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        match rustix::net::getpeername(self.as_fd())? {
            Some(address) => Ok(Addr::from_rustix(&address)),
            None => Ok(Addr::unnamed_unix()),
        }
    }

    /// What the kernel measured on this connection; `None` unless it is TCP.
    #[must_use]
    pub fn tcp_info(&self) -> Option<TcpInfo> {
        if self.is_unix() { None } else { sys::tcp_info(self.as_fd()) }
    }
}
