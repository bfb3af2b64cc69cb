//! Health checks: peers that go bad and come back, what answers must be like, how often is asked, what a reload keeps.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what does not work fails the test")]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::origin::Origin as Scripted;
use headwater_testkit::origin::rules::Rules;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

/// Limits everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a peer behaves, and what it has seen.
struct Peer {
    /// The answer to checks, which ask for `/health`; nothing: none, for ever.
    health: Option<String>,
    /// The status of all other answers.
    status: u16,
    /// When checks came, with their heads and whether their connection was a new one.
    checks: Vec<(Instant, String, bool)>,
    requests: usize,
}

/// A peer that listens.
struct Origin {
    port: u16,
    peer: Arc<Mutex<Peer>>,
}

impl Origin {
    fn start(health: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let peer = Peer { health: Some(health.to_owned()), status: 200, checks: Vec::new(), requests: 0 };
        let peer = Arc::new(Mutex::new(peer));
        let shared = peer.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let peer = shared.clone();
                thread::spawn(move || serve(&stream, &peer));
            }
        });
        Self { port, peer }
    }

    fn set(&self, change: impl FnOnce(&mut Peer)) {
        change(&mut self.peer.lock().unwrap());
    }

    fn requests(&self) -> usize {
        self.peer.lock().unwrap().requests
    }

    fn checks(&self) -> usize {
        self.peer.lock().unwrap().checks.len()
    }

    /// Waits for further checks to have come.
    fn wait_for_checks(&self, more: usize) {
        let wanted = self.checks() + more;
        wait_for("checks", || self.checks() >= wanted);
    }
}

