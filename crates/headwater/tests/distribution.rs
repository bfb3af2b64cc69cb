//! Which peers a hundred thousand requests go to: the same, one by one, as nginx chooses; for methods with chance, by their share.
//!
//! A real nginx is asked over one connection, so that the order is fixed; headwater's choice comes from the library, and for the first thousands of requests from the
//! program. nginx's counterpart: none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "helpers of a test fail the test")]

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_http::script::Complex;
use headwater_http::upstream::peers::least_time::{LeastTime, Until};
use headwater_http::upstream::peers::random::Draw;
use headwater_http::upstream::peers::{Group, Keepalive, Key, Method, Options, Peer, Report};
use headwater_io::addr::Addr;
use headwater_testkit::oracle;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::template::Template;

/// Requests of each method; those of groups with failures.
const MANY: u32 = 100_000;
const SOME: u32 = 10_000;
/// Requests that the program serves, too.
const SERVED: u32 = 2000;
/// Requests sent before their answers are read.
const BATCH: u32 = 250;

/// What a request of a group carries.
#[derive(Clone, Copy, PartialEq)]
enum Carries {
    Nothing,
    Text,
    Ipv4,
    Ipv6,
}

/// A group as nginx and the library know it. A server is `(port name, weight, max_fails)`; nobody listens on port 1.
struct Case {
    name: &'static str,
    method: &'static str,
    carries: Carries,
    primary: &'static [(&'static str, u32, u32)],
    backup: &'static [(&'static str, u32, u32)],
    count: u32,
}

const LIVE: &[(&str, u32, u32)] = &[("1", 5, 1), ("2", 1, 1), ("3", 1, 1), ("4", 3, 1)];
const DYING: &[(&str, u32, u32)] = &[("1", 5, 1), ("dead", 60, 20), ("2", 2, 1), ("dead2", 7, 3)];
const DEAD: &[(&str, u32, u32)] = &[("dead", 3, 2), ("dead2", 1, 1)];

const CASES: &[Case] = &[
    case("round", "", Carries::Nothing, LIVE, &[], MANY),
    case("hash", "hash $http_x_key;", Carries::Text, LIVE, &[], MANY),
    case("ketama", "hash $http_x_key consistent;", Carries::Text, LIVE, &[], MANY),
    case("ip_hash", "ip_hash;", Carries::Ipv4, LIVE, &[], MANY),
    case("ip_hash6", "ip_hash;", Carries::Ipv6, LIVE, &[], SOME),
    case("round_dying", "", Carries::Nothing, DYING, &[], SOME),
    case("round_backup", "", Carries::Nothing, DEAD, LIVE, SOME),
    case("least_backup", "least_conn;", Carries::Nothing, DEAD, LIVE, SOME),
    case("least_dying", "least_conn;", Carries::Nothing, DYING, &[], SOME),
    case("hash_dying", "hash $http_x_key;", Carries::Text, DYING, &[], SOME),
    case("ketama_dying", "hash $http_x_key consistent;", Carries::Text, DYING, &[], SOME),
    case("ip_hash_dying", "ip_hash;", Carries::Ipv4, DYING, &[], SOME),
];

const fn case(
    name: &'static str,
    method: &'static str,
    carries: Carries,
    primary: &'static [(&'static str, u32, u32)],
    backup: &'static [(&'static str, u32, u32)],
    count: u32,
) -> Case {
    Case { name, method, carries, primary, backup, count }
}

/// A number that looks random and is the same every time.
fn scramble(number: u32) -> u32 {
    let mut x = number.wrapping_mul(0x9e37_79b9).wrapping_add(0x7f4a_7c15);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35) ^ (x >> 7)
}

/// What the request of this number carries, as text.
fn carried(carries: Carries, number: u32) -> String {
    let x = scramble(number);
    match carries {
        Carries::Nothing => String::new(),
        Carries::Text => format!("key-{x:x}"),
        Carries::Ipv4 => std::net::Ipv4Addr::from(x).to_string(),
        Carries::Ipv6 => std::net::Ipv6Addr::from(u128::from(x) << 64 | u128::from(scramble(x))).to_string(),
    }
}

fn key(carries: Carries, number: u32) -> Key {
    let text = carried(carries, number);
    match carries {
        Carries::Nothing => Key::None,
        Carries::Text => Key::Text(text.into_bytes()),
        Carries::Ipv4 | Carries::Ipv6 => {
            Key::Addr(Addr::Inet((text.parse::<std::net::IpAddr>().unwrap(), 0).into()))
        }
    }
}

/// Names of ports as configurations have them: `dead` ones are privileged ports that nobody uses.
fn address(name: &str, template: &mut Template) -> String {
    match name {
        "dead" => "127.0.0.1:1".to_owned(),
        "dead2" => "127.0.0.1:2".to_owned(),
        name => format!("127.0.0.1:{}", template.port(name).unwrap()),
    }
}

