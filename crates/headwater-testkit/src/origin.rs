//! A scripted origin server: answers by rules and keeps what it was sent.
//!
//! Called by the runner; calls [`rules`] for what to do. nginx counterpart: none.

pub mod fastcgi;
mod params;
pub mod rules;
pub mod tls;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::certificates;
use crate::response::{Framing, read_chunks};
use crate::text::find;
use params::Wire;
use rules::{Act, Rules};
use rustls::ServerConfig;
use tls::TlsStream;

/// One request that an origin saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Name of the origin.
    pub origin: String,
    /// Number of the connection, counted from 1.
    pub connection: usize,
    /// True for a request that is not the first one of its connection.
    pub reused: bool,
    /// The head with its final empty line, as received.
    pub head: Vec<u8>,
    /// The body, de-chunked.
    pub body: Vec<u8>,
}

/// A running origin; stops accepting when dropped.
#[derive(Debug)]
pub struct Origin {
    port: u16,
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    rules: Mutex<Rules>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    tls: Option<Arc<ServerConfig>>,
    stop: AtomicBool,
}

/// A connection from the server under test.
trait Stream: Read + Write + Send {
    fn set_timeout(&self, time: Duration) -> io::Result<()>;
    fn arm_reset(&mut self);
    /// Has the connection closed without a word.
    fn cut(&mut self) {}
    /// A line about the connection that comes before each head.
    fn about(&self) -> String {
        String::new()
    }
    /// Holds back what is written until the connection is closed, so that its end arrives with its last bytes.
    fn cork(&self);
}

impl Stream for TcpStream {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }
    fn arm_reset(&mut self) {
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
    fn cork(&self) {
        let _ = SockRef::from(self).set_tcp_cork(true);
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }
    fn arm_reset(&mut self) {}
    fn cork(&self) {}
}

impl Origin {
    /// Starts an origin on a TCP port and on the Unix socket `dir/NAME.sock`.
    ///
    /// # Errors
    /// When one of them cannot be bound.
    pub fn start(name: &str, port: u16, dir: &Path, rules: Rules) -> io::Result<Self> {
        let tls = match &rules.tls {
            Some(options) => Some(options.config(&certificates::directory()?)?),
            None => None,
        };
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            rules: Mutex::new(rules),
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            tls,
            stop: AtomicBool::new(false),
        });
        let socket = dir.join(format!("{name}.sock"));
        let tcp = TcpListener::bind(("127.0.0.1", port))?;
        let unix = UnixListener::bind(&socket)?;
        let (for_tcp, for_unix) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || accept(&for_tcp, tcp.incoming()));
        thread::spawn(move || accept(&for_unix, unix.incoming()));
        Ok(Self { port, socket, shared })
    }

    /// The requests seen since the last call, with the connections numbered from 1 again.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.shared.seen))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the two accepting threads.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = UnixStream::connect(&self.socket);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept<S: Stream + 'static>(shared: &Arc<Shared>, incoming: impl Iterator<Item = io::Result<S>>) {
    for stream in incoming.map_while(Result::ok) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || serve(&shared, stream));
    }
}

/// Greets a connection as the rules say, secures it and serves it.
fn serve<S: Stream>(shared: &Shared, mut stream: S) {
    let connection = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    if stream.set_timeout(Duration::from_secs(30)).is_err() {
        return;
    }
    let acts = lock(&shared.rules).on_accept();
    if !acts.is_empty() && !matches!(play(&acts, &mut stream), Ok(true)) {
        return;
    }
    match &shared.tls {
        None => converse(shared, stream, connection),
        Some(config) => {
            if let Ok(stream) = TlsStream::accept(config.clone(), stream) {
                converse(shared, stream, connection);
            }
        }
    }
}

