//! A relay that does what the scenarios of `bench/run` ask of a proxy and nothing else: no configuration, no checks, no limits, no logs, requests and answers that are
//! made beforehand. What it takes is what the kernel takes and a little more: the floor under every proxy on that machine.
//!
//! `bare_relay PORT ORIGIN FASTCGI` listens on the first port of the loopback address and knows the servers behind the other two.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;

use headwater_testkit::text::find;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// What stands for the listening socket among the connections' numbers.
const LISTENER: u64 = u64::MAX;

/// A request to a back end: its port, and the bytes.
type Ask = (u16, Rc<[u8]>);

/// What is done for a request.
struct Plan {
    /// How its path begins.
    path: &'static [u8],
    /// What is asked of back ends: step by step, the requests of a step at the same time.
    steps: Vec<Vec<Ask>>,
    /// What the client gets; the last answer, as it came, when there is nothing here.
    answer: Option<Vec<u8>>,
}

enum Role {
    /// A client: the number of its request's plan, how many steps were begun, and how many answers are missing.
    Client { plan: usize, step: usize, missing: usize },
    /// A connection to a port, working for a client.
    BackEnd { port: u16, client: usize },
}

struct Connection {
    socket: TcpStream,
    role: Role,
    /// A message that is not complete.
    input: Vec<u8>,
}

struct Relay {
    epoll: OwnedFd,
    plans: Vec<Plan>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Unused connections to back ends.
    idle: HashMap<u16, Vec<usize>>,
}

fn main() -> ExitCode {
    let ports: Vec<u16> = std::env::args().skip(1).filter_map(|port| port.parse().ok()).collect();
    let outcome = match ports[..] {
        [port, origin, fastcgi] => run(port, plans(origin, fastcgi)),
        _ => Err(io::Error::other("usage: bare_relay PORT ORIGIN FASTCGI")),
    };
    eprintln!("{outcome:?}");
    ExitCode::FAILURE
}

fn plans(origin: u16, fastcgi: u16) -> Vec<Plan> {
    let ask = |line: &str, rest: &str, body: &[u8]| {
        let head = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1:{origin}\r\n{rest}\r\n");
        (origin, Rc::from([head.as_bytes(), body].concat()))
    };
    let headers = "X-Real-IP: 127.0.0.1\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n";
    let post = ask("POST /post", "Content-Length: 16384\r\n", &[b'x'; 16384]);
    let (page, check) = (ask("GET /", "", b""), ask("GET /empty", "", b""));
    let fixed = |length| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n\r\n");
        Some([head.into_bytes(), vec![b'x'; length]].concat())
    };
    let plan = |path: &'static str, steps, answer| Plan { path: path.as_bytes(), steps, answer };
    vec![
        plan("/return", Vec::new(), fixed(12)),
        plan("/re20", Vec::new(), fixed(2)),
        plan("/close", vec![vec![ask("GET /close", "Connection: close\r\n", b"")]], fixed(12)),
        plan("/headers", vec![vec![ask("GET /headers", headers, b"")]], None),
        plan("/post", vec![vec![post]], None),
        plan("/fastcgi", vec![vec![(fastcgi, fastcgi_request().into())]], fixed(12)),
        plan("/ssi/four", vec![vec![page.clone(); 4]], fixed(105)),
        plan("/auth", vec![vec![check.clone()], vec![page.clone()]], None),
        plan("/mirror", vec![vec![page.clone(), check]], fixed(12)),
        plan("/", vec![vec![page]], None),
    ]
}

/// A request for one script on a connection that is kept (FastCGI specification, section 3.3).
fn fastcgi_request() -> Vec<u8> {
    let record = |kind, content: &[u8]| {
        [&[1, kind, 0, 1, 0, u8::try_from(content.len()).unwrap_or(0), 0, 0][..], content].concat()
    };
    let parameter = [&[15, 10][..], b"SCRIPT_FILENAME/index.php"].concat();
    let records = [(1, &[0, 1, 1, 0, 0, 0, 0, 0][..]), (4, &parameter), (4, &[]), (5, &[])];
    records.map(|(kind, content)| record(kind, content)).concat()
}

fn run(port: u16, plans: Vec<Plan>) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut relay = Relay { epoll, plans, connections: Vec::new(), free: Vec::new(), idle: HashMap::new() };
    let mut scratch = vec![0; 131_072];
    let mut events = [MaybeUninit::<Event>::uninit(); 256];
    loop {
        let ready = {
            let (ready, _) = epoll::wait(&relay.epoll, &mut events, None)?;
            ready.iter().map(|event| event.data.u64()).collect::<Vec<_>>()
        };
        for number in ready {
            if number == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    relay.add(socket, Role::Client { plan: 0, step: 0, missing: 0 })?;
                }
            } else if let Ok(number) = usize::try_from(number) {
                relay.readable(number, &mut scratch);
            }
        }
    }
}

