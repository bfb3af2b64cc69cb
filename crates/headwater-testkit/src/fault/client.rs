//! One client's exchange, and what it saw, in a form that two servers' exchanges can be compared in.
//!
//! Called by the fault tests; calls [`crate::response`]. nginx counterpart: none.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::response::{self, Framing};
use crate::text::checksum;

/// How long a client waits for the next bytes.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How a client asks and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// GET, HTTP/1.1, keepalive.
    Get11,
    /// GET, HTTP/1.0.
    Get10,
    /// GET, HTTP/1.1, reads nothing for a while, into a small buffer.
    Slow11,
    /// The same with HTTP/1.0.
    Slow10,
    /// Asks for another protocol; then sends five bytes.
    Upgrade,
    /// POST with a body of so many bytes.
    Post(usize),
    /// PUT with so many bytes in chunks.
    PutChunked(usize),
    /// Two GETs, one after the other.
    Twice,
}

/// One response, or bytes that are none.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status line, headers and trailers without what always differs; empty for bytes that are no response.
    pub head: String,
    /// How its end was told.
    pub framing: Framing,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.body[..self.body.len().min(24)]);
        let (length, sum) = (self.body.len(), checksum(&self.body));
        write!(f, "{} | {:?} {length} bytes {sum:x} {start:?}", self.head, self.framing)
    }
}

/// What a client saw: its responses, and how the connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Every response, interim ones included.
    pub responses: Vec<Answer>,
    /// Whether the connection serves another request, was closed, or nothing came for too long.
    pub end: &'static str,
}

/// Asks for `uri` and reads all there is.
///
/// # Errors
/// When the server cannot be connected to.
pub fn ask(port: u16, uri: &str, client: Client) -> io::Result<Seen> {
    let slow = matches!(client, Client::Slow11 | Client::Slow10);
    let mut exchange = Exchange { stream: open(port, slow)?, bytes: Vec::new(), eof: false };
    let mut seen = Seen { responses: Vec::new(), end: "closed" };
    let rounds = if client == Client::Twice { 2 } else { 1 };
    for round in 0..rounds {
        exchange.send(uri, client);
        if slow {
            thread::sleep(Duration::from_millis(120));
        }
        if round > 0 || rounds == 1 || !exchange.eof {
            exchange.read(client == Client::Upgrade, &mut seen);
        }
        if seen.end != "alive" {
            return Ok(seen);
        }
        thread::sleep(Duration::from_millis(if rounds == 2 { 10 } else { 0 }));
    }
    // Whether it really is: a response that only looks whole would show here.
    exchange.send("/alive", Client::Get11);
    let mut last = Seen { responses: Vec::new(), end: "closed" };
    exchange.read(false, &mut last);
    if !last.responses.first().is_some_and(|text| text.head.contains(" 204 ")) {
        seen.end = if last.responses.is_empty() { "closed" } else { "confused" };
    }
    Ok(seen)
}

/// Sends a request with few bytes and closes without reading the answer, after a while or a part of it.
///
/// # Errors
/// When the server cannot be connected to.
pub fn leave(port: u16, uri: &str, after: Duration) -> io::Result<()> {
    let mut stream = open(port, true)?;
    let _ = write!(stream, "GET {uri} HTTP/1.1\r\nHost: h\r\n\r\n");
    thread::sleep(after);
    Ok(())
}

fn open(port: u16, slow: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if slow {
        socket.set_recv_buffer_size(16 * 1024)?;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

struct Exchange {
    stream: TcpStream,
    bytes: Vec<u8>,
    eof: bool,
}

impl Exchange {
    /// Sends what it can: a server that answers early and closes is not an error here.
    fn send(&mut self, uri: &str, client: Client) {
        let body = |length: usize| vec![b'u'; length];
        let text = match client {
            Client::Get11 | Client::Slow11 | Client::Twice => {
                format!("GET {uri} HTTP/1.1\r\nHost: h\r\n\r\n")
            }
            Client::Get10 | Client::Slow10 => format!("GET {uri} HTTP/1.0\r\nHost: h\r\n\r\n"),
            Client::Upgrade => {
                format!("GET {uri} HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            }
            Client::Post(length) => {
                format!("POST {uri} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
            }
            Client::PutChunked(_) => {
                format!("PUT {uri} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            }
        };
        let mut bytes = text.into_bytes();
        match client {
            Client::Post(length) => bytes.extend(body(length)),
            Client::PutChunked(length) => {
                bytes.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                bytes.extend(body(length));
                bytes.extend_from_slice(b"\r\n0\r\n\r\n");
            }
            _ => {}
        }
        let _ = self.stream.write_all(&bytes);
    }

    /// Reads responses up to the final one, or through the end of a tunnel.
    fn read(&mut self, tunnel: bool, seen: &mut Seen) {
        let end = Instant::now() + PATIENCE;
        let mut in_tunnel = false;
        loop {
            if !in_tunnel && let Some((response, used)) = response::parse(&self.bytes, false, self.eof) {
                self.bytes.drain(..used);
                let status = response.status();
                in_tunnel = tunnel && status == 101;
                let whole = !matches!(response.framing, Framing::Broken);
                seen.responses.push(describe(&response));
                if in_tunnel {
                    let _ = self.stream.write_all(b"12345");
                } else if status >= 200 {
                    seen.end = match (self.eof, whole, response.framing) {
                        (false, true, Framing::Length | Framing::Chunked | Framing::None) => "alive",
                        _ => "closed",
                    };
                    if response.header("Connection") == Some("close") {
                        self.drain(end, seen);
                    }
                    return;
                }
                continue;
            }
            if self.eof || Instant::now() >= end {
                seen.end = if self.eof { "closed" } else { "timeout" };
                if in_tunnel || !self.bytes.is_empty() {
                    seen.responses.push(describe_bytes(&self.bytes));
                }
                return;
            }
            self.fill(end);
        }
    }

    /// Waits for the close that was announced.
    fn drain(&mut self, end: Instant, seen: &mut Seen) {
        let _ = self.stream.shutdown(Shutdown::Write);
        while !self.eof && Instant::now() < end {
            self.fill(end);
        }
        seen.end = if self.eof { "closed" } else { "timeout" };
        if !self.bytes.is_empty() {
            seen.responses.push(describe_bytes(&self.bytes));
        }
    }

    fn fill(&mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let _ = self.stream.set_read_timeout(Some(left));
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.eof = true,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A reset looks like a close: which of the two arrives is a matter of timing.
            Err(_) => self.eof = true,
        }
    }
}

fn describe(response: &response::Response) -> Answer {
    let mut head = response.status_line.clone();
    for (name, value) in &response.headers {
        if name != "Server" && name != "Date" {
            head.push_str(&format!(" | {name}: {value}"));
        }
    }
    for trailer in &response.trailers {
        head.push_str(&format!(" | trailer {trailer}"));
    }
    Answer { head, framing: response.framing, body: response.body.clone() }
}

fn describe_bytes(bytes: &[u8]) -> Answer {
    Answer { head: String::new(), framing: Framing::Close, body: bytes.to_vec() }
}
