//! Listening sockets and accepting from them.
//!
//! [`bind`] is called while configuration is applied; each worker then makes an [`Acceptor`] of its own from the
//! shared [`ListenSocket`]. nginx counterparts: `ngx_open_listening_sockets`, `ngx_configure_listening_sockets` and
//! `ngx_event_accept`.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::addr::Addr;
use crate::fault::{Op, point};
use crate::sockopt::{KeepaliveParams, apply_keepalive};
use crate::stream::{Stream, StreamKind};
use crate::sys;

/// The socket part of a `listen` directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Where to listen.
    pub addr: Addr,
    /// Length of the queue of pending connections.
    pub backlog: i32,
    /// `SO_REUSEPORT`: bind once per worker and let the kernel spread connections.
    pub reuseport: bool,
    /// `IPV6_V6ONLY`; on when `None`, as in nginx.
    pub ipv6only: Option<bool>,
    /// `SO_RCVBUF`, bytes.
    pub rcvbuf: Option<usize>,
    /// `SO_SNDBUF`, bytes.
    pub sndbuf: Option<usize>,
    /// `TCP_FASTOPEN` queue length.
    pub fastopen: Option<i32>,
    /// `TCP_DEFER_ACCEPT`: hand over a connection only when its first data is there.
    pub deferred: bool,
    /// `SO_KEEPALIVE` and its times.
    pub keepalive: Option<KeepaliveParams>,
}

impl ListenOptions {
    /// nginx's defaults for an address.
    #[must_use]
    pub fn new(addr: Addr) -> ListenOptions {
        ListenOptions {
            addr,
            backlog: 511,
            reuseport: false,
            ipv6only: None,
            rcvbuf: None,
            sndbuf: None,
            fastopen: None,
            deferred: false,
            keepalive: None,
        }
    }
}

/// A listening socket, shared by all workers; the last clone closes it and removes the path of a Unix socket.
#[derive(Clone, Debug)]
pub struct ListenSocket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: OwnedFd,
    addr: Addr,
    /// Whether the path of a Unix socket goes away with the socket.
    unlink: AtomicBool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Addr::Unix(path) = &self.addr
            && self.unlink.load(Ordering::Relaxed)
            && !path.as_os_str().is_empty()
        {
            // Someone may have removed the path before; there is nothing left to do then.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Opens a listening socket.
///
/// A Unix socket gets mode 0666. As in nginx, a path that a crashed server left behind is not removed but reported as
/// `AddrInUse`.
///
/// # Errors
/// What `socket(2)`, `setsockopt(2)`, `bind(2)`, `chmod(2)` and `listen(2)` return.
pub fn bind(options: &ListenOptions) -> io::Result<ListenSocket> {
    let domain = match &options.addr {
        Addr::Inet(SocketAddr::V4(_)) => Domain::IPV4,
        Addr::Inet(SocketAddr::V6(_)) => Domain::IPV6,
        Addr::Unix(_) => Domain::UNIX,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if options.reuseport && !options.addr.is_unix() {
        socket.set_reuse_port(true)?;
    }
    if let Addr::Inet(SocketAddr::V6(_)) = options.addr {
        socket.set_only_v6(options.ipv6only.unwrap_or(true))?;
    }
    socket.bind(&options.addr.to_sockaddr()?)?;
    let mut listening = ListenSocket::wrap(socket.into(), options.addr.clone());
    if let Addr::Unix(path) = &options.addr {
        make_public(path)?;
    }
    listening.configure(options)?;
    rustix::net::listen(listening.as_fd(), options.backlog)?;
    listening.learn_port()?;
    Ok(listening)
}

/// Lets every user connect, as nginx does.
fn make_public(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o666))
}

