//! `CONNECT` through `tunnel_pass`: curl to a plain and to a TLS server, and what must not go through.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "what does not work fails the test")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

const CONF: &str = r#"
worker_processes 1;
error_log error.log info;
events { worker_connections 64; }
http {
    log_format tunnel '$request_method $request_uri $status $host|$request_port $upstream_addr $upstream_status $bytes_sent';
    access_log access.log tunnel;
    upstream echo { server 127.0.0.1:1; server 127.0.0.1:%%ORIGIN%%; }
    server {
        listen %%PORT_8080%%;
        if ($request_port = 9) { return 403; }
        tunnel_pass;
        tunnel_connect_timeout 2s;
    }
    server {
        listen %%PORT_8081%%;
        location / {
            auth_basic closed;
            auth_basic_user_file %%DIR%%/users;
            tunnel_pass;
        }
    }
    server {
        listen %%PORT_8082%%;
        location / { tunnel_pass echo; tunnel_buffer_size 1k; tunnel_bind 127.0.0.8; }
    }
    server {
        listen %%PORT_8083%%;
        location / { return 200 "reached: $request_method\n"; }
        location /proxied/ { proxy_pass http://127.0.0.1:%%ORIGIN%%; }
    }
    server {
        listen %%PORT_8084%%;
        location / { tunnel_pass echo; tunnel_next_upstream off; }
    }
    server {
        listen %%PORT_8085%%;
        location / { tunnel_pass 127.0.0.1:%%ORIGIN%%; tunnel_read_timeout 300ms; error_page 405 /wrong; }
        location = /wrong { return 200 "not a tunnel\n"; }
    }
}
"#;

/// Limits everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

struct Setup {
    server: Server,
    template: Template,
    origin: u16,
    /// The address each connection to the origin came from.
    from: Receiver<String>,
    dir: TempDir,
}

/// Sends everything back in capitals until the client is done, then says goodbye.
fn shout(mut stream: TcpStream) -> io::Result<()> {
    let mut piece = [0; 65536];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&piece[..length].to_ascii_uppercase())?;
    }
}

