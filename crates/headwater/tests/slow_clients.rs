//! Slow clients: the back ends are free long before the clients are done, and memory stays small.

#![allow(clippy::expect_used, reason = "what does not work fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_testkit::fault::crowd::{Plan, Source, run};
use headwater_testkit::fault::usage;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::Template;
use socket2::{Domain, Socket, Type};

const CONF: &str = "
error_log error.log error;
events { worker_connections 512; }
http {
    access_log off;
    server {
        listen %%PORT_8080%% sndbuf=64k;
        location = /alive { return 204; }
        location / { proxy_pass http://127.0.0.1:%%SOURCE%%; proxy_buffers 8 4k; }
    }
}
";

/// What `proxy_buffers` and `proxy_buffer_size` give each response, bytes.
const BUFFERS: u64 = 9 * 4096;
/// What a connection may have besides (the read that filled its buffers, and room for it), and the process for everything, bytes.
const PER_CONNECTION: u64 = 256 * 1024;
const ALLOWANCE: u64 = 8 << 20;

#[test]
fn slow_clients_leave_back_ends_free_and_memory_small() {
    let plan = Plan { clients: 60, rate: 400_000, length: 4_000_000, limit: Duration::from_secs(14) };
    let source = Source::start(plan.length).expect("an origin");
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
    let dir = TempDir::new().expect("a directory");
    let mut template = Template::new(dir.path());
    template.set("SOURCE", source.port());
    let port = template.port("8080").expect("a port");
    let server = Server::start(&subject.path, CONF, &mut template, port, Mode::Single).expect("it starts");
    let before = usage::resident(server.pid()).expect("it runs");
    let outcome = run(port, server.pid(), &source, plan).expect("they run");
    println!("{outcome:?}, {before} bytes before");
    assert_eq!((outcome.done, outcome.wrong), (plan.clients, 0), "{outcome:?}");
    let freed = outcome.freed.expect("the back ends were free");
    assert!(freed * 2 < outcome.took, "free after {freed:?} of {:?}", outcome.took);
    let grown = outcome.resident.saturating_sub(before);
    let allowed = plan.clients as u64 * (BUFFERS + PER_CONNECTION) + ALLOWANCE;
    assert!(grown < allowed, "memory grew by {grown} bytes, {allowed} are allowed");
}

/// Responses that are stored in files, as fast as back ends send them, must not keep other clients waiting: between two pieces of one
/// response everybody else has a turn.
#[test]
fn storing_responses_of_slow_clients_leaves_turns_to_others() {
    let (clients, length) = (30, 40_000_000);
    let source = Source::start(length).expect("an origin");
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
    let dir = TempDir::new().expect("a directory");
    let mut template = Template::new(dir.path());
    template.set("SOURCE", source.port());
    let port = template.port("8080").expect("a port");
    let _server = Server::start(&subject.path, CONF, &mut template, port, Mode::Single).expect("it starts");
    let mut other = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    other.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let slow: Vec<_> = (0..clients).map(|_| slow_client(port)).collect();
    let (mut turns, mut buffer) = (0, [0; 4096]);
    let end = Instant::now() + Duration::from_secs(30);
    while source.served() < clients && Instant::now() < end {
        other.write_all(b"GET /alive HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
        assert!(other.read(&mut buffer).expect("it answers") > 0);
        turns += usize::from(source.served() < clients);
    }
    drop(slow);
    assert_eq!(source.served(), clients, "the back ends were not freed");
    // 1.2 GB in pieces of 128 KB are some 300 rounds of all clients.
    assert!(turns >= 120, "others had {turns} turns only");
}

/// A client that asks and does not read.
fn slow_client(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a small buffer");
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("connected");
    let mut client = TcpStream::from(socket);
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    client
}