fn serve(stream: &TcpStream, peer: &Mutex<Peer>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut fresh = true;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let answer = {
            let mut peer = peer.lock().unwrap();
            if head.starts_with("GET /health") {
                peer.checks.push((Instant::now(), head, fresh));
                peer.health.clone()
            } else {
                peer.requests += 1;
                Some(format!("HTTP/1.1 {} X\r\nContent-Length: 2\r\n\r\nok", peer.status))
            }
        };
        match answer {
            Some(answer) => (&*stream).write_all(answer.as_bytes())?,
            None => thread::sleep(PATIENCE),
        }
        fresh = false;
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

const OK: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nX-Version: 7\r\nContent-Length: 5\r\n\r\nready";
const BAD: &str = "HTTP/1.1 503 Bad\r\nContent-Length: 0\r\n\r\n";

struct Setup {
    server: Server,
    template: Template,
    port: u16,
    /// Counts reloads.
    generation: u32,
    dir: TempDir,
}

impl Setup {
    /// A server with two workers, groups `both` of two peers and `one` of the first, and these locations.
    fn start(origins: &[&Origin], http: &str, locations: &str) -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut template = Template::new(dir.path());
        for (name, origin) in ["A", "B"].iter().zip(origins) {
            template.set(name, origin.port);
        }
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let port = template.port("8080").expect("a port");
        let conf = conf(http, locations);
        let server =
            Server::start(&subject.path, &conf, &mut template, port, Mode::Master).expect("it starts");
        Self { server, template, port, generation: 0, dir }
    }

    /// Changes the configuration and waits until it is used.
    fn reload(&mut self, http: &str, locations: &str) {
        self.generation += 1;
        let marker = format!("generation {}", self.generation);
        let conf = conf(http, locations).replace("generation 0", &marker);
        let text = self.template.fill(&conf).expect("filled");
        fs::write(self.dir.path().join("nginx.conf"), text).expect("written");
        self.server.signal(Signal::HUP).expect("a signal");
        wait_for("the new configuration", || (0..8).all(|_| self.get("/generation").1 == marker));
    }

    fn get(&self, uri: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        write!(stream, "GET {uri} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
    }

    fn log(&self) -> String {
        self.server.read("error.log")
    }

    /// Waits until the log holds a text so many times.
    fn logs(&self, text: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < end, "{text} is not there {times} times:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn conf(http: &str, locations: &str) -> String {
    format!(
        r#"
worker_processes 2;
error_log error.log notice;
events {{ worker_connections 128; }}
http {{
    access_log off;
    proxy_next_upstream off;
    proxy_read_timeout 1s;
    {http}
    server {{
        listen %%PORT_8080%%;
        location = /generation {{ return 200 "generation 0"; }}
        {locations}
    }}
}}
"#
    )
}

const BOTH: &str = "upstream both { zone both 64k; server 127.0.0.1:%%A%% max_fails=0; server 127.0.0.1:%%B%% max_fails=0; }";
const ONE: &str = "upstream one { zone one 64k; server 127.0.0.1:%%A%%; }";

#[test]
fn peer_that_goes_bad_and_comes_back_under_load_fails_no_request_once_noticed() {
    let (a, b) = (Origin::start(OK), Origin::start(OK));
    let check =
        "location / { proxy_pass http://both; health_check interval=50ms uri=/health fails=2 passes=2; }";
    let setup = Setup::start(&[&a, &b], BOTH, check);
    let all = |count: usize| (0..count).filter(|_| setup.get("/x").0 != 200).count();
    assert_eq!(all(20), 0);
    assert!(a.requests() >= 5 && b.requests() >= 5);
    a.set(|peer| (peer.health, peer.status) = (Some(BAD.to_owned()), 500));
    let mut failed = 0;
    wait_for("the verdict", || {
        failed += all(1);
        setup.log().contains("peer is unhealthy")
    });
    let name = format!("127.0.0.1:{}", a.port);
    setup.logs(&format!("peer is unhealthy while checking status code, health check \"\" of peer {name} in upstream \"both\""), 1);
    assert!(setup.log().lines().any(|line| line.contains("[warn]") && line.contains("peer is unhealthy")));
    let before = a.requests();
    assert_eq!(all(200), 0, "after {failed} had failed");
    assert_eq!(a.requests(), before);
    a.set(|peer| (peer.health, peer.status) = (Some(OK.to_owned()), 200));
    wait_for("the recovery", || {
        assert_eq!(all(1), 0);
        setup.log().contains("peer is healthy")
    });
    setup.logs(&format!("peer is healthy, health check \"\" of peer {name} in upstream \"both\""), 1);
    assert_eq!(all(40), 0);
    assert!(a.requests() > before + 5);
}

#[test]
fn matches_look_at_status_header_body_and_variables() {
    let origin = Origin::start(OK);
    let matches = "
        match status { status 200 204; }
        match not { status ! 200-399; }
        match header { status 200; header Content-Type = text/html; header X-Version; header ! X-None; }
        match version { header X-Version ~ ^8; }
        match body { body ~ ready; body !~ failed; }
        match other { body ~ ^eady; }
        match variable { require $upstream_http_x_version; }
        match empty { require $upstream_http_x_version $upstream_http_x_none; }
    ";
    let names = ["status", "not", "header", "version", "body", "other", "variable", "empty"];
    let mut http = matches.to_owned();
    let mut locations = String::new();
    for name in names {
        http.push_str(&format!("upstream {name} {{ zone {name} 64k; server 127.0.0.1:%%A%%; }}\n"));
        locations.push_str(&format!(
            "location /{name}/ {{ proxy_pass http://{name}/; health_check interval=50ms uri=/health?{name} match={name} mandatory; }}\n"
        ));
    }
    let setup = Setup::start(&[&origin], &http, &locations);
    for (name, stage) in [
        ("not", "checking status code"),
        ("version", "checking header"),
        ("other", "checking body"),
        ("empty", "checking variables"),
    ] {
        setup.logs(&format!("peer is unhealthy while {stage}, health check \"{name}\" of peer"), 1);
        assert_eq!(setup.get(&format!("/{name}/")).0, 502);
    }
    for name in ["status", "header", "body", "variable"] {
        setup.logs(&format!("peer is healthy, health check \"{name}\" of peer"), 1);
        assert_eq!(setup.get(&format!("/{name}/")).0, 200);
    }
    setup.logs("no live upstreams while connecting to upstream", 4);
}

#[test]
fn checks_come_at_their_interval_with_the_headers_of_the_location_from_one_worker() {
    let origin = Origin::start(OK);
    let location = "location /app/ {
        proxy_set_header Host check.test; proxy_set_header X-From $upstream_addr; proxy_set_header X-Fixed fixed; proxy_method GET;
        proxy_pass http://one/base/; health_check interval=100ms jitter=100ms uri=/health?a=b%20c;
    }";
    let setup = Setup::start(&[&origin], ONE, location);
    origin.wait_for_checks(12);
    drop(setup);
    let checks = std::mem::take(&mut origin.peer.lock().unwrap().checks);
    let gaps: Vec<Duration> = checks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_millis(95)), "{gaps:?}");
    let long = gaps.iter().filter(|gap| **gap > Duration::from_millis(400)).count();
    assert!(long <= 2, "{gaps:?}");
    assert!(gaps.iter().max() > Some(&Duration::from_millis(115)), "by chance some are longer: {gaps:?}");
    let (_, head, _) = &checks[0];
    assert!(head.starts_with("GET /health?a=b%20c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nHost: check.test\r\n") && head.contains("\r\nX-Fixed: fixed\r\n"), "{head}");
    assert!(checks.iter().all(|(_, _, fresh)| *fresh), "each check has its own connection");
}

