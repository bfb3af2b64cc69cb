//! Real programs: gunicorn and Node behind headwater, curl, ab and wrk in front of it; and a very large configuration.
//!
//! Runs headwater (or `SUBJECT`) on loopback with free ports; every program is bounded in time and ends with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::program::Program;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

const CONF: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    client_max_body_size 64m;
    keepalive_requests 100000;
    upstream app { server 127.0.0.1:%%ORIGIN_APP%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        root html;
        location / {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }
        location /unbuffered/ {
            proxy_pass http://app/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }
        location /websocket {
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
        location /static/ { }
        location = /hello { return 200 "hello\n"; }
    }
}
"#;

/// 5 MB that no two blocks of are equal, and their SHA-256 as `sha256sum` tells it.
struct Upload {
    file: PathBuf,
    digest: String,
}

struct Stage {
    server: Server,
    _program: Program,
    port: u16,
    dir: TempDir,
}

impl Stage {
    fn new(program: impl FnOnce(u16) -> Command) -> Stage {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("html/static")).unwrap();
        fs::write(dir.path().join("html/static/page.html"), "x".repeat(4096)).unwrap();
        let mut template = Template::new(dir.path());
        let origin = free_port().unwrap();
        template.set("ORIGIN_APP", origin);
        let program = Program::on_port(&mut program(origin), origin).expect("./test installs the program");
        let port = template.port("8080").unwrap();
        let server = Server::start(&binary(), CONF, &mut template, port, Mode::Master).unwrap();
        Stage { server, _program: program, port, dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What curl prints for a path; it must succeed.
    fn curl(&self, path: &str, options: &[&str]) -> String {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "20"]).args(options);
        String::from_utf8(run(command.arg(self.url(path)))).unwrap()
    }

    fn upload(&self) -> Upload {
        let file = self.dir.path().join("upload");
        let mut bytes = Vec::with_capacity(5 << 20);
        for number in 0_u64..(5 << 20) / 8 {
            bytes.extend_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        }
        fs::write(&file, bytes).unwrap();
        let sum = String::from_utf8(run(Command::new("sha256sum").arg(&file))).unwrap();
        Upload { digest: sum.split(' ').next().unwrap().to_owned(), file }
    }

    fn error_log(&self) -> String {
        self.server.read("error.log")
    }

    /// No line of the error log is graver than a notice.
    #[track_caller]
    fn logged_no_error(&self) {
        let log = self.error_log();
        let grave = ["[warn]", "[error]", "[crit]", "[alert]", "[emerg]"];
        let found: Vec<&str> =
            log.lines().filter(|line| grave.iter().any(|word| line.contains(word))).collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

fn binary() -> PathBuf {
    subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap().path
}

fn helper(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

fn gunicorn(port: u16) -> Command {
    let mut command = Command::new("gunicorn");
    let bind = format!("127.0.0.1:{port}");
    // Threads: its plain workers do not keep connections alive.
    command.args(["--bind", &bind, "--workers", "1", "--threads", "4", "--keep-alive", "30"]);
    command.arg("--chdir").arg(helper("")).arg("app:application").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node(port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(helper("server.js")).arg(port.to_string());
    command
}

/// Runs a command to its end, at most half a minute, and gives what it printed; it must succeed.
#[track_caller]
fn run(command: &mut Command) -> Vec<u8> {
    let shown = format!("{command:?}");
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=1", "30"]).arg(command.get_program()).args(command.get_args());
    let output = limited.stdin(Stdio::null()).output().expect("./test installs the program");
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(output.stdout.get(..2000).unwrap_or(&output.stdout));
    assert!(output.status.success(), "{shown}: {}\n{errors}\n{printed}", output.status);
    output.stdout
}

#[test]
fn gunicorn_application_is_served_to_curl() {
    let stage = Stage::new(gunicorn);
    let upload = stage.upload();
    let host = format!("127.0.0.1:{}", stage.port);
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let get = stage.curl("/a/b?c=d", &[]);
    assert_eq!(get, format!("GET /a/b c=d 127.0.0.1 {host} 0 {empty}\n"));
    let old = stage.curl("/old", &["--http1.0"]);
    assert_eq!(old, format!("GET /old  127.0.0.1 {host} 0 {empty}\n"));
    let form = stage.curl("/form", &["--data", "a=b&c=d"]);
    assert!(form.starts_with(&format!("POST /form  127.0.0.1 {host} 7 ")), "{form}");
    assert_uploads(&stage, &upload);
    assert_eq!(stage.curl("/large?10000000", &["--output", "-"]).len(), 10_000_000);
    assert_eq!(stage.curl("/stream?3000001", &[]).len(), 3_000_001);
    assert_eq!(stage.curl("/unbuffered/stream?3000001", &["--http1.0"]).len(), 3_000_001);
    let moved = stage.curl("/moved", &["--include"]);
    // A relative redirect of a back end stays relative.
    assert!(moved.contains("302 Found") && moved.contains("Location: /elsewhere\r\n"), "{moved}");
    assert!(moved.contains("Set-Cookie: a=b; Path=/"), "{moved}");
    stage.logged_no_error();
}

fn assert_uploads(stage: &Stage, upload: &Upload) {
    let file = format!("@{}", upload.file.display());
    let wanted = format!("5242880 {}", upload.digest);
    for path in ["/up", "/unbuffered/up"] {
        for more in
            [&[][..], &["--header", "Transfer-Encoding: chunked"], &["--header", "Expect: 100-continue"]]
        {
            let mut options = vec!["--data-binary", file.as_str()];
            options.extend_from_slice(more);
            let answer = stage.curl(path, &options);
            assert!(answer.trim_end().ends_with(&wanted), "{path} {more:?}: {answer}");
        }
    }
}

#[test]
fn node_server_is_served_to_curl() {
    let stage = Stage::new(node);
    let upload = stage.upload();
    assert!(stage.curl("/a%20b?c", &[]).starts_with("GET /a%20b?c - 0 "));
    assert!(stage.curl("/x", &["--request", "DELETE"]).starts_with("DELETE /x - 0 "));
    assert_uploads(&stage, &upload);
    assert_eq!(stage.curl("/large?10000000", &[]).len(), 10_000_000);
    assert_eq!(stage.curl("/unbuffered/large?10000000", &[]).len(), 10_000_000);
    assert_eq!(stage.curl("/large?1000000", &["--http1.0"]).len(), 1_000_000);
    let slow = stage.curl("/slow", &[]);
    assert_eq!(slow, "part 5\npart 4\npart 3\npart 2\npart 1\nend\n");
    // One connection carries several requests.
    let urls = vec![stage.url("/again"); 20].join("\n");
    let list = stage.dir.path().join("urls");
    fs::write(&list, urls.lines().map(|url| format!("url = {url}\n")).collect::<String>()).unwrap();
    let config = list.display().to_string();
    let counts = stage.curl("/again", &["--config", &config, "--write-out", "connects %{num_connects}\n"]);
    let connects = counts.lines().filter(|line| *line == "connects 1").count();
    assert_eq!((connects, counts.matches("connects 0").count()), (1, 20), "{counts}");
    stage.logged_no_error();
}

#[test]
fn websocket_through_node_survives_a_reload() {
    let stage = Stage::new(node);
    let mut socket = open_websocket(stage.port);
    let mut other = open_websocket(stage.port);
    for reload in 0..3 {
        for number in 0..10 {
            let text = format!("message {reload} {number}");
            assert_eq!(echo(&mut socket, &text), text);
        }
        stage.server.signal(Signal::HUP).unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(stage.curl("/hello", &[]), "hello\n");
        assert_eq!(echo(&mut other, "after"), "after");
    }
    // A close frame from one side ends the tunnel on both.
    socket.write_all(&[0x88, 0x80, 1, 2, 3, 4]).unwrap();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [0x88, 0]);
    assert_eq!(echo(&mut other, "still"), "still");
    stage.logged_no_error();
}

fn open_websocket(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = "GET /websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    // The example of RFC 6455.
    assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
    socket
}

/// Sends a masked text frame and gives the text that comes back.
fn echo(socket: &mut TcpStream, text: &str) -> String {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap()];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    socket.write_all(&frame).unwrap();
    let mut head = [0; 2];
    socket.read_exact(&mut head).unwrap();
    let mut back = vec![0; usize::from(head[1])];
    socket.read_exact(&mut back).unwrap();
    String::from_utf8(back).unwrap()
}

#[test]
fn ab_and_wrk_see_no_error() {
    let stage = Stage::new(node);
    for path in ["/hello", "/static/page.html", "/proxied"] {
        for keepalive in [&[][..], &["-k"]] {
            let mut command = Command::new("ab");
            let printed = run(command
                .args(["-q", "-n", "500", "-c", "8", "-s", "10"])
                .args(keepalive)
                .arg(stage.url(path)));
            let report = String::from_utf8_lossy(&printed).into_owned();
            let value = |name: &str| {
                let line = report.lines().find_map(|line| line.strip_prefix(name));
                line.map(|rest| rest.trim().to_owned())
            };
            assert_eq!(value("Complete requests:").as_deref(), Some("500"), "{report}");
            assert_eq!(value("Failed requests:").as_deref(), Some("0"), "{report}");
            assert_eq!(value("Non-2xx responses:"), None, "{report}");
            if !keepalive.is_empty() {
                assert_eq!(value("Keep-Alive requests:").as_deref(), Some("500"), "{report}");
            }
        }
        let printed = run(Command::new("wrk").args(["-t", "1", "-c", "8", "-d", "1s"]).arg(stage.url(path)));
        let report = String::from_utf8_lossy(&printed).into_owned();
        assert!(report.contains("requests in"), "{report}");
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    }
    stage.logged_no_error();
}

#[test]
fn ten_thousand_servers_load_in_bounded_time() {
    let dir = TempDir::new().unwrap();
    let mut conf = String::from("events { }\nhttp {\n");
    for number in 0..10_000 {
        let _ = writeln!(
            conf,
            "server {{ listen 127.0.0.1:8080; server_name host{number}.example.com; location / {{ return 200 {number}; }} }}"
        );
    }
    conf.push_str("}\n");
    let file = dir.path().join("nginx.conf");
    fs::write(&file, conf).unwrap();
    let start = Instant::now();
    run(Command::new(binary()).arg("-t").arg("-p").arg(dir.path()).arg("-c").arg(&file));
    let took = start.elapsed();
    println!("loaded in {took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
