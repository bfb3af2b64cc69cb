//! Plays a client script against a server and keeps what came back.
//!
//! Called by the runner; calls [`crate::response`] to know when an answer is complete. nginx counterpart: none.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::response::{self, Framing};
use crate::script::Step;
use crate::template::Template;
use crate::text::find;

/// How long a connection that answered everything may take to close before it counts as kept open.
const LINGER: Duration = Duration::from_millis(60);

/// What came back on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Every byte.
    pub bytes: Vec<u8>,
    /// The methods of the requests that were sent, as far as they can be told.
    pub methods: Vec<String>,
    /// How it ended.
    pub end: End,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed it.
    Closed,
    /// All answers came and the connection stayed open.
    Open,
    /// The client gave up waiting.
    Timeout,
    /// The script closed it.
    Dropped,
}

/// Plays `steps`; one [`Received`] for each connection, in the order they were opened.
///
/// # Errors
/// When a connection cannot be opened. Failures of an open connection are results, not errors.
pub fn play(steps: &[Step], template: &mut Template) -> io::Result<Vec<Received>> {
    let mut done = Vec::new();
    let mut connection: Option<Connection> = None;
    for step in steps {
        if let Step::Connect(port) = step {
            done.extend(connection.take().map(Connection::finish));
            connection = Some(Connection::open(template.port(port)?)?);
            continue;
        }
        if connection.is_none() {
            connection = Some(Connection::open(template.port("8080")?)?);
        }
        let Some(open) = connection.as_mut() else {
            continue;
        };
        if !matches!(step, Step::Send(_)) {
            open.flush();
        }
        match step {
            Step::Connect(_) => {}
            Step::Send(bytes) => open.pending.extend_from_slice(bytes),
            Step::Read => open.read_response(),
            Step::Pause(time) => thread::sleep(*time),
            Step::Wait(time) => open.patience = *time,
            Step::Shut => drop(open.stream.shutdown(Shutdown::Write)),
            Step::Drop => done.extend(connection.take().map(Connection::drop_now)),
        }
    }
    done.extend(connection.map(Connection::finish));
    Ok(done)
}

/// An open connection.
struct Connection {
    stream: TcpStream,
    /// To be sent in one write with what follows: how a head is split is the script's business (`pause`).
    pending: Vec<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
    patience: Duration,
    eof: bool,
}

impl Connection {
    fn open(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(4)))?;
        let patience = Duration::from_secs(4);
        Ok(Self { stream, pending: Vec::new(), sent: Vec::new(), received: Vec::new(), patience, eof: false })
    }

    /// Sends what it can: a server that answers and closes early is not an error.
    fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.pending);
        let _ = self.stream.write_all(&bytes);
        self.sent.extend_from_slice(&bytes);
    }

    /// Reads until one more whole response is there than before.
    fn read_response(&mut self) {
        let wanted = self.complete().0 + 1;
        let end = Instant::now() + self.patience;
        while self.complete().0 < wanted && self.fill(end) {}
    }

    /// Reads until the close, or until every request is answered and the connection stays open.
    fn finish(mut self) -> Received {
        self.flush();
        let methods = self.methods();
        let mut end = Instant::now() + self.patience;
        let mut answered = false;
        loop {
            if !answered {
                let (count, closing) = self.complete();
                answered = count >= methods.len() && count > 0 && !closing;
                if answered {
                    end = Instant::now() + LINGER;
                }
            }
            if !self.fill(end) {
                break;
            }
        }
        let end = match (self.eof, answered) {
            (true, _) => End::Closed,
            (false, true) => End::Open,
            (false, false) => End::Timeout,
        };
        Received { bytes: self.received, methods, end }
    }

    fn drop_now(self) -> Received {
        Received { methods: self.methods(), bytes: self.received, end: End::Dropped }
    }

    /// Reads once; false at the end of the stream or when the time is up.
    fn fill(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        if self.eof || left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
            return false;
        }
        let mut buffer = vec![0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.eof = true,
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return false;
            }
            // A reset looks like a close: which of the two arrives is a matter of timing.
            Err(_) => self.eof = true,
        }
        !self.eof
    }

    fn methods(&self) -> Vec<String> {
        methods(&self.sent)
    }

    /// How many final responses are complete, and whether the last one announced a close.
    fn complete(&self) -> (usize, bool) {
        let methods = self.methods();
        let (mut at, mut count, mut closing) = (0, 0, false);
        while at < self.received.len() {
            let head = methods.get(count).is_some_and(|method| method == "HEAD");
            let Some((response, used)) = response::parse(&self.received[at..], head, self.eof) else {
                break;
            };
            at += used;
            closing = response.header("Connection") == Some("close") || response.framing == Framing::Close;
            count += usize::from(response.status() >= 200 || response.status() == 101);
        }
        (count, closing)
    }
}

/// The methods of the requests in `sent`: the first words of lines that look like request lines.
fn methods(sent: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for line in sent.split(|&byte| byte == b'\n') {
        let word: Vec<u8> = line.iter().copied().take_while(u8::is_ascii_uppercase).collect();
        let is_request =
            word.len() > 1 && line.get(word.len()) == Some(&b' ') && find(line, b" HTTP/").is_some();
        if is_request {
            found.push(String::from_utf8_lossy(&word).into_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_pipelined_requests_are_found_in_order() {
        let sent = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD /x HTTP/1.1\r\n\r\n";
        assert_eq!(methods(sent), ["GET", "HEAD"]);
    }
}
