//! The resolver's sockets: one connected UDP socket per server while something is being asked, a TCP connection per truncated answer.
//!
//! Connected sockets take datagrams of their server only, and each new one has another random port. Called by the driver. nginx's counterpart:
//! `ngx_udp_connect`, `ngx_resolver_udp_read`, `ngx_resolver_tcp_read`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{JoinHandle, spawn_local};

use crate::timer::{Timer, with_timeout};

/// Longest datagram that is taken; nobody is told that more than 512 bytes are welcome.
const DATAGRAM: usize = 4096;

/// How long an exchange over TCP may last.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

type Log = dyn Fn(fmt::Arguments<'_>);

/// What the sockets' tasks call with a datagram and the server it came from.
pub(super) type Received = Rc<dyn Fn(usize, &[u8])>;

/// The UDP sockets.
pub(super) struct Datagrams {
    servers: Vec<SocketAddr>,
    sockets: Vec<Option<Open>>,
    log: Rc<Log>,
}

/// A socket and the task that reads it.
struct Open {
    socket: Rc<UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Datagrams {
    pub(super) fn new(servers: Vec<SocketAddr>, log: Rc<Log>) -> Self {
        let sockets = servers.iter().map(|_| None).collect();
        Self { servers, sockets, log }
    }

    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Sends to a server; false when the system says at once that it is no use. `received` is for a socket that is opened now.
    pub(super) fn send(
        &mut self,
        server: usize,
        message: &[u8],
        received: impl FnOnce() -> Received,
    ) -> bool {
        let (Some(address), Some(slot)) = (self.servers.get(server).copied(), self.sockets.get_mut(server))
        else {
            return false;
        };
        // A socket whose task ended has failed.
        if slot.as_ref().is_some_and(|open| open.task.is_finished()) {
            *slot = None;
        }
        let open = match slot {
            Some(open) => open,
            None => match connect(address) {
                Ok(socket) => {
                    let socket = Rc::new(socket);
                    let reading = receive(server, address, socket.clone(), received(), self.log.clone());
                    slot.insert(Open { socket, task: spawn_local(reading) })
                }
                Err(error) => {
                    failed(&*self.log, "connect()", address, &error);
                    return false;
                }
            },
        };
        // Not through tokio: it does not know yet that a fresh socket can be written to.
        match rustix::net::send(&*open.socket, message, SendFlags::empty()).map_err(io::Error::from) {
            Ok(sent) if sent == message.len() => true,
            Ok(_) => false,
            Err(error) => {
                failed(&*self.log, "send()", address, &error);
                *slot = None;
                false
            }
        }
    }

    /// Closes the sockets.
    pub(super) fn close(&mut self) {
        self.sockets.iter_mut().for_each(|slot| *slot = None);
    }
}

/// Reads one socket until it fails, which a server that does not listen makes it do.
async fn receive(
    server: usize,
    address: SocketAddr,
    socket: Rc<UdpSocket>,
    received: Received,
    log: Rc<Log>,
) {
    let mut buffer = vec![0; DATAGRAM];
    let interest = Interest::READABLE.add(Interest::ERROR);
    loop {
        let ready = socket.ready(interest).await;
        let read = ready.and_then(|ready| {
            // tokio forgets one kind of readiness at a time only.
            let kind = if ready.is_error() { Interest::ERROR } else { Interest::READABLE };
            socket.try_io(kind, || {
                rustix::net::recv(&*socket, buffer.as_mut_slice(), RecvFlags::empty())
                    .map_err(io::Error::from)
            })
        });
        match read {
            Ok((length, _)) => received(server, buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return failed(&*log, "recv()", address, &error),
        }
    }
}

fn failed(log: &Log, call: &str, server: SocketAddr, error: &io::Error) {
    let number = error.raw_os_error().unwrap_or(0);
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    log(format_args!("{call} failed ({number}: {words}) while resolving, resolver: {server}"));
}

/// A UDP socket that knows its peer; the kernel chooses a random port.
fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking().cloexec(), None)?;
    // Not bound before: until it has a peer, such a socket would take datagrams from anybody.
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

/// Asks over TCP; `None` when that came to nothing.
pub(super) async fn exchange(server: SocketAddr, message: &[u8], log: &Log) -> Option<Vec<u8>> {
    let timer = Timer::new();
    match with_timeout(&timer, TCP_TIMEOUT, ask(server, message)).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err((call, error))) => {
            failed(log, call, server, &error);
            None
        }
        // The question is sent again, or nobody waits any longer.
        Err(_) => None,
    }
}

async fn ask(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, (&'static str, io::Error)> {
    let connecting = TcpStream::connect(server).await;
    let mut stream = connecting.map_err(|error| ("connect()", error))?;
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await.map_err(|error| ("send()", error))?;
    let length = stream.read_u16().await.map_err(|error| ("recv()", error))?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(|error| ("recv()", error))?;
    Ok(answer)
}
