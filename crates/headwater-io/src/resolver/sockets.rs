//! The resolver's sockets: one connected UDP socket per server while something is being asked, a TCP connection per truncated answer.
//!
//! Connected sockets take datagrams of their server only, and each new one has another random port. Called by the driver. nginx's counterpart:
//! `ngx_udp_connect`, `ngx_resolver_udp_read`, `ngx_resolver_tcp_read`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UdpSocket};

use crate::timer::{Timer, with_timeout};

/// Longest datagram that is taken; nobody is told that more than 512 bytes are welcome.
const DATAGRAM: usize = 4096;

/// How long an exchange over TCP may last.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

type Log = dyn Fn(fmt::Arguments<'_>);

/// The UDP sockets.
pub(super) struct Datagrams {
    servers: Vec<SocketAddr>,
    sockets: Vec<Option<UdpSocket>>,
    buffer: Box<[u8]>,
    log: Rc<Log>,
}

impl Datagrams {
    pub(super) fn new(servers: Vec<SocketAddr>, log: Rc<Log>) -> Self {
        let sockets = servers.iter().map(|_| None).collect();
        Self { servers, sockets, buffer: Box::default(), log }
    }

    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Sends to a server; false when the system says at once that it is no use.
    pub(super) fn send(&mut self, server: usize, message: &[u8]) -> bool {
        let (Some(address), Some(slot)) = (self.servers.get(server), self.sockets.get_mut(server)) else {
            return false;
        };
        let socket = match slot {
            Some(socket) => socket,
            None => match connect(*address) {
                Ok(socket) => slot.insert(socket),
                Err(error) => {
                    failed(&*self.log, "connect()", *address, &error);
                    return false;
                }
            },
        };
        match socket.try_send(message) {
            Ok(sent) if sent == message.len() => true,
            Ok(_) => false,
            Err(error) => {
                failed(&*self.log, "send()", *address, &error);
                *slot = None;
                false
            }
        }
    }

    /// The next datagram and the server it came from.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Vec<u8>)> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; DATAGRAM].into();
        }
        for (server, slot) in self.sockets.iter_mut().enumerate() {
            let Some(socket) = slot else { continue };
            let mut buffer = ReadBuf::new(&mut self.buffer);
            match socket.poll_recv(cx, &mut buffer) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => return Poll::Ready((server, buffer.filled().to_vec())),
                Poll::Ready(Err(error)) => {
                    if let Some(address) = self.servers.get(server) {
                        failed(&*self.log, "recv()", *address, &error);
                    }
                    *slot = None;
                }
            }
        }
        Poll::Pending
    }

    /// Closes the sockets and gives the buffer back.
    pub(super) fn close(&mut self) {
        self.sockets.iter_mut().for_each(|slot| *slot = None);
        self.buffer = Box::default();
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