/// Serves one connection until a rule, the peer or a quiet half minute ends it.
fn converse<S: Stream>(shared: &Shared, mut stream: S, connection: usize) {
    let mut buffer = Vec::new();
    for number in 0.. {
        if buffer.is_empty() && !read_more(&mut stream, &mut buffer) {
            return;
        }
        let wire = Wire::of(buffer.first());
        let head = match wire {
            Wire::Http => read_head(&mut stream, &mut buffer),
            Wire::FastCgi => read_params(&mut stream, &mut buffer),
            _ => read_other_head(&mut stream, &mut buffer, wire),
        };
        let Some(head) = head else {
            return;
        };
        let text = String::from_utf8_lossy(&head);
        // Rules fit a part of a request line, or of any parameter.
        let line = if wire == Wire::Http {
            text.lines().next().unwrap_or_default().to_owned()
        } else {
            text.clone().into_owned()
        };
        let acts = lock(&shared.rules).choose(&line);
        let body = match (acts.first(), wire) {
            (Some(Act::NoBody), _) => Vec::new(),
            (_, Wire::FastCgi) => read_stdin(&mut stream, &mut buffer),
            (Some(Act::Discard), _) => discard_body(&mut stream, &mut buffer, &head),
            (_, Wire::Http) => read_body(&mut stream, &mut buffer, &head),
            _ => read_length(&mut stream, &mut buffer, params::body_length(&head)),
        };
        let (origin, reused) = (shared.name.clone(), number > 0);
        let head = [stream.about().into_bytes(), head].concat();
        lock(&shared.seen).push(Seen { origin, connection, reused, head, body });
        if !matches!(play(&acts, &mut stream), Ok(true)) {
            return;
        }
    }
}

fn read_more<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 65_536];
    match stream.read(&mut chunk) {
        Ok(count) => {
            buffer.extend_from_slice(&chunk[..count]);
            count > 0
        }
        Err(_) => false,
    }
}

fn read_head<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            return Some(buffer.drain(..end + 4).collect());
        }
        if !read_more(stream, buffer) {
            return None;
        }
    }
}

/// The head of a request of another protocol.
fn read_other_head<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>, wire: Wire) -> Option<Vec<u8>> {
    loop {
        if let Some(head) = wire.take_head(buffer) {
            return Some(head);
        }
        if !read_more(stream, buffer) {
            return None;
        }
    }
}

/// The head of a FastCGI request.
fn read_params<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut head = fastcgi::Head::default();
    loop {
        while let Some((kind, content)) = fastcgi::take_record(buffer) {
            if head.take(kind, &content) {
                return Some(head.text());
            }
        }
        if !read_more(stream, buffer) {
            return None;
        }
    }
}

/// The body of a FastCGI request.
fn read_stdin<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        while let Some((_, content)) = fastcgi::take_record(buffer) {
            if content.is_empty() {
                return body;
            }
            body.extend_from_slice(&content);
        }
        if !read_more(stream, buffer) {
            return body;
        }
    }
}

fn read_body<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>, head: &[u8]) -> Vec<u8> {
    if header_value(head, "transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
        loop {
            let (mut body, mut trailers) = (Vec::new(), Vec::new());
            let (framing, used) = read_chunks(buffer, &mut body, &mut trailers);
            if framing == Framing::Chunked || !read_more(stream, buffer) {
                buffer.drain(..used);
                return body;
            }
        }
    }
    read_length(stream, buffer, content_length(head))
}

fn read_length<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>, length: usize) -> Vec<u8> {
    while buffer.len() < length && read_more(stream, buffer) {}
    buffer.drain(..length.min(buffer.len())).collect()
}

/// Reads a body of known length; what stands for it says how many bytes came.
fn discard_body<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>, head: &[u8]) -> Vec<u8> {
    let length = content_length(head);
    let mut taken = 0;
    while taken < length && (!buffer.is_empty() || read_more(stream, buffer)) {
        taken += buffer.len();
        buffer.clear();
    }
    format!("{taken} bytes").into_bytes()
}

fn content_length(head: &[u8]) -> usize {
    header_value(head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// The value of a header, in lower case.
fn header_value(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
}

/// Carries out the acts; true when the connection stays open for another request.
fn play<S: Stream>(acts: &[Act], stream: &mut S) -> io::Result<bool> {
    for (number, act) in acts.iter().enumerate() {
        match act {
            Act::NoBody | Act::Discard => {}
            Act::Send(bytes) => {
                if number + 1 == acts.len() {
                    // Otherwise it is a race whether the server under test hears of the end before its next request.
                    stream.cork();
                }
                stream.write_all(bytes)?;
                stream.flush()?;
            }
            Act::Stream(count) => send_stream(stream, *count)?,
            Act::Pause(time) => thread::sleep(*time),
            Act::Keep => return Ok(true),
            Act::Cut => {
                stream.cut();
                return Ok(false);
            }
            Act::Reset => {
                stream.arm_reset();
                return Ok(false);
            }
            Act::Echo => echo(stream)?,
        }
    }
    Ok(false)
}

fn send_stream<S: Stream>(stream: &mut S, count: u64) -> io::Result<()> {
    let piece = [b'x'; 65_536];
    let mut left = count;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        stream.write_all(&piece[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn echo<S: Stream>(stream: &mut S) -> io::Result<()> {
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => stream.write_all(&chunk[..count])?,
        }
    }
}
