//! Names at run time, as the whole program resolves them: what one server, its workers and its reloads ask name servers, and what becomes of it.
//!
//! Runs headwater (or `SUBJECT`) with scripted name servers and origins on loopback, with free ports; all of them end with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::dns::{Dns, rules::Rules};
use headwater_testkit::origin::{Origin, rules};
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

/// A server with an origin, and a port for a name server.
struct Setup {
    port: u16,
    dns_port: u16,
    server: Server,
    _origin: Origin,
    dir: TempDir,
}

fn dns_rules(text: &str) -> Rules {
    Rules::parse(&text.lines().map(str::to_owned).collect::<Vec<_>>()).unwrap()
}

/// Starts everything; `before` is called with the name server's port first.
fn start<T>(http: &str, mode: Mode, before: impl FnOnce(u16) -> T) -> (Setup, T) {
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap();
    let dir = TempDir::new().unwrap();
    let mut template = Template::new(dir.path());
    let (origin_port, dns_port) = (free_port().unwrap(), free_port().unwrap());
    template.set("ORIGIN", origin_port);
    template.set("DNS", dns_port);
    let origin = Origin::start("A", origin_port, dir.path(), rules::Rules::parse(&[]).unwrap()).unwrap();
    let made = before(dns_port);
    let conf = format!(
        "worker_processes 2;\nerror_log error.log notice;\nevents {{ }}\nhttp {{ access_log off; proxy_connect_timeout 2s; {http}\n\
         location /by/ {{ proxy_pass http://$arg_h:%%ORIGIN%%; }} }} }}\n"
    );
    let port = template.port("8080").unwrap();
    let server = Server::start(&subject.path, &conf, &mut template, port, mode).unwrap();
    (Setup { port, dns_port, server, _origin: origin, dir }, made)
}

const PLAIN: &str =
    "resolver 127.0.0.1:%%DNS%% ipv6=off; resolver_timeout 8s; server { listen 127.0.0.1:%%PORT_8080%%;";

impl Setup {
    /// The status of a GET, 0 when there is none.
    fn get(&self, target: &str) -> u16 {
        get(self.port, target)
    }

