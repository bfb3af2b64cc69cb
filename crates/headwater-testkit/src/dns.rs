//! Scripted name servers: they answer over UDP and TCP by rule, and remember what they were asked.
//!
//! Called by the runner and by tests of the resolver; calls [`rules`]. Messages are put together by hand, so that broken ones can be sent too and the server
//! shares no code with what it tests. nginx counterpart: none.

pub mod rules;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rules::{Answer, Forgery, Rules};

/// The address that forged answers give.
const FORGED: [u8; 4] = [127, 0, 0, 99];

/// A running name server; stops when dropped.
#[derive(Debug)]
pub struct Dns {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    rules: Mutex<Rules>,
    seen: Mutex<Vec<String>>,
    /// Ports and ids of the questions over UDP.
    sources: Mutex<Vec<(u16, u16)>>,
    stop: AtomicBool,
}

/// A question as it was asked.
struct Query<'q> {
    id: [u8; 2],
    /// Name, type and class, as sent.
    question: &'q [u8],
    name: String,
    kind: u16,
}

impl Dns {
    /// Starts a name server on a port of 127.0.0.1.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(port: u16, rules: Rules) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            rules: Mutex::new(rules),
            seen: Mutex::default(),
            sources: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let udp = UdpSocket::bind(("127.0.0.1", port))?;
        let tcp = TcpListener::bind(("127.0.0.1", port))?;
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || serve_udp(&for_udp, &Arc::new(udp)));
        thread::spawn(move || serve_tcp(&for_tcp, &tcp));
        Ok(Self { port, shared })
    }

    /// What was asked since the last call, as `UDP A name`, sorted.
    #[must_use]
    pub fn take_seen(&self) -> Vec<String> {
        let mut seen = std::mem::take(&mut *lock(&self.shared.seen));
        seen.sort();
        seen
    }

    /// Ports and ids of the questions over UDP since the last call.
    #[must_use]
    pub fn take_sources(&self) -> Vec<(u16, u16)> {
        std::mem::take(&mut *lock(&self.shared.sources))
    }

    /// Replaces the rules.
    pub fn set_rules(&self, rules: Rules) {
        *lock(&self.shared.rules) = rules;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the two threads.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|udp| udp.send_to(b"", ("127.0.0.1", self.port)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve_udp(shared: &Arc<Shared>, udp: &Arc<UdpSocket>) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = udp.recv_from(&mut buffer) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let message = buffer[..length].to_vec();
        let Some(answer) = choose(shared, &message, "UDP") else { continue };
        lock(&shared.sources).push((from.port(), u16::from_be_bytes([message[0], message[1]])));
        let udp = Arc::clone(udp);
        let say = move || answer_udp(&udp, from, &message, &answer);
        thread::spawn(say);
    }
}

fn choose(shared: &Shared, message: &[u8], transport: &str) -> Option<Answer> {
    let query = parse(message)?;
    let kind = rules::type_name(query.kind);
    lock(&shared.seen).push(format!("{transport} {kind} {}", query.name));
    Some(lock(&shared.rules).choose(&query.name, query.kind))
}

fn answer_udp(udp: &UdpSocket, to: SocketAddr, message: &[u8], answer: &Answer) {
    let Some(query) = parse(message) else { return };
    let rounds = answer.repeat.max(1);
    for forgery in (0..rounds).flat_map(|_| &answer.forgeries) {
        let lie = Answer { records: vec![(1, FORGED.to_vec())], ttl: 60, ..Answer::default() };
        let mut bytes = encode(&query, &lie, false);
        match forgery {
            Forgery::Id => bytes[0] ^= 0x55,
            Forgery::Question => bytes[13] = if bytes[13] == b'z' { b'y' } else { b'z' },
            Forgery::Short => bytes.truncate(bytes.len() - 3),
            Forgery::Flags => bytes[2] &= 0x7f,
            Forgery::Text => bytes = b"this is no DNS message at all, but it is long enough".to_vec(),
            Forgery::Source => {
                let other = UdpSocket::bind("127.0.0.1:0");
                let _ = other.and_then(|other| other.send_to(&bytes, to));
                continue;
            }
        }
        let _ = udp.send_to(&bytes, to);
    }
    thread::sleep(answer.pause);
    if !answer.silent {
        let _ = udp.send_to(&encode(&query, answer, answer.truncated), to);
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming().map_while(Result::ok) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || answer_tcp(&shared, stream));
    }
}

fn answer_tcp(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).ok()?;
        let answer = choose(shared, &message, "TCP")?;
        thread::sleep(answer.pause);
        if answer.silent_tcp {
            continue;
        }
        let bytes = encode(&parse(&message)?, &answer, false);
        let length = u16::try_from(bytes.len()).ok()?.to_be_bytes();
        // In pieces, as networks do it.
        stream.write_all(&length[..1]).ok()?;
        stream.write_all(&[&length[1..], &bytes[..bytes.len() / 2]].concat()).ok()?;
        stream.write_all(&bytes[bytes.len() / 2..]).ok()?;
    }
}

fn parse(message: &[u8]) -> Option<Query<'_>> {
    let id = message.get(..2)?.try_into().ok()?;
    let mut name = String::new();
    let mut at = 12;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(message.get(at..at + length)?));
        at += length;
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    Some(Query { id, question: message.get(12..at + 4)?, name, kind })
}

fn encode(query: &Query<'_>, answer: &Answer, truncated: bool) -> Vec<u8> {
    let mut out = query.id.to_vec();
    let flags = 0x8180 | u16::from(answer.code) | if truncated { 0x200 } else { 0 };
    let records: &[_] = if truncated { &[] } else { &answer.records };
    out.extend_from_slice(&flags.to_be_bytes());
    for count in [1, records.len(), 0, 0] {
        out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    }
    out.extend_from_slice(query.question);
    for (kind, data) in records {
        // The name is a pointer to the question's.
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&answer.ttl.to_be_bytes());
        out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(data);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_is_answered_over_udp_and_seen() {
        let port = crate::template::free_port().unwrap();
        let rules = Rules::parse(&["on a.b".to_owned(), "a 10.0.0.1".to_owned()]).unwrap();
        let dns = Dns::start(port, rules).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x01b\0\0\x01\0\x01";
        client.send_to(question, ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 100];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(answer[..8], *b"\x12\x34\x81\x80\0\x01\0\x01");
        assert_eq!(answer[length - 4..length], [10, 0, 0, 1]);
        assert_eq!(dns.take_seen(), ["UDP A a.b"]);
    }
}