/// The configuration with these groups.
fn configuration(cases: &[&Case], template: &mut Template) -> String {
    let mut http = String::new();
    for case in cases {
        let mut servers = String::new();
        for (list, end) in [(case.primary, ""), (case.backup, " backup")] {
            for (name, weight, max_fails) in list {
                let address = address(name, template);
                let _ = write!(
                    servers,
                    "server {address} weight={weight} max_fails={max_fails} fail_timeout=1d{end}; "
                );
            }
        }
        let name = case.name;
        let _ = writeln!(http, "upstream {name} {{ {} {servers} keepalive 64; }}", case.method);
    }
    let mut locations = String::new();
    for Case { name, .. } in cases {
        let _ = writeln!(
            locations,
            "location = /{name} {{ access_log logs/{name}.log peers buffer=64k flush=100ms; proxy_pass http://{name}; }}"
        );
    }
    format!(
        "worker_processes 1; events {{ worker_connections 1000; }} error_log error.log crit;
http {{ access_log off; keepalive_requests 10000000; log_format peers $upstream_addr; keepalive_timeout 60s;
set_real_ip_from 127.0.0.1; real_ip_header X-Ip; proxy_http_version 1.1; proxy_set_header Connection \"\";
{http}
server {{ listen 127.0.0.1:%%PORT_8080%%; {locations} }}
server {{ listen 127.0.0.1:%%PORT_1%%; listen 127.0.0.1:%%PORT_2%%; listen 127.0.0.1:%%PORT_3%%; listen 127.0.0.1:%%PORT_4%%; return 204; }}
}}"
    )
}

/// Sends the requests of a group over one connection and waits for every answer.
fn ask(port: u16, case: &Case, count: u32) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut buffer = vec![0; 1 << 16];
    let mut number = 0;
    while number < count {
        let until = count.min(number + BATCH);
        let mut text = String::new();
        for number in number..until {
            let carried = carried(case.carries, number);
            let header = match case.carries {
                Carries::Nothing => String::new(),
                Carries::Text => format!("X-Key: {carried}\r\n"),
                Carries::Ipv4 | Carries::Ipv6 => format!("X-Ip: {carried}\r\n"),
            };
            let _ = write!(text, "GET /{} HTTP/1.1\r\nHost: a\r\n{header}\r\n", case.name);
        }
        stream.write_all(text.as_bytes())?;
        // Every answer is a head alone and ends with an empty line.
        let (mut answers, mut matched) = (number, 0);
        while answers < until {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for byte in &buffer[..length] {
                matched =
                    if *byte == b"\r\n\r\n"[matched] { matched + 1 } else { usize::from(*byte == b'\r') };
                if matched == 4 {
                    (answers, matched) = (answers + 1, 0);
                }
            }
        }
        number = until;
    }
    Ok(())
}

/// The addresses that a server asked for every request, one line each.
fn served(binary: &Path, cases: &[&Case], most: u32, template: &mut Template) -> Vec<Vec<String>> {
    let conf = configuration(cases, template);
    let port = template.port("8080").unwrap();
    let mut server = Server::start(binary, &conf, template, port, Mode::Single).unwrap();
    let mut all = Vec::new();
    for case in cases {
        let count = case.count.min(most);
        ask(port, case, count)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", case.name, server.read("error.log")));
        let log = format!("logs/{}.log", case.name);
        let end = Instant::now() + Duration::from_secs(5);
        let mut lines = Vec::new();
        while lines.len() < count as usize && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            lines = server.read(&log).lines().map(str::to_owned).collect();
        }
        std::fs::remove_file(server.dir().join(log)).unwrap();
        all.push(lines);
    }
    server.stop();
    all
}

fn group(case: &Case, template: &mut Template) -> Group {
    let mut peers = |list: &[(&str, u32, u32)]| -> Vec<Peer> {
        let one = |(name, weight, max_fails): &(&str, u32, u32)| {
            let address = address(name, template);
            let addr = Addr::Inet(address.parse().unwrap());
            let fail_timeout = Duration::from_secs(86_400);
            Peer {
                weight: i64::from(*weight),
                max_fails: *max_fails,
                fail_timeout,
                ..Peer::new(addr, &address)
            }
        };
        list.iter().map(one).collect()
    };
    let key = Complex::text(b"");
    let method = match case.method {
        "" => Method::RoundRobin,
        "least_conn;" => Method::LeastConn,
        "ip_hash;" => Method::IpHash,
        text if text.contains("consistent") => Method::Consistent(key),
        _ => Method::Hash(key),
    };
    let (primary, backup) = (peers(case.primary), peers(case.backup));
    let options = Options { method, ..Options::default() };
    Group::with_options(case.name, primary, backup, Keepalive::default(), options)
}

/// The addresses that the library asks for every request.
fn chosen(case: &Case, template: &mut Template) -> Vec<String> {
    let group = group(case, template);
    let one = |number| {
        let mut tried = group.start_with(key(case.carries, number));
        let mut asked = Vec::new();
        while let Some(picked) = group.pick(&mut tried) {
            asked.push(picked.peer.name.to_string());
            let failed = matches!(&*picked.peer.name, "127.0.0.1:1" | "127.0.0.1:2");
            group.finish(picked, &mut tried, &Report { failed, ..Report::default() });
            if !failed || tried.left == 0 {
                return asked.join(", ");
            }
        }
        asked.push(case.name.to_owned());
        asked.join(", ")
    };
    (0..case.count).map(one).collect()
}