#[test]
fn keepalive_time_lets_checks_share_a_connection() {
    let origin = Origin::start(OK);
    let location =
        "location / { proxy_pass http://one; health_check interval=20ms uri=/health keepalive_time=500ms; }";
    let _setup = Setup::start(&[&origin], ONE, location);
    origin.wait_for_checks(40);
    let checks = std::mem::take(&mut origin.peer.lock().unwrap().checks);
    let fresh = checks.iter().filter(|(_, _, fresh)| *fresh).count();
    assert!((2..=6).contains(&fresh), "{fresh} connections for {} checks", checks.len());
}

#[test]
fn mandatory_peer_is_not_used_before_it_passed() {
    let origin = Origin::start(OK);
    origin.set(|peer| peer.health = None);
    let location =
        "location / { proxy_pass http://one; health_check interval=100ms uri=/health mandatory fails=5; }";
    let setup = Setup::start(&[&origin], ONE, location);
    origin.wait_for_checks(1);
    assert_eq!(setup.get("/x").0, 502);
    assert_eq!(origin.requests(), 0);
    origin.set(|peer| peer.health = Some(OK.to_owned()));
    setup.logs("peer is healthy", 1);
    assert_eq!(setup.get("/x").0, 200);
    setup.logs("upstream timed out (110: Connection timed out) while reading response header from upstream, health check \"\" of peer", 1);
}

#[test]
fn reload_keeps_verdicts_and_only_persistent_checks_need_not_pass_anew() {
    let (a, b) = (Origin::start(BAD), Origin::start(OK));
    let plain = "location / { proxy_pass http://both; health_check interval=100ms uri=/health; }";
    let mut setup = Setup::start(&[&a, &b], BOTH, plain);
    setup.logs("peer is unhealthy", 1);
    // Checks that cannot be answered find nothing new: what is known comes from before.
    for origin in [&a, &b] {
        origin.set(|peer| peer.health = None);
    }
    let before = a.requests();
    setup.reload(BOTH, plain);
    assert!((0..20).all(|_| setup.get("/x").0 == 200));
    assert_eq!(a.requests(), before);

    let (a, b) = (Origin::start(OK), Origin::start(OK));
    let mandatory =
        "location / { proxy_pass http://both; health_check interval=100ms uri=/health mandatory fails=9; }";
    let persistent = "location / { proxy_pass http://both; health_check interval=100ms uri=/health mandatory persistent fails=9; }";
    let mut setup = Setup::start(&[&a, &b], BOTH, persistent);
    setup.logs("peer is healthy", 2);
    for origin in [&a, &b] {
        origin.set(|peer| peer.health = None);
    }
    setup.reload(BOTH, persistent);
    assert!((0..10).all(|_| setup.get("/x").0 == 200));
    setup.reload(BOTH, mandatory);
    assert_eq!(setup.get("/x").0, 502);
    setup.reload(BOTH, "location / { proxy_pass http://both; }");
    assert!((0..10).all(|_| setup.get("/x").0 == 200), "without checks nothing bars a peer");
    for origin in [&a, &b] {
        origin.set(|peer| peer.health = Some(OK.to_owned()));
    }
    thread::sleep(Duration::from_millis(200));
    let checks = a.checks();
    thread::sleep(Duration::from_millis(400));
    assert_eq!(a.checks(), checks, "the checks of a configuration end with it");
}

