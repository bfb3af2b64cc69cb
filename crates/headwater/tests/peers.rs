//! What becomes of peers over time: how long one is busy, and what a reload keeps of it.
//!
//! Runs headwater (or `SUBJECT`); what nginx does alike runs under nginx, too. nginx's counterpart: none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of a test fail the test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater_testkit::oracle;
use headwater_testkit::origin::Origin;
use headwater_testkit::origin::rules::Rules;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

const RULES: &[&str] = &[
    "on /large",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 30000000",
    "<",
    "stream 30000000",
    "on /slow",
    "pause 1500",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 4",
    "<",
    "<< slow",
    "on /pause",
    "pause 150",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 6",
    "<",
    "<< paused",
    "on /late",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 4",
    "<",
    "pause 150",
    "<< late",
    "on /half",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 10",
    "<",
    "<< half",
    "pause 1500",
    "<< another",
    "on /turn",
    "reset",
    "on /turn",
    "< HTTP/1.1 200 OK",
    "< Content-Length: 4",
    "<",
    "<< warm",
];

const LIMITED: &str = "
worker_processes 1;
events { worker_connections 64; }
http {
    access_log off;
    upstream limited { server 127.0.0.1:%%ORIGIN_A%% max_conns=1; }
    upstream spread { least_conn; server 127.0.0.1:%%ORIGIN_A%% max_conns=1; server 127.0.0.1:1 down; }
    server {
        listen %%PORT_8080%%;
        location /limited/ { proxy_pass http://limited/; }
        location /spread/ { proxy_pass http://spread/; }
        location /unbuffered/ { proxy_buffering off; proxy_pass http://limited/; }
    }
}
";

fn binary() -> PathBuf {
    subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap().path
}

/// A running server with an origin.
struct World {
    server: Server,
    port: u16,
    _origin: Origin,
    dir: TempDir,
}

fn start(binary: &Path, conf: &str, mode: Mode) -> World {
    let dir = TempDir::new().unwrap();
    let mut template = Template::new(dir.path());
    let origin_port = free_port().unwrap();
    template.set("ORIGIN_A", origin_port);
    let rules: Vec<String> = RULES.iter().map(|line| (*line).to_owned()).collect();
    let origin = Origin::start("A", origin_port, dir.path(), Rules::parse(&rules).unwrap()).unwrap();
    let port = template.port("8080").unwrap();
    let server = Server::start(binary, conf, &mut template, port, mode).unwrap();
    World { server, port, _origin: origin, dir }
}

impl World {
    /// Sends a request and leaves the answer unread.
    fn send(&self, uri: &str, header: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let text = format!("GET {uri} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    fn ask(&self, uri: &str, header: &str) -> String {
        let mut answer = String::new();
        self.send(uri, header).read_to_string(&mut answer).unwrap();
        answer
    }

    /// The status of an answer.
    fn status(&self, uri: &str) -> String {
        self.ask(uri, "").get(9..12).unwrap_or_default().to_owned()
    }

    /// Waits until a request has this status.
    fn wait_for(&self, uri: &str, status: &str) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let got = self.status(uri);
            if got == status {
                return;
            }
            assert!(Instant::now() < end, "{uri} stays {got}:\n{}", self.server.read("error.log"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Reloads with a configuration that differs in one place, and waits until it is used.
    fn reload(&self, old: &str, new: &str) {
        let file = self.dir.path().join("nginx.conf");
        let text = std::fs::read_to_string(&file).unwrap();
        let number = self.ask("/generation", "").matches('+').count();
        let (mark, next) =
            (format!("generation{}", "+".repeat(number)), format!("generation{}", "+".repeat(number + 1)));
        let text = text.replace(&format!("\"{mark}\""), &format!("\"{next}\"")).replace(old, new);
        std::fs::write(&file, text).unwrap();
        self.server.signal(Signal::HUP).unwrap();
        let end = Instant::now() + Duration::from_secs(5);
        while !self.ask("/generation", "").ends_with(&next) {
            assert!(Instant::now() < end, "no reload:\n{}", self.server.read("error.log"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn peer_is_busy_until_the_back_end_is_done_and_not_until_the_client_is() {
    for binary in [oracle::nginx().unwrap(), binary()] {
        let world = start(&binary, LIMITED, Mode::Single);
        for group in ["limited", "spread"] {
            let client = world.send(&format!("/{group}/large"), "");
            // The answer goes to a temp file while nobody reads it; the peer is free when all of it is there.
            world.wait_for(&format!("/{group}/"), "200");
            drop(client);
        }
    }
}

#[test]
fn peer_is_busy_while_the_back_end_works() {
    for binary in [oracle::nginx().unwrap(), binary()] {
        let world = start(&binary, LIMITED, Mode::Single);
        for (uri, other) in
            [("/limited/slow", "/limited/"), ("/spread/half", "/spread/"), ("/unbuffered/half", "/limited/")]
        {
            let client = world.send(uri, "");
            world.wait_for(other, "502");
            // A client that leaves takes its connection to the back end along.
            drop(client);
            world.wait_for(other, "200");
        }
    }
}

const RELOADED: &str = "
worker_processes 2;
events { worker_connections 64; }
http {
    log_format up $request_uri:$upstream_addr;
    upstream zoned { zone z 64k; server 127.0.0.1:1 weight=9 fail_timeout=100s; server 127.0.0.1:%%ORIGIN_A%%; }
    upstream plain { server 127.0.0.1:1 weight=9 fail_timeout=100s; server 127.0.0.1:%%ORIGIN_A%%; }
    upstream learnt {
        sticky learn create=$upstream_cookie_sid lookup=$cookie_sid zone=sessions:64k;
        server 127.0.0.1:%%PORT_1%%;
        server 127.0.0.1:%%PORT_2%%;
        server 127.0.0.1:%%PORT_3%%;
    }
    upstream busy { zone busy 64k; server 127.0.0.1:%%ORIGIN_A%% max_conns=1; server 127.0.0.1:%%PORT_1%% backup; }
    server { listen 127.0.0.1:%%PORT_1%%; add_header Set-Cookie sid=$arg_sid; return 200 one; }
    server { listen 127.0.0.1:%%PORT_2%%; add_header Set-Cookie sid=$arg_sid; return 200 two; }
    server { listen 127.0.0.1:%%PORT_3%%; add_header Set-Cookie sid=$arg_sid; return 200 three; }
    server {
        listen %%PORT_8080%%;
        access_log logs/up.log up;
        location /zoned/ { proxy_pass http://zoned/; }
        location /plain/ { proxy_pass http://plain/; }
        location /learnt/ { proxy_pass http://learnt/; }
        location /busy/ { proxy_pass http://busy/; }
        location /generation { return 200 \"generation\"; }
    }
}
";

#[test]
fn reload_keeps_failures_of_a_zone_and_forgets_those_of_others() {
    let world = start(&binary(), RELOADED, Mode::Master);
    for group in ["zoned", "plain"] {
        for _ in 0..3 {
            assert_eq!(world.status(&format!("/{group}/before")), "200");
        }
    }
    world.reload("weight=9", "weight=10");
    for group in ["zoned", "plain"] {
        for _ in 0..3 {
            assert_eq!(world.status(&format!("/{group}/after")), "200");
        }
    }
    let log = world.server.read("logs/up.log");
    let tried = |what: &str| {
        log.lines().filter(|line| line.starts_with(what) && line.contains("127.0.0.1:1,")).count()
    };
    assert_eq!((tried("/zoned/before"), tried("/plain/before")), (1, 1), "{log}");
    assert_eq!((tried("/zoned/after"), tried("/plain/after")), (0, 1), "{log}");
}

#[test]
fn reload_keeps_sessions_and_connections_of_requests_that_run() {
    let world = start(&binary(), RELOADED, Mode::Master);
    let body = |answer: String| answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
    let mut peers = Vec::new();
    for number in 0..6 {
        peers.push(body(world.ask(&format!("/learnt/?sid=s{number}"), "")));
    }
    assert_eq!(peers, ["one", "two", "three", "one", "two", "three"]);
    let running = world.send("/busy/slow", "");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(body(world.ask("/busy/", "")), "one", "the primary is busy");
    world.reload("max_conns=1;", "max_conns=1 weight=2;");
    assert_eq!(body(world.ask("/busy/", "")), "one", "the primary is busy after the reload, too");
    for (number, peer) in peers.iter().enumerate() {
        assert_eq!(body(world.ask("/learnt/", &format!("Cookie: sid=s{number}\r\n"))), *peer);
    }
    let mut answer = String::new();
    { running }.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("slow"), "{answer}");
    assert_ne!(body(world.ask("/busy/", "")), "one", "the connection came back");
}

const TIMED: &str = "
worker_processes 2;
events { worker_connections 64; }
http {
    access_log off;
    upstream header { least_time header; server 127.0.0.1:%%ORIGIN_A%%; server 127.0.0.1:%%PORT_1%%; }
    upstream last { least_time last_byte inflight; server 127.0.0.1:%%ORIGIN_A%%; server 127.0.0.1:%%PORT_1%%; }
    upstream two { random two least_time=last_byte; server 127.0.0.1:%%ORIGIN_A%%; server 127.0.0.1:%%PORT_1%%; }
    server { listen 127.0.0.1:%%PORT_1%%; return 200 quick; }
    server {
        listen %%PORT_8080%%;
        location /header/ { proxy_pass http://header/; }
        location /last/ { proxy_pass http://last/; }
        location /two/ { proxy_pass http://two/; }
    }
}
";

#[test]
fn least_time_slow_peer_is_left_once_its_time_is_known() {
    let world = start(&binary(), TIMED, Mode::Single);
    for (uri, slow) in [("/header/pause", "paused"), ("/last/late", "late"), ("/two/late", "late")] {
        let end = Instant::now() + Duration::from_secs(5);
        while !world.ask(uri, "").ends_with(slow) {
            assert!(Instant::now() < end, "{uri} never came to the slow peer");
        }
        for _ in 0..6 {
            assert!(world.ask(uri, "").ends_with("quick"), "{uri} came to the slow peer again");
        }
    }
}

const SLOW: &str = "
worker_processes 1;
events { worker_connections 64; }
http {
    access_log off;
    upstream both { server 127.0.0.1:%%ORIGIN_A%% slow_start=3s fail_timeout=1s; server 127.0.0.1:%%PORT_1%%; }
    server { listen 127.0.0.1:%%PORT_1%%; return 200 quick; }
    server { listen %%PORT_8080%%; location / { proxy_pass http://both; } }
}
";

#[test]
fn slow_start_gives_a_peer_that_failed_its_part_little_by_little() {
    let world = start(&binary(), SLOW, Mode::Single);
    let part = || (0..40).filter(|_| world.ask("/turn", "").ends_with("warm")).count();
    // The first request that comes to the peer finds that it fails; nothing else is asked of it for a second.
    assert_eq!(part(), 0);
    std::thread::sleep(Duration::from_millis(2100));
    let (recovered, early) = (Instant::now(), part());
    let wait_until = |millis| {
        std::thread::sleep(Duration::from_millis(millis).saturating_sub(recovered.elapsed()));
    };
    wait_until(1500);
    let halfway = part();
    wait_until(3100);
    let late = part();
    assert!(early < 10, "{early} of 40 at the start");
    assert!((5..=18).contains(&halfway), "{halfway} of 40 on the way");
    assert!((19..=21).contains(&late), "{late} of 40 at the end");
}