impl Setup {
    fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = listener.local_addr().expect("an address").port();
        let (sender, from) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = sender.send(stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default());
                thread::spawn(move || shout(stream));
            }
        });
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let dir = TempDir::new().expect("a directory");
        fs::write(dir.path().join("users"), "me:{PLAIN}secret\n").expect("a file");
        let mut template = Template::new(dir.path());
        template.set("ORIGIN", origin);
        let port = template.port("8080").expect("a port");
        let server = Server::start(&subject.path, CONF, &mut template, port, mode).expect("it starts");
        let mut setup = Self { server, template, origin, from, dir };
        // The server is there when one of its ports accepts; the others follow.
        for name in ["8081", "8082", "8083", "8084", "8085"] {
            let port = setup.port(name);
            let end = Instant::now() + PATIENCE;
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(Instant::now() < end, "port {name} does not listen");
                thread::sleep(Duration::from_millis(2));
            }
        }
        setup
    }

    fn port(&mut self, name: &str) -> u16 {
        self.template.port(name).expect("a port")
    }

    /// Connects and sends.
    fn send(&mut self, port: &str, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(port))).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.write_all(text.as_bytes()).expect("sent");
        stream
    }

    /// Sends, and reads until the server closes.
    fn ask(&mut self, port: &str, text: &str) -> String {
        let mut stream = self.send(port, text);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A tunnel that is open.
    fn tunnel(&mut self, port: &str, target: &str) -> TcpStream {
        let mut stream = self.send(port, &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream
    }

    fn logs(&self, file: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.server.read(file).contains(text) {
            assert!(Instant::now() < end, "{text} is not in {file}:\n{}", self.server.read(file));
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What curl prints for a URL through the proxy at a port.
    fn curl(&mut self, port: &str, options: &[&str], url: &str) -> (bool, String) {
        let proxy = format!("http://127.0.0.1:{}", self.port(port));
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--proxytunnel", "--noproxy", ""])
            .args(["--proxy", &proxy])
            .args(options)
            .arg(url)
            .output()
            .expect("curl");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `openssl s_server` with a certificate of its own, which shows its state for every request.
fn tls_server(directory: &Path) -> (Program, u16) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(directory)
        .stderr(Stdio::null())
        .status()
        .expect("openssl");
    assert!(made.success());
    let port = free_port().expect("a port");
    let child = Command::new("openssl")
        .args(["s_server", "-www", "-quiet", "-cert", "cert.pem", "-key", "key.pem"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let program = Program(child);
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "openssl does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    (program, port)
}

#[test]
fn curl_through_a_tunnel_reaches_plain_and_tls_servers() {
    let mut setup = Setup::start(Mode::Single);
    let plain = setup.port("8083");
    let (ok, text) = setup.curl("8080", &[], &format!("http://127.0.0.1:{plain}/"));
    assert!(ok && text == "reached: GET\n", "{text}");
    let (_program, tls) = tls_server(setup.dir.path());
    let authority = setup.dir.path().join("cert.pem").display().to_string();
    let (ok, text) = setup.curl("8080", &["--cacert", &authority], &format!("https://127.0.0.1:{tls}/"));
    assert!(ok && text.contains("Cipher"), "{text}");
    setup.logs("access.log", &format!("CONNECT 127.0.0.1:{tls} 200 127.0.0.1|{tls} 127.0.0.1:{tls} 200 "));
}

#[test]
fn curl_with_credentials_passes_and_without_them_is_asked() {
    let mut setup = Setup::start(Mode::Single);
    let url = format!("http://127.0.0.1:{}/", setup.port("8083"));
    let (ok, text) = setup.curl("8081", &["--proxy-user", "me:secret"], &url);
    assert!(ok && text == "reached: GET\n", "{text}");
    let (ok, text) = setup.curl("8081", &["--proxy-user", "me:wrong"], &url);
    assert!(!ok && text.contains("407"), "{text}");
    let target = url.trim_start_matches("http://").trim_end_matches('/');
    let answer = setup.ask("8081", &format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
    assert!(answer.contains("\r\nProxy-Authenticate: Basic realm=\"closed\"\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
}

#[test]
fn head_of_an_open_tunnel_has_neither_length_nor_connection() {
    let mut setup = Setup::start(Mode::Single);
    let target = format!("127.0.0.1:{}", setup.origin);
    let mut stream = setup.send("8080", &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    let head = read_head(&mut stream).to_ascii_lowercase();
    for name in ["content-length", "transfer-encoding", "connection", "content-type"] {
        assert!(!head.contains(&format!("\r\n{name}:")), "{head}");
    }
    stream.write_all(b"hello").unwrap();
    expect(&mut stream, "HELLO");
}

#[test]
fn early_bytes_go_through_the_tunnel() {
    let mut setup = Setup::start(Mode::Single);
    let target = format!("127.0.0.1:{}", setup.origin);
    let early = "get / early\r\n\r\n";
    let mut stream =
        setup.send("8080", &format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n{early}"));
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 "));
    expect(&mut stream, &early.to_ascii_uppercase());
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"");
}

#[test]
fn bytes_behind_a_refused_connect_are_no_request() {
    let mut setup = Setup::start(Mode::Single);
    let smuggled = "GET /proxied/ HTTP/1.1\r\nHost: a\r\n\r\n";
    for (port, target, status) in [
        ("8080", "127.0.0.1:1", "502"),
        ("8080", "127.0.0.1:9", "403"),
        ("8081", "127.0.0.1:80", "407"),
        ("8083", "127.0.0.1:80", "405"),
        ("8084", "any:80", "502"),
    ] {
        let text = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: keep-alive\r\n\r\n{smuggled}"
        );
        let answer = setup.ask(port, &text);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{port}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    assert!(!setup.server.read("access.log").contains("/proxied/"));
}

#[test]
fn connect_where_no_tunnel_is_and_other_methods_where_one_is_are_405() {
    let mut setup = Setup::start(Mode::Single);
    let connect = |version| format!("CONNECT a:80 HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(setup.ask("8083", &connect("1.1")).starts_with("HTTP/1.1 405 "));
    setup.logs("error.log", "client sent CONNECT method while reading client request headers");
    assert!(setup.ask("8082", &connect("1.0")).starts_with("HTTP/1.1 405 "));
    assert!(
        setup
            .ask("8082", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .starts_with("HTTP/1.1 405 ")
    );
    let page = setup.ask("8085", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(page.ends_with("not a tunnel\n"), "{page}");
    let body = "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    assert!(setup.ask("8082", body).starts_with("HTTP/1.1 400 "));
    let chunked = "CONNECT a:80 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(setup.ask("8082", chunked).starts_with("HTTP/1.1 400 "));
}

#[test]
fn peer_that_refuses_is_followed_by_the_next_and_tunnel_bind_is_used() {
    let mut setup = Setup::start(Mode::Single);
    for _ in 0..3 {
        let mut stream = setup.tunnel("8082", "any:80");
        stream.write_all(b"abc").unwrap();
        expect(&mut stream, "ABC");
        assert_eq!(setup.from.recv_timeout(PATIENCE).expect("a connection"), "127.0.0.8");
    }
    setup.logs("access.log", &format!("127.0.0.1:1, 127.0.0.1:{} 502, 200", setup.origin));
}

#[test]
fn large_transfers_both_ways_are_whole() {
    let mut setup = Setup::start(Mode::Single);
    for port in ["8080", "8082"] {
        let target = format!("127.0.0.1:{}", setup.origin);
        let mut stream = setup.tunnel(port, &target);
        let all: Vec<u8> = (0..3_000_000_u32).map(|at| b'a' + (at / 3 % 26) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = all.clone();
        let sending = thread::spawn(move || writer.write_all(&sent));
        let mut back = vec![0; all.len()];
        stream.read_exact(&mut back).expect("all of it");
        sending.join().unwrap().expect("sent");
        assert!(back == all.to_ascii_uppercase(), "{port}");
    }
}

#[test]
fn silent_tunnel_ends_after_its_time() {
    let mut setup = Setup::start(Mode::Single);
    let mut stream = setup.tunnel("8085", "any:80");
    stream.write_all(b"a").unwrap();
    expect(&mut stream, "A");
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    setup.logs("error.log", "upstream timed out (110: Connection timed out)");
}

#[test]
fn tunnel_survives_a_reload() {
    let mut setup = Setup::start(Mode::Master);
    let target = format!("127.0.0.1:{}", setup.origin);
    let mut stream = setup.tunnel("8080", &target);
    setup.server.signal(Signal::HUP).expect("a signal");
    setup.logs("error.log", "reconfiguring");
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(100));
        stream.write_all(b"still here").unwrap();
        expect(&mut stream, "STILL HERE");
    }
}
