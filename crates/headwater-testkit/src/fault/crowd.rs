//! Many slow clients on one thread, and an origin that knows when its connections are free.
//!
//! Called by the test of slow clients and by `bench/slow-clients`. Every byte is checked against the pattern that the origin sends.
//! nginx counterpart: none.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};

/// How often a client reads.
const TURN: Duration = Duration::from_millis(100);
/// Length of the pattern, bytes: a prime, so that pieces at wrong places show.
const PATTERN: usize = 65_521;

/// The byte at a place of a body.
fn pattern() -> Vec<u8> {
    (0..PATTERN).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap_or_default()).collect()
}

/// An origin of large responses.
#[derive(Debug)]
pub struct Source {
    port: u16,
    open: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
}

impl Source {
    /// Starts one whose bodies have this length. It answers one request per connection and closes.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(length: usize) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(2048)?;
        let listener = TcpListener::from(socket);
        let port = listener.local_addr()?.port();
        let (open, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, done) = (Arc::clone(&open), Arc::clone(&served));
        let pattern = Arc::new(pattern());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (open, served, pattern) = (Arc::clone(&opened), Arc::clone(&done), Arc::clone(&pattern));
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // A connection that breaks is counted as one that was not served.
                    if serve(stream, &pattern, length).is_ok() {
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { port, open, served })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Responses that the server has taken whole.
    #[must_use]
    pub fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, pattern: &[u8], length: usize) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let mut left = length;
    while left > 0 {
        let step = left.min(pattern.len());
        stream.write_all(&pattern[..step])?;
        left -= step;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // Free when the server has let go, which is what is measured.
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// What slow clients are to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many there are.
    pub clients: usize,
    /// Bytes per second that each reads.
    pub rate: usize,
    /// Length of the body each asked for.
    pub length: usize,
    /// When they stop, done or not.
    pub limit: Duration,
}

/// What came of slow clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Bytes of bodies, all of them right.
    pub bytes: u64,
    /// Clients that have the whole body.
    pub done: usize,
    /// Clients that got a wrong byte, a wrong status or an early end.
    pub wrong: usize,
    /// Seconds until all connections to the origin were free; nothing when they never were.
    pub freed: Option<Duration>,
    /// Until when the clients read.
    pub took: Duration,
    /// The server's largest resident size, by turns, bytes.
    pub resident: u64,
}

struct Client {
    stream: TcpStream,
    head: Vec<u8>,
    in_body: bool,
    received: usize,
    allowed: usize,
    over: bool,
}

/// Runs slow clients against a server; `pid` is the process whose memory is looked at.
///
/// # Errors
/// When they cannot connect, or the process is gone.
pub fn run(port: u16, pid: u32, source: &Source, plan: Plan) -> io::Result<Outcome> {
    let pattern = pattern();
    let mut clients = Vec::with_capacity(plan.clients);
    for _ in 0..plan.clients {
        clients.push(connect(port)?);
    }
    let (start, mut outcome) = (Instant::now(), Outcome::default());
    let mut buffer = vec![0; 256 * 1024];
    let epoll = watch(&clients)?;
    while outcome.took < plan.limit && clients.iter().any(|client| !client.over) {
        outcome.took = start.elapsed();
        let share = plan.rate as f64 * outcome.took.as_secs_f64();
        for at in readable(&epoll, plan.clients)? {
            let Some(client) = clients.get_mut(at).filter(|client| !client.over) else { continue };
            client.allowed = share as usize;
            take(client, &mut buffer, &pattern, plan.length, &mut outcome);
        }
        if outcome.freed.is_none() && source.open() == 0 && source.served() >= plan.clients {
            outcome.freed = Some(start.elapsed());
        }
        outcome.resident = outcome.resident.max(super::usage::resident(pid)?);
        thread::sleep(TURN.saturating_sub(start.elapsed() - outcome.took));
    }
    Ok(outcome)
}

fn connect(port: u16) -> io::Result<Client> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Otherwise the kernel takes most of the body for the client.
    socket.set_recv_buffer_size(32 * 1024)?;
    socket.connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)).into(), Duration::from_secs(5))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    stream.set_nonblocking(true)?;
    Ok(Client { stream, head: Vec::new(), in_body: false, received: 0, allowed: 0, over: false })
}

fn watch(clients: &[Client]) -> io::Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (at, client) in clients.iter().enumerate() {
        let data = epoll::EventData::new_u64(at as u64);
        epoll::add(&set, &client.stream, data, epoll::EventFlags::IN)?;
    }
    Ok(set)
}

/// The clients that have something to read.
fn readable(set: &OwnedFd, most: usize) -> io::Result<Vec<usize>> {
    let mut events = Vec::with_capacity(most.max(1));
    let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    epoll::wait(set, rustix::buffer::spare_capacity(&mut events), Some(&at_once))?;
    Ok(events.iter().filter_map(|event| usize::try_from(event.data.u64()).ok()).collect())
}

/// Reads what the client may have by now and compares it.
fn take(client: &mut Client, buffer: &mut [u8], pattern: &[u8], length: usize, outcome: &mut Outcome) {
    while client.received < client.allowed && !client.over {
        let want = (client.allowed - client.received).min(buffer.len());
        let count = match client.stream.read(&mut buffer[..want]) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => 0,
        };
        let mut body = &buffer[..count];
        let mut rest = Vec::new();
        if !client.in_body && count > 0 {
            client.head.extend_from_slice(body);
            let Some(end) = crate::text::find(&client.head, b"\r\n\r\n") else { continue };
            rest = client.head.split_off(end + 4);
            client.in_body = client.head.starts_with(b"HTTP/1.1 200 ");
            client.over = !client.in_body;
            body = &rest;
        }
        let right = matches(body, client.received, pattern) && !client.over;
        client.received += body.len();
        outcome.bytes += body.len() as u64;
        let whole = client.received == length;
        client.over |= whole || !right || count == 0;
        outcome.done += usize::from(whole && right);
        outcome.wrong += usize::from(client.over && !(whole && right));
        drop(rest);
    }
}

fn matches(body: &[u8], from: usize, pattern: &[u8]) -> bool {
    let mut at = from % PATTERN;
    let mut left = body;
    while !left.is_empty() {
        let step = left.len().min(PATTERN - at);
        if left[..step] != pattern[at..at + step] {
            return false;
        }
        left = &left[step..];
        at = 0;
    }
    true
}