    /// Waits until a GET has this status.
    fn wait_for(&self, target: &str, status: u16) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.get(target) != status {
            assert!(Instant::now() < end, "{target} is never {status}:\n{}", self.server.read("error.log"));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn reload(&self) {
        let lines = |text: &str| text.matches("reconfiguring").count();
        let before = lines(&self.server.read("error.log"));
        self.server.signal(Signal::HUP).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while lines(&self.server.read("error.log")) == before && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn get(port: u16, target: &str) -> u16 {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(12)))?;
        stream.write_all(
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().ok().and_then(|answer| answer.get(9..12)?.parse().ok()).unwrap_or(0)
}

#[test]
fn many_requests_for_one_name_ask_once() {
    let (setup, dns) = start(PLAIN, Mode::Single, |port| {
        Dns::start(port, dns_rules("on *\na 127.0.0.1\npause 300")).unwrap()
    });
    let port = setup.port;
    let clients: Vec<_> = (0..40).map(|_| thread::spawn(move || get(port, "/by/?h=a.test"))).collect();
    for client in clients {
        assert_eq!(client.join().unwrap(), 200);
    }
    assert_eq!(dns.take_seen(), ["UDP A a.test"]);
}

#[test]
fn questions_come_from_many_ports_with_many_ids() {
    let (setup, dns) =
        start(PLAIN, Mode::Single, |port| Dns::start(port, dns_rules("on *\na 127.0.0.1")).unwrap());
    for number in 0..40 {
        assert_eq!(setup.get(&format!("/by/?h=n{number}.test")), 200);
    }
    let sources = dns.take_sources();
    let (ports, ids): (BTreeSet<_>, BTreeSet<_>) = sources.iter().copied().unzip();
    assert_eq!(sources.len(), 40);
    assert!(ports.len() > 35 && ids.len() > 35, "{sources:?}");
    let steps: BTreeSet<_> = sources.windows(2).map(|pair| pair[1].1.wrapping_sub(pair[0].1)).collect();
    assert!(steps.len() > 30, "ids follow a pattern: {sources:?}");
}

#[test]
fn flood_of_forged_answers_changes_nothing() {
    let rules = "on *\na 127.0.0.1\nforge id\nforge source\nforge question\nforge text\nrepeat 50";
    let (setup, _dns) = start(PLAIN, Mode::Single, |port| Dns::start(port, dns_rules(rules)).unwrap());
    for number in 0..5 {
        assert_eq!(setup.get(&format!("/by/?h=n{number}.test")), 200);
    }
    assert_eq!(setup.get("/by/?h=127.0.0.1"), 200);
}

#[test]
fn name_server_that_comes_late_is_asked_again() {
    let (setup, ()) = start(PLAIN, Mode::Single, |_| ());
    let port = setup.port;
    let client = thread::spawn(move || get(port, "/by/?h=a.test"));
    thread::sleep(Duration::from_secs(1));
    let _dns = Dns::start(setup.dns_port, dns_rules("on *\na 127.0.0.1")).unwrap();
    assert_eq!(client.join().unwrap(), 200);
    let refused = format!(
        "recv() failed (111: Connection refused) while resolving, resolver: 127.0.0.1:{}",
        setup.dns_port
    );
    assert!(setup.server.read("error.log").contains(&refused), "{}", setup.server.read("error.log"));
}

#[test]
fn clients_that_leave_during_a_lookup_leave_nothing_behind() {
    let (setup, dns) =
        start(PLAIN, Mode::Single, |port| Dns::start(port, dns_rules("on slow.test\ndrop")).unwrap());
    for _ in 0..50 {
        let mut stream = TcpStream::connect(("127.0.0.1", setup.port)).unwrap();
        stream.write_all(b"GET /by/?h=slow.test HTTP/1.1\r\nHost: l\r\n\r\n").unwrap();
    }
    thread::sleep(Duration::from_millis(500));
    dns.set_rules(dns_rules("on slow.test\na 127.0.0.1"));
    assert_eq!(setup.get("/by/?h=slow.test"), 200);
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", setup.server.pid())).unwrap();
    let sockets = sockets.flatten().filter(|fd| {
        std::fs::read_link(fd.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:"))
    });
    let open = sockets.count();
    assert!(open < 20, "{open} sockets are still open");
}

const GROUP: &str = "resolver 127.0.0.1:%%DNS%% ipv6=off; resolver_timeout 1s;\n\
     upstream g { zone g 256k; server a.test:%%ORIGIN%% resolve; }\n\
     server { listen 127.0.0.1:%%PORT_8080%%; location /group { proxy_pass http://g; }";

#[test]
fn server_starts_without_its_name_server_and_finds_the_peers_later() {
    let (setup, ()) = start(GROUP, Mode::Master, |_| ());
    let said = "a.test could not be resolved (110: Operation timed out)";
    let end = Instant::now() + Duration::from_secs(10);
    while !setup.server.read("error.log").contains(said) {
        assert!(Instant::now() < end, "{}", setup.server.read("error.log"));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(setup.get("/group"), 502);
    let _dns = Dns::start(setup.dns_port, dns_rules("on a.test\na 127.0.0.1")).unwrap();
    setup.wait_for("/group", 200);
    let log = setup.server.read("error.log");
    assert!(log.contains("no live upstreams while connecting to upstream"), "{log}");
}

#[test]
fn peers_that_were_found_outlive_a_reload_without_name_servers() {
    let (setup, dns) =
        start(GROUP, Mode::Master, |port| Dns::start(port, dns_rules("on a.test\na 127.0.0.1")).unwrap());
    setup.wait_for("/group", 200);
    dns.set_rules(dns_rules("on *\ndrop"));
    for _ in 0..3 {
        setup.reload();
        for _ in 0..10 {
            assert_eq!(setup.get("/group"), 200, "{}", setup.server.read("error.log"));
        }
    }
    let _ = setup.dir.path();
}

#[test]
fn one_worker_asks_for_all_and_an_old_configuration_asks_no_more() {
    let (setup, dns) = start(GROUP, Mode::Master, |port| {
        Dns::start(port, dns_rules("on a.test\na 127.0.0.1\nttl 1")).unwrap()
    });
    setup.wait_for("/group", 200);
    for _ in 0..3 {
        setup.reload();
    }
    let _ = dns.take_seen();
    thread::sleep(Duration::from_millis(4500));
    let asked = dns.take_seen().len();
    // Every two seconds: the second the answer holds, and the rest of the present one.
    assert!((1..=3).contains(&asked), "asked {asked} times in 4.5 s");
}
