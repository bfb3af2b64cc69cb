//! Random trees of subrequests give exactly the document that they describe, in bounded memory, whatever ends first; hostile pages end.

#![allow(clippy::expect_used, reason = "what does not work fails the test")]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::Template;

const CONF: &str = r#"
events { worker_connections 2000; }
http {
    log_format uris "$uri";
    access_log access.log uris;
    log_subrequest on;
    keepalive_timeout 1s;
    proxy_read_timeout 10s;
    upstream origin { server 127.0.0.1:%%ORIGIN%%; keepalive 64; }
    server {
        listen %%PORT_8080%%;
        root html;
        ssi on;
        error_page 404 = /absent;
        location = /absent { internal; return 200 "ABSENT"; }
        location /o/ { proxy_pass http://origin; }
        location /page/ { }
        location /plain/ { ssi off; }
        location = /never { proxy_read_timeout 300ms; proxy_pass http://origin; error_page 504 = /late; }
        location = /late { return 200 "LATE"; }
        location = /to-parent { rewrite ^ /page/looping.html last; }
        location = /status { access_log off; stub_status; }
    }
}
"#;

const PATIENCE: Duration = Duration::from_secs(30);

/// A reproducible source of choices (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).expect("small")
    }

    fn text(&mut self, limit: usize) -> String {
        let length = self.below(limit);
        (0..length).map(|_| char::from(b"abcdefghij \n"[self.below(12)])).collect()
    }
}

/// What the origin answers for a URI: pause, head, pieces of the body, and whether it closes before the announced end.
#[derive(Clone)]
struct Answer {
    delay: u64,
    body: String,
    pieces: usize,
    chunked: bool,
    cut: bool,
}

type Answers = Arc<std::sync::Mutex<std::collections::HashMap<String, Answer>>>;

struct Setup {
    server: Server,
    port: u16,
    answers: Answers,
    open: Arc<AtomicUsize>,
    dir: TempDir,
}

