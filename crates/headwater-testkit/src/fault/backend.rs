//! Back ends that play scripts, and what they saw.
//!
//! One thread per connection. The request's URI says which script is played; the peer called `B` is the one that is asked when `A` failed,
//! and always answers well. nginx counterpart: none.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::script::{Act, Script};
use crate::text::find;

/// How long a script that hangs waits for the other side.
const HANG: Duration = Duration::from_secs(3);
/// What a good back end answers.
pub const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Peer: B\r\n\r\nright";

/// What the back ends of one server saw.
#[derive(Debug, Default)]
pub struct Record {
    cells: Mutex<HashMap<u32, Vec<String>>>,
    open: AtomicUsize,
    stop: AtomicBool,
}

impl Record {
    /// What they saw of a cell, which is forgotten by that.
    #[must_use]
    pub fn take(&self, cell: u32) -> Vec<String> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(&cell).unwrap_or_default()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn note(&self, cell: u32, text: String) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).entry(cell).or_default().push(text);
    }
}

/// A listening back end; its thread ends when it is dropped.
#[derive(Debug)]
pub struct Backend {
    port: u16,
    record: Arc<Record>,
}

impl Backend {
    /// Starts one with a name that its record shows.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(name: &'static str, scripts: Arc<Vec<Script>>, record: Arc<Record>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Small, so that who does not read stops the other side soon.
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0))))?;
        socket.listen(1024)?;
        let listener = TcpListener::from(socket);
        let port = listener.local_addr()?.port();
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (scripts, record) = (Arc::clone(&scripts), Arc::clone(&shared));
                thread::spawn(move || {
                    record.open.fetch_add(1, Ordering::Relaxed);
                    // A script that cannot go on has met the end of its connection.
                    let _ = serve(name, &stream, &scripts, &record);
                    record.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { port, record })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.record.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A port whose connections are refused as long as this is held.
///
/// # Errors
/// When no port is free.
pub fn refusing() -> io::Result<(Socket, u16)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0))))?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}

/// A port whose connections are neither accepted nor refused as long as this is held: its queue is full.
///
/// # Errors
/// When no port is free.
pub fn stuck() -> io::Result<(Vec<Socket>, u16)> {
    let (socket, port) = refusing()?;
    socket.listen(0)?;
    let mut held = vec![socket];
    for _ in 0..4 {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        filler.set_nonblocking(true)?;
        let _ = filler.connect(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], port))));
        held.push(filler);
    }
    thread::sleep(Duration::from_millis(50));
    Ok((held, port))
}

/// A connection with what was read of it and not used yet.
struct Incoming<'a> {
    stream: &'a TcpStream,
    bytes: Vec<u8>,
}

impl Incoming<'_> {
    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16_384];
        let count = (&mut &*self.stream).read(&mut buffer)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    fn head(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.bytes, b"\r\n\r\n") {
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads a body; gives its length, decoded.
    fn body(&mut self, head: &str) -> io::Result<usize> {
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if let Some(length) = length {
            return self.some(length);
        }
        if !lower.contains("transfer-encoding: chunked") {
            return Ok(0);
        }
        while !self.bytes.ends_with(b"0\r\n\r\n") {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut body = Vec::new();
        let _ = crate::response::read_chunks(&std::mem::take(&mut self.bytes), &mut body, &mut Vec::new());
        Ok(body.len())
    }

    fn some(&mut self, length: usize) -> io::Result<usize> {
        let mut left = length;
        loop {
            let step = left.min(self.bytes.len());
            self.bytes.drain(..step);
            left -= step;
            if left == 0 {
                return Ok(length);
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Whether the other side closed, whatever it sent before.
fn has_left(stream: &TcpStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(poll(&mut polled, Some(&at_once)), Ok(0))
}

fn serve(name: &str, stream: &TcpStream, scripts: &[Script], record: &Record) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANG))?;
    stream.set_write_timeout(Some(HANG))?;
    let mut incoming = Incoming { stream, bytes: Vec::new() };
    let mut number = 0;
    while let Some(head) = incoming.head()? {
        number += 1;
        let uri = head.split(' ').nth(1).unwrap_or_default();
        let path = uri.split('?').next().unwrap_or_default();
        let mut parts = path.split('/').skip(2).map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
        let (cell, script) = (parts.next().unwrap_or(u32::MAX), parts.next().unwrap_or(u32::MAX));
        let script = usize::try_from(script).ok().and_then(|at| scripts.get(at));
        let method = head.split(' ').next().unwrap_or_default();
        record.note(cell, format!("{name} {number} {method}"));
        let good = [Act::ReadBody, Act::Write(GOOD.to_vec())];
        let acts: &[Act] = match script {
            Some(script) if name == "A" && number == 1 => &script.acts,
            Some(script) if name == "A" => &script.next,
            _ => &good,
        };
        if !play(name, acts, &head, &mut incoming, cell, record)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Plays the acts; whether the connection goes on.
fn play(
    name: &str,
    acts: &[Act],
    head: &str,
    incoming: &mut Incoming<'_>,
    cell: u32,
    record: &Record,
) -> io::Result<bool> {
    let mut stream = incoming.stream;
    for act in acts {
        match act {
            Act::Write(bytes) => stream.write_all(bytes)?,
            Act::Pause(time) => thread::sleep(*time),
            Act::ReadBody => {
                let length = incoming.body(head)?;
                if length > 0 {
                    record.note(cell, format!("{name} body {length}"));
                }
            }
            Act::ReadSome(length) => {
                incoming.some(*length)?;
            }
            Act::Endless(bytes) => {
                let end = Instant::now() + HANG;
                while Instant::now() < end {
                    stream.write_all(bytes)?;
                }
            }
            Act::Hang => {
                let end = Instant::now() + HANG;
                while Instant::now() < end && !has_left(stream) {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Act::Echo(wanted) => {
                let mut left = *wanted;
                while left > 0 {
                    if incoming.bytes.is_empty() && incoming.fill()? == 0 {
                        return Ok(false);
                    }
                    left = left.saturating_sub(incoming.bytes.len());
                    stream.write_all(&std::mem::take(&mut incoming.bytes))?;
                }
            }
            Act::Reset => {
                SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
            Act::Next => return Ok(true),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(false)
}