fn assert_same(name: &str, what: &str, ours: &[String], wanted: &[String]) {
    let differs = ours.iter().zip(wanted).position(|(ours, wanted)| ours != wanted);
    if let Some(at) = differs {
        panic!("{name} of the {what}: request {at} goes to {}, nginx's to {}", ours[at], wanted[at]);
    }
    assert!(ours.len() <= wanted.len(), "{name}: nginx logged {} of {} requests", wanted.len(), ours.len());
}

/// Both servers get the same ports, one after the other.
fn compare(cases: &[&Case]) {
    let dir = TempDir::new().unwrap();
    let mut template = Template::new(dir.path());
    let nginx = served(&oracle::nginx().unwrap(), cases, MANY, &mut template);
    let program = served(Path::new(env!("CARGO_BIN_EXE_headwater")), cases, SERVED, &mut template);
    for ((case, wanted), program) in cases.iter().zip(&nginx).zip(&program) {
        assert_eq!(wanted.len(), case.count as usize, "{}", case.name);
        assert_eq!(program.len(), case.count.min(SERVED) as usize, "{}", case.name);
        assert_same(case.name, "library", &chosen(case, &mut template), wanted);
        assert_same(case.name, "program", program, wanted);
    }
}

#[test]
fn sequence_of_a_hundred_thousand_requests_is_that_of_nginx() {
    compare(&CASES.iter().filter(|case| case.count == MANY).collect::<Vec<_>>());
}

#[test]
fn sequence_with_failures_and_backups_is_that_of_nginx() {
    compare(&CASES.iter().filter(|case| case.count < MANY).collect::<Vec<_>>());
}

/// A group of peers with these weights.
fn weighted(method: Method, weights: &[i64]) -> Group {
    let one = |(index, weight): (usize, &i64)| {
        let name = format!("127.0.0.1:{}", 1000 + index);
        Peer { weight: *weight, ..Peer::new(Addr::Inet(name.parse().unwrap()), &name) }
    };
    let peers = weights.iter().enumerate().map(one).collect();
    let options = Options { method, ..Options::default() };
    Group::with_options("g", peers, Vec::new(), Keepalive::default(), options)
}

/// How often each peer is chosen while so many connections are in use.
fn counts(group: &Group, peers: usize, held: usize) -> Vec<u32> {
    let mut counts = vec![0; peers];
    let mut in_use = std::collections::VecDeque::new();
    for _ in 0..MANY {
        let mut tried = group.start_with(Key::None);
        let picked = group.pick(&mut tried).expect("live");
        counts[usize::from(picked.peer.addr.port()) - 1000] += 1;
        in_use.push_back((picked, tried));
        if in_use.len() > held
            && let Some((picked, mut tried)) = in_use.pop_front()
        {
            group.finish(picked, &mut tried, &Report { status: 200, ..Report::default() });
        }
    }
    counts
}

fn chi_square(counts: &[u32], weights: &[i64]) -> f64 {
    let total: i64 = weights.iter().sum();
    let one = |(count, weight): (&u32, &i64)| {
        let wanted = f64::from(MANY) * *weight as f64 / total as f64;
        (f64::from(*count) - wanted).powi(2) / wanted
    };
    counts.iter().zip(weights).map(one).sum()
}

#[test]
fn random_share_is_that_of_weights() {
    let weights = [1, 2, 3, 4, 10];
    let counts = counts(&weighted(Method::Random(Draw::One), &weights), weights.len(), 0);
    let chi = chi_square(&counts, &weights);
    // Four degrees of freedom: by chance larger once in ten million runs.
    assert!(chi < 40.0, "{counts:?} {chi}");
}

#[test]
fn connections_in_use_are_spread_by_weight() {
    let weights = [1, 2, 3, 4, 10];
    let by = LeastTime { until: Until::LastByte, inflight: false };
    let exact = [Method::LeastConn, Method::LeastTime(by)];
    for method in exact {
        let shown = format!("{method:?}");
        let counts = counts(&weighted(method, &weights), weights.len(), 60);
        for (count, weight) in counts.iter().zip(weights) {
            let wanted = f64::from(MANY) * weight as f64 / 20.0;
            assert!((f64::from(*count) / wanted - 1.0).abs() < 0.05, "{shown} {counts:?}");
        }
    }
    for draw in [Draw::LeastConn, Draw::LeastTime(Until::Header)] {
        let counts = counts(&weighted(Method::Random(draw), &weights), weights.len(), 60);
        for (count, weight) in counts.iter().zip(weights) {
            let wanted = f64::from(MANY) * weight as f64 / 20.0;
            assert!((f64::from(*count) / wanted - 1.0).abs() < 0.25, "{draw:?} {counts:?}");
        }
    }
}