impl Setup {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = listener.local_addr().expect("an address").port();
        let answers = Answers::default();
        let open = Arc::new(AtomicUsize::new(0));
        let (known, count) = (answers.clone(), open.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (known, count) = (known.clone(), count.clone());
                thread::spawn(move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    let _ = answer(&stream, &known);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let dir = TempDir::new().expect("a directory");
        for name in ["html/page", "html/plain"] {
            fs::create_dir_all(dir.path().join(name)).expect("a directory");
        }
        let mut template = Template::new(dir.path());
        template.set("ORIGIN", origin);
        let port = template.port("8080").expect("a port");
        let server =
            Server::start(&subject.path, CONF, &mut template, port, Mode::Single).expect("it starts");
        Self { server, port, answers, open, dir }
    }

    fn write(&self, uri: &str, text: &str) {
        fs::write(self.dir.path().join("html").join(uri.trim_start_matches('/')), text).expect("written");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }

    fn get(&self, uri: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET {uri} HTTP/1.0\r\nHost: a\r\n\r\n").expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    /// Waits until no client but this one and no back end is connected.
    fn settle(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.get("/status");
            let idle = status.starts_with("Active connections: 1 ") && self.busy_origins() == 0;
            if idle {
                return;
            }
            assert!(Instant::now() < end, "something is left running:\n{status}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Origin connections with a request under way.
    fn busy_origins(&self) -> usize {
        self.open.load(Ordering::SeqCst) - IDLE.load(Ordering::SeqCst).min(self.open.load(Ordering::SeqCst))
    }
}

/// Origin connections that wait for a request, in this process.
static IDLE: AtomicUsize = AtomicUsize::new(0);

fn answer(stream: &TcpStream, known: &Answers) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        IDLE.fetch_add(1, Ordering::SeqCst);
        let read = reader.read_line(&mut line);
        IDLE.fetch_sub(1, Ordering::SeqCst);
        if read? == 0 {
            return Ok(());
        }
        let uri = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let Some(answer) = known.lock().expect("no panic").get(&uri).cloned() else {
            // A back end that never answers.
            reader.read_line(&mut line)?;
            return Ok(());
        };
        thread::sleep(Duration::from_millis(answer.delay));
        let mut out = stream;
        let framing = match answer.chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {}", answer.body.len() + if answer.cut { 7 } else { 0 }),
        };
        write!(out, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{framing}\r\n\r\n")?;
        let size = answer.body.len().div_ceil(answer.pieces.max(1)).max(1);
        for piece in answer.body.as_bytes().chunks(size) {
            if answer.chunked {
                write!(out, "{:x}\r\n", piece.len())?;
                out.write_all(piece)?;
                out.write_all(b"\r\n")?;
            } else {
                out.write_all(piece)?;
            }
            if answer.pieces > 1 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if answer.chunked && !answer.cut {
            out.write_all(b"0\r\n\r\n")?;
        }
        if answer.cut {
            return Ok(());
        }
    }
}

/// A tree under construction: its nodes get URIs of their own.
struct Trees<'a> {
    setup: &'a Setup,
    random: Random,
    prefix: String,
    nodes: usize,
    uris: Vec<String>,
}

impl Trees<'_> {
    /// Makes a node and what is below it; gives its URI and its text.
    fn node(&mut self, depth: usize) -> (String, String) {
        self.nodes += 1;
        let name = format!("{}-{}", self.prefix, self.nodes);
        let inner = depth > 0 && self.nodes < 150 && self.random.below(3) > 0;
        let (uri, text) = match (inner, self.random.below(5)) {
            (true, 0) => self.proxied(&name, Some(depth)),
            (true, _) => self.page(&name, depth),
            (false, 0) => self.missing(&name),
            (false, 1 | 2) => self.proxied(&name, None),
            (false, _) => self.plain(&name),
        };
        self.uris.push(uri.clone());
        (uri, text)
    }

    /// The source of a page and the text that it gives.
    fn source(&mut self, depth: usize) -> (String, String) {
        let (mut source, mut text) = (String::new(), String::new());
        let width = 1 + self.random.below(if depth > 7 { 20 } else { 4 });
        for _ in 0..width {
            let own = self.random.text(60);
            let (uri, part) = self.node(depth - 1);
            let wait = if self.random.below(6) == 0 { " wait=\"yes\"" } else { "" };
            let _ = write!(source, "{own}<!--#include virtual=\"{uri}\"{wait} -->");
            text.push_str(&own);
            text.push_str(&part);
        }
        (source, text)
    }

    fn page(&mut self, name: &str, depth: usize) -> (String, String) {
        let (source, text) = self.source(depth);
        let uri = format!("/page/{name}.html");
        self.setup.write(&uri, &source);
        (uri, text)
    }

    fn plain(&mut self, name: &str) -> (String, String) {
        let limit = if self.random.below(12) == 0 { 1_000_000 } else { 3000 };
        let text = self.random.text(limit);
        let uri = format!("/plain/{name}.html");
        self.setup.write(&uri, &text);
        (uri, text)
    }

    fn proxied(&mut self, name: &str, depth: Option<usize>) -> (String, String) {
        let (body, mut text) = match depth {
            Some(depth) => self.source(depth),
            None => {
                let limit = if self.random.below(10) == 0 { 400_000 } else { 2000 };
                let text = self.random.text(limit);
                (text.clone(), text)
            }
        };
        let cut = depth.is_none() && self.random.below(8) == 0;
        let uri = format!("/o/{name}");
        let answer = Answer {
            delay: self.random.below(40) as u64,
            body,
            pieces: 1 + self.random.below(5),
            chunked: self.random.below(2) == 0,
            cut,
        };
        if answer.body.is_empty() && cut {
            text = String::new();
        }
        self.setup.answers.lock().expect("no panic").insert(uri.clone(), answer);
        (uri, text)
    }

    fn missing(&mut self, name: &str) -> (String, String) {
        (format!("/plain/missing-{name}.html"), "ABSENT".to_owned())
    }
}

#[test]
fn random_trees_give_the_document_and_each_part_is_logged_once() {
    let setup = Setup::start();
    for seed in 1..=24_u64 {
        let mut trees = Trees {
            setup: &setup,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            prefix: format!("t{seed}"),
            nodes: 0,
            uris: Vec::new(),
        };
        let (uri, text) = trees.page(&format!("t{seed}-root"), 10);
        let got = setup.get(&uri);
        assert!(got == text, "tree {seed}: {}", first_difference(&got, &text));
        thread::sleep(Duration::from_millis(20));
        let log = setup.server.read("access.log");
        for part in &trees.uris {
            let logged_as = if part.contains("missing") { None } else { Some(part.as_str()) };
            if let Some(part) = logged_as {
                assert_eq!(log.lines().filter(|line| *line == part).count(), 1, "{part} of tree {seed}");
            }
        }
    }
    setup.settle();
}

fn first_difference(got: &str, wanted: &str) -> String {
    let at = got.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| text.chars().skip(at.saturating_sub(20)).take(60).collect::<String>();
    format!("at {at} of {}/{}: {:?} instead of {:?}", got.len(), wanted.len(), around(got), around(wanted))
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing_running() {
    let setup = Setup::start();
    let mut random = Random(77);
    for seed in 1..=12_u64 {
        let mut trees = Trees {
            setup: &setup,
            random: Random(seed.wrapping_mul(0x1234_5678_9abc_def1)),
            prefix: format!("l{seed}"),
            nodes: 0,
            uris: Vec::new(),
        };
        let (uri, _) = trees.page(&format!("l{seed}-root"), 10);
        let mut client = setup.connect();
        write!(client, "GET {uri} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut some = vec![0; 1 + random.below(20_000)];
        if random.below(2) == 0 {
            let _ = client.read(&mut some);
        }
        thread::sleep(Duration::from_millis(random.below(60) as u64));
        drop(client);
    }
    setup.settle();
}

#[test]
fn slow_client_of_a_large_tree_costs_bounded_memory() {
    let setup = Setup::start();
    let mut source = String::new();
    let mut whole = 0;
    for part in 0..40 {
        let body = format!("{part:04}").repeat(500_000);
        whole += body.len();
        let uri = format!("/o/large{part}");
        let answer = Answer { delay: 0, body, pieces: 1, chunked: part % 2 == 0, cut: false };
        setup.answers.lock().expect("no panic").insert(uri.clone(), answer);
        let _ = write!(source, "<!--#include virtual=\"{uri}\" -->");
    }
    setup.write("/page/large.html", &source);
    let before = resident(&setup);
    let mut client = setup.connect();
    write!(client, "GET /page/large.html HTTP/1.0\r\nHost: a\r\n\r\n").expect("sent");
    // Everything that can run ahead does; nothing is read.
    thread::sleep(Duration::from_millis(1500));
    let grown = resident(&setup).saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes more for parts of {whole} bytes that nobody reads");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("an answer");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(answer.len() - head, whole);
    for (part, chunk) in answer[head..].chunks(2_000_000).enumerate() {
        assert!(chunk.starts_with(format!("{part:04}").as_bytes()), "part {part} is in its place");
    }
}

/// Resident memory of the server, bytes.
fn resident(setup: &Setup) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", setup.server.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn hostile_pages_end() {
    let setup = Setup::start();
    // A page that includes itself twice would double with every level, were it not for the limit of what runs.
    setup.write("/page/cycle.html", "(<!--#include virtual=\"/page/cycle.html\" -->)");
    let cycle = setup.get("/page/cycle.html");
    assert!(cycle.starts_with("((((") && cycle.ends_with("))))"), "{cycle}");
    assert!(cycle.contains("[an error occurred while processing the directive]"));
    for level in 0..60 {
        let next = level + 1;
        setup.write(
            &format!("/page/deep{level}.html"),
            &format!("{level},<!--#include virtual=\"/page/deep{next}.html\" -->"),
        );
    }
    let deep = setup.get("/page/deep0.html");
    assert!(deep.starts_with("0,1,2,3,") && deep.contains(",50,"), "{deep}");
    setup.write("/page/looping.html", "x<!--#include virtual=\"/to-parent\" -->");
    let looping = setup.get("/page/looping.html");
    assert!(looping.starts_with("xxxx") && looping.contains("[an error occurred"), "{looping}");
    setup.write("/page/never.html", "a<!--#include virtual=\"/never\" -->b");
    assert_eq!(setup.get("/page/never.html"), "aLATEb");
    setup.write("/page/cut.html", "text <!--#include virtual=\"/plain");
    assert_eq!(setup.get("/page/cut.html"), "text ");
    setup.settle();
}

#[test]
fn ten_thousand_includes_on_one_page_are_in_order() {
    let setup = Setup::start();
    let (mut source, mut wanted) = (String::new(), String::new());
    for number in 0..10 {
        setup.write(&format!("/plain/n{number}.html"), &format!("{number};"));
    }
    for number in 0..10_000 {
        let _ = write!(source, "<!--#include virtual=\"/plain/n{}.html\" -->", number % 10);
        let _ = write!(wanted, "{};", number % 10);
    }
    setup.write("/page/many.html", &source);
    let start = Instant::now();
    let got = setup.get("/page/many.html");
    assert!(got == wanted, "{}", first_difference(&got, &wanted));
    assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
    setup.settle();
}