/// Whether a message is complete: an HTTP head with a body of its length, or FastCGI records up to the one that ends a request.
fn is_complete(message: &[u8]) -> bool {
    if message.first() == Some(&1) {
        return message.len() >= 16 && message.get(message.len() - 15) == Some(&3);
    }
    let Some(end) = find(message, b"\r\n\r\n") else { return false };
    let head = message.get(..end).unwrap_or_default();
    let length = find(head, b"Content-Length: ").and_then(|at| {
        let digits = head.get(at + 16..)?.iter().take_while(|byte| byte.is_ascii_digit());
        Some(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
    });
    message.len() >= end + 4 + length.unwrap_or(0)
}

impl Relay {
    fn add(&mut self, socket: TcpStream, role: Role) -> io::Result<usize> {
        socket.set_nonblocking(true)?;
        let number = self.free.pop().unwrap_or(self.connections.len());
        if number == self.connections.len() {
            self.connections.push(None);
        }
        epoll::add(&self.epoll, &socket, EventData::new_u64(number as u64), EventFlags::IN | EventFlags::ET)?;
        self.connections[number] = Some(Connection { socket, role, input: Vec::new() });
        Ok(number)
    }

    fn close(&mut self, number: usize) {
        self.connections[number] = None;
        self.free.push(number);
    }

    fn readable(&mut self, number: usize, scratch: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        let count = match connection.socket.read(scratch) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => 0,
        };
        if count == 0 {
            if let Role::BackEnd { port, .. } = connection.role {
                self.idle.entry(port).or_default().retain(|idle| *idle != number);
            }
            return self.close(number);
        }
        let mut whole = std::mem::take(&mut connection.input);
        let message = match whole.is_empty() {
            true => scratch.get(..count).unwrap_or_default(),
            false => {
                whole.extend_from_slice(scratch.get(..count).unwrap_or_default());
                &whole
            }
        };
        if !is_complete(message) {
            connection.input = message.to_vec();
            return;
        }
        match connection.role {
            Role::Client { .. } => self.request(number, message),
            Role::BackEnd { port, client } => self.answer(number, port, client, message),
        }
    }

    fn request(&mut self, number: usize, message: &[u8]) {
        let path = message.splitn(3, |byte| *byte == b' ').nth(1).unwrap_or_default();
        let plan = self.plans.iter().position(|plan| path.starts_with(plan.path)).unwrap_or_default();
        self.next_step(number, plan, 0, &[]);
    }

    /// Begins a step of a client's plan, or answers when there is none left.
    fn next_step(&mut self, number: usize, plan: usize, step: usize, last: &[u8]) {
        let asks = self.plans[plan].steps.get(step).cloned();
        let Some(connection) = self.connections[number].as_mut() else { return };
        let Some(asks) = asks else {
            let answer = self.plans[plan].answer.as_deref().unwrap_or(last);
            // The socket of a client that waits for its answer has room for it.
            let _ = connection.socket.write(answer);
            return;
        };
        connection.role = Role::Client { plan, step: step + 1, missing: asks.len() };
        for (port, bytes) in asks {
            if self.ask(port, &bytes, number).is_err() {
                return self.close(number);
            }
        }
    }

    fn ask(&mut self, port: u16, bytes: &[u8], client: usize) -> io::Result<()> {
        let number = match self.idle.get_mut(&port).and_then(Vec::pop) {
            Some(number) => number,
            None => self.add(TcpStream::connect(("127.0.0.1", port))?, Role::BackEnd { port, client })?,
        };
        let Some(connection) = self.connections[number].as_mut() else { return Ok(()) };
        connection.role = Role::BackEnd { port, client };
        connection.socket.write_all(bytes)
    }

    fn answer(&mut self, number: usize, port: u16, client: usize, message: &[u8]) {
        if find(message, b"Connection: close").is_some() {
            self.close(number);
        } else {
            self.idle.entry(port).or_default().push(number);
        }
        let Some(Some(Connection { role: Role::Client { plan, step, missing }, .. })) =
            self.connections.get_mut(client)
        else {
            return;
        };
        *missing = missing.saturating_sub(1);
        if *missing == 0 {
            let (plan, step) = (*plan, *step);
            self.next_step(client, plan, step, message);
        }
    }
}