impl ListenSocket {
    /// Takes over a descriptor that already listens, such as one inherited from an old binary.
    ///
    /// # Errors
    /// When it is not a socket or cannot be made non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<ListenSocket> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        let addr = Addr::from_rustix(&rustix::net::getsockname(&fd)?);
        Ok(ListenSocket::wrap(fd, addr))
    }

    /// Another handle on the same socket; there is no new descriptor behind it.
    ///
    /// # Errors
    /// None at present.
    pub fn try_clone(&self) -> io::Result<ListenSocket> {
        Ok(self.clone())
    }

    /// Whether both are handles of one socket.
    #[must_use]
    pub fn same_as(&self, other: &ListenSocket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The address listened on, with the port the kernel chose if 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> &Addr {
        &self.0.addr
    }

    /// Keeps the path of a Unix socket when this socket is closed, because another process listens on it now.
    pub fn keep_path(&self) {
        self.0.unlink.store(false, Ordering::Relaxed);
    }

    /// Lets a program started by this one inherit the descriptor (binary upgrade), or stops that.
    ///
    /// # Errors
    /// What `fcntl(2)` returns.
    pub fn set_inheritable(&self, on: bool) -> io::Result<()> {
        let flags = if on { rustix::io::FdFlags::empty() } else { rustix::io::FdFlags::CLOEXEC };
        Ok(rustix::io::fcntl_setfd(self.as_fd(), flags)?)
    }

    /// Applies the options that may change on a reload, and the new length of the queue with [`ListenSocket::relisten`].
    ///
    /// # Errors
    /// What `setsockopt(2)` returns.
    pub fn configure(&self, options: &ListenOptions) -> io::Result<()> {
        let fd = self.as_fd();
        if let Some(bytes) = options.rcvbuf {
            rustix::net::sockopt::set_socket_recv_buffer_size(fd, bytes)?;
        }
        if let Some(bytes) = options.sndbuf {
            rustix::net::sockopt::set_socket_send_buffer_size(fd, bytes)?;
        }
        if options.addr.is_unix() {
            return Ok(());
        }
        if let Some(params) = &options.keepalive {
            apply_keepalive(fd, params)?;
        }
        if let Some(queue) = options.fastopen {
            sys::setsockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)?;
        }
        sys::setsockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32::from(options.deferred))
    }

    /// Changes the length of the queue of pending connections.
    ///
    /// # Errors
    /// What `listen(2)` returns.
    pub fn relisten(&self, backlog: i32) -> io::Result<()> {
        Ok(rustix::net::listen(self.as_fd(), backlog)?)
    }

    fn wrap(fd: OwnedFd, addr: Addr) -> ListenSocket {
        ListenSocket(Arc::new(Shared { fd, addr, unlink: AtomicBool::new(true) }))
    }

    /// Replaces port 0 by the one the kernel chose; only called before the socket is shared.
    fn learn_port(&mut self) -> io::Result<()> {
        if let Some(shared) = Arc::get_mut(&mut self.0)
            && let Addr::Inet(address) = &mut shared.addr
            && address.port() == 0
            && let Some(actual) = Addr::from_rustix(&rustix::net::getsockname(&shared.fd)?).inet()
        {
            address.set_port(actual.port());
        }
        Ok(())
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// One worker's view of a listening socket: a duplicate of the descriptor in the worker's reactor.
#[derive(Debug)]
pub struct Acceptor {
    fd: AsyncFd<OwnedFd>,
    socket: ListenSocket,
}

impl Acceptor {
    /// Registers the socket with the current worker.
    ///
    /// # Errors
    /// What `dup(2)` and `epoll_ctl(2)` return; `Other` outside of a runtime.
    pub fn new(socket: &ListenSocket) -> io::Result<Acceptor> {
        let fd = socket.0.fd.try_clone()?;
        Ok(Acceptor { fd: sys::readable_fd(fd)?, socket: socket.clone() })
    }

    /// The socket accepted from.
    #[must_use]
    pub fn socket(&self) -> &ListenSocket {
        &self.socket
    }

    /// Waits for a connection.
    ///
    /// A connection that the client gave up before it was accepted is skipped.
    ///
    /// # Errors
    /// What `accept4(2)` returns. After `EMFILE` and `ENFILE` (see [`is_out_of_descriptors`]) the connection is still
    /// queued: the caller must wait (nginx waits 500 ms) before the next call.
    pub async fn accept(&self) -> io::Result<(Stream, Addr)> {
        loop {
            let mut guard = self.fd.readable().await?;
            point(Op::Accept)?;
            match rustix::net::acceptfrom_with(
                self.fd.get_ref(),
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok((fd, peer)) => {
                    let peer = peer.map_or_else(Addr::unnamed_unix, |peer| Addr::from_rustix(&peer));
                    let kind = if self.socket.addr().is_unix() { StreamKind::Unix } else { StreamKind::Tcp };
                    return Ok((Stream::from_fd(fd, kind)?, peer));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether an error of [`Acceptor::accept`] means that the process or the system has no descriptor left.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