#[test]
fn any_of_several_checks_makes_a_peer_unhealthy() {
    let (a, b) = (Origin::start(OK), Origin::start(OK));
    let locations = "
        location / { proxy_pass http://both; health_check interval=50ms uri=/health; }
        location /strict/ { proxy_pass http://both; health_check interval=50ms uri=/health match=strict; }
    ";
    let http = format!("{BOTH} match strict {{ header X-Version = 7; }}");
    let setup = Setup::start(&[&a, &b], &http, locations);
    a.set(|peer| peer.health = Some(OK.replace("X-Version: 7", "X-Version: 6")));
    setup.logs("peer is unhealthy while checking header, health check \"strict\"", 1);
    let before = a.requests();
    assert!((0..20).all(|_| setup.get("/x").0 == 200));
    assert_eq!(a.requests(), before);
    a.wait_for_checks(4);
    assert!(!setup.log().contains("peer is healthy"));
}

#[test]
fn tcp_checks_and_other_ports_look_at_connections() {
    let origin = Origin::start(OK);
    let closed = free_port().expect("a port");
    let http = format!(
        "{ONE} upstream gone {{ zone gone 64k; server 127.0.0.1:{closed}; }} upstream aside {{ zone aside 64k; server 127.0.0.1:{closed} ; }}"
    );
    let locations = format!(
        "location / {{ proxy_pass http://one; health_check type=tcp interval=50ms mandatory; }}
         location /gone/ {{ proxy_pass http://gone; health_check type=tcp interval=50ms; }}
         location /aside/ {{ proxy_pass http://aside; health_check uri=/health port={} interval=50ms mandatory; }}",
        origin.port
    );
    let setup = Setup::start(&[&origin], &http, &locations);
    setup.logs("peer is healthy, health check \"\" of peer", 2);
    setup.logs(&format!("connect() failed (111: Connection refused) while connecting to upstream, health check \"\" of peer 127.0.0.1:{closed} in upstream \"gone\""), 2);
    setup.logs("peer is unhealthy while connecting to upstream", 1);
    assert_eq!(setup.get("/x").0, 200);
    assert!(setup.log().contains(&format!("of peer 127.0.0.1:{closed} in upstream \"aside\"")));
}

#[test]
fn huge_broken_and_endless_answers_are_judged() {
    let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\nready{}", "x".repeat(400_000));
    let (a, b) =
        (Origin::start(&huge), Origin::start("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nready"));
    let http = format!(
        "{ONE} upstream two {{ zone two 64k; server 127.0.0.1:%%B%%; }} match ready {{ body ~ ^ready; }}"
    );
    let locations = "
        location / { proxy_pass http://one; gzip on; health_check interval=100ms uri=/health match=ready mandatory; }
        location /two/ { proxy_pass http://two; proxy_read_timeout 200ms; health_check interval=100ms uri=/health match=ready; }
    ";
    let setup = Setup::start(&[&a, &b], &http, locations);
    setup.logs("peer is healthy, health check \"ready\" of peer", 1);
    setup.logs("peer is unhealthy while reading upstream, health check \"ready\" of peer", 1);
    assert_eq!((setup.get("/x").0, setup.get("/two/x").0), (200, 502));
}

#[test]
fn fastcgi_peers_are_checked_in_their_protocol() {
    let (f, plain) = (free_port().expect("a port"), Origin::start(OK));
    let dir = TempDir::new().expect("a directory");
    let rules = ["on /ping", "stdout Content-Type: text/plain\\r\\n\\r\\npong", "end"].map(str::to_owned);
    let _origin =
        Scripted::start("F", f, dir.path(), Rules::parse(&rules).expect("rules")).expect("an origin");
    let http = format!(
        "upstream php {{ zone php 64k; server 127.0.0.1:{f}; }} match pong {{ status 200; body ~ ^pong$; }}"
    );
    let locations = "location / { fastcgi_pass php; fastcgi_param REQUEST_URI $uri; fastcgi_param SCRIPT_NAME $fastcgi_script_name; health_check interval=50ms uri=/ping match=pong mandatory; }";
    let setup = Setup::start(&[&plain], &http, locations);
    setup.logs("peer is healthy, health check \"pong\" of peer", 1);
}

#[test]
fn scgi_and_uwsgi_peers_are_checked_in_their_protocols() {
    let (s, u, plain) = (free_port().expect("a port"), free_port().expect("a port"), Origin::start(OK));
    let dir = TempDir::new().expect("a directory");
    let rules = [
        "on /ping",
        "<< Status: 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\npong",
        "on /pong",
        "<< Status: 503 Busy\\r\\nContent-Type: text/plain\\r\\n\\r\\npong",
    ]
    .map(str::to_owned);
    let start = |name, port| Scripted::start(name, port, dir.path(), Rules::parse(&rules).expect("rules"));
    let _origins = (start("S", s).expect("an origin"), start("U", u).expect("an origin"));
    let http = format!(
        "upstream s {{ zone s 64k; server 127.0.0.1:{s}; }} upstream u {{ zone u 64k; server 127.0.0.1:{u}; }}
         upstream bad {{ zone bad 64k; server 127.0.0.1:{u}; }} match pong {{ status 200; body ~ ^pong$; }}"
    );
    let locations = "
        location /s/ { scgi_pass s; scgi_param SCRIPT_NAME $uri; health_check interval=50ms uri=/ping match=pong mandatory; }
        location /u/ { uwsgi_pass u; uwsgi_param PATH_INFO $uri; health_check interval=50ms uri=/ping match=pong mandatory; }
        location /bad/ { uwsgi_pass bad; uwsgi_param PATH_INFO $uri; health_check interval=50ms uri=/pong match=pong; }
    ";
    let setup = Setup::start(&[&plain], &http, locations);
    setup.logs("peer is healthy, health check \"pong\" of peer", 2);
    setup.logs("peer is unhealthy", 1);
    // An application is asked only where its check let it be.
    assert_eq!((setup.get("/s/ping").0, setup.get("/u/ping").0, setup.get("/bad/ping").0), (200, 200, 502));
}
