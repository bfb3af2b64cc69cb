//! Real programs behind headwater that speak SCGI, uwsgi and memcached: a Python application in uWSGI, and memcached.
//!
//! Runs headwater (or `SUBJECT`) on loopback with free ports, uWSGI (Debian's `uwsgi`, `uwsgi-plugin-python3`) on Unix sockets, and `memcached` on a free port;
//! all end with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use headwater_testkit::program::Program;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::Template;

const CONF: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 16k;
    upstream app { server unix:%%DIR%%/uwsgi.sock; }
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        server_name localhost;
        uwsgi_param QUERY_STRING $query_string;
        uwsgi_param REQUEST_METHOD $request_method;
        uwsgi_param CONTENT_TYPE $content_type;
        uwsgi_param CONTENT_LENGTH $content_length;
        uwsgi_param REQUEST_URI $request_uri;
        uwsgi_param PATH_INFO $document_uri;
        uwsgi_param SERVER_PROTOCOL $server_protocol;
        uwsgi_param SERVER_NAME $server_name;
        uwsgi_param SERVER_PORT $server_port;
        uwsgi_param REMOTE_ADDR $remote_addr;
        uwsgi_param HTTPS $https if_not_empty;
        scgi_param SCGI 1;
        scgi_param QUERY_STRING $query_string;
        scgi_param REQUEST_METHOD $request_method;
        scgi_param CONTENT_TYPE $content_type;
        scgi_param REQUEST_URI $request_uri;
        scgi_param PATH_INFO $document_uri;
        scgi_param SERVER_PROTOCOL $server_protocol;
        scgi_param SERVER_NAME $server_name;
        scgi_param SERVER_PORT $server_port;
        scgi_param REMOTE_ADDR $remote_addr;
        scgi_param HTTPS $https if_not_empty;
        location /uwsgi/ { uwsgi_pass app; }
        location /uwsgi/streamed/ {
            uwsgi_request_buffering off;
            uwsgi_buffering off;
            uwsgi_pass uwsgi://unix:%%DIR%%/uwsgi.sock;
        }
        location /scgi/ { scgi_pass unix:%%DIR%%/scgi.sock; }
        location /scgi/streamed/ {
            scgi_request_buffering off;
            scgi_buffering off;
            scgi_pass unix:%%DIR%%/scgi.sock;
        }
    }
}
"#;

const APPLICATION: &str = r#"
import hashlib, os, time

def application(env, start_response):
    def start(status='200 OK', *headers):
        start_response(status, [('X-Method', env['REQUEST_METHOD']), *headers])
    do = env['QUERY_STRING']
    if do == 'headers':
        start()
        names = sorted(name for name in env if name.startswith('HTTP_'))
        return [f'{name}={env[name]}\n'.encode() for name in names]
    if do == 'cookies':
        start('200 OK', ('Set-Cookie', 'a=b'), ('Set-Cookie', 'c=d'))
        return [env['HTTP_COOKIE'].encode()]
    if do in ('large', 'long'):
        start('200 OK', *([('Content-Length', str(8192 * 1000))] if do == 'long' else []))
        return (str(number).ljust(8192, '.').encode() for number in range(1000))
    if do == 'length':
        start('200 OK', ('Content-Length', '5'))
        return [b'hello']
    if do == 'status':
        start('418 Tea time')
        return [b'tea']
    if do == 'redirect':
        start('302 Found', ('Location', '/elsewhere'))
        return []
    if do == 'sum':
        body, digest, size = env['wsgi.input'], hashlib.md5(), 0
        while data := body.read(65536):
            digest.update(data)
            size += len(data)
        start()
        return [f'{size} {digest.hexdigest()} {env["CONTENT_LENGTH"]}'.encode()]
    if do == 'pieces':
        start()
        def pieces():
            for number in range(5):
                yield f'piece {number}\n'.encode()
                time.sleep(0.02)
        return pieces()
    if do == 'die':
        os.kill(os.getpid(), 9)
    start()
    return [f'{env["PATH_INFO"]} of {env["SERVER_NAME"]} for {env["HTTP_HOST"]}'.encode()]
"#;

const MEMCACHED_CONF: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    default_type text/plain;
    types { text/html html; application/json json; }
    upstream memcached { server 127.0.0.1:%%PORT_MEMCACHED%%; keepalive 4; }
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        server_name localhost;
        memcached_gzip_flag 2;
        location / {
            set $memcached_key "$uri?$args";
            memcached_pass memcached;
            error_page 404 = @fallback;
        }
        location /unzipped/ {
            set $memcached_key "$uri?$args";
            gunzip on;
            memcached_pass memcached;
        }
        location /direct/ {
            set $memcached_key "$uri?$args";
            memcached_pass 127.0.0.1:%%PORT_MEMCACHED%%;
        }
        location @fallback { return 200 "made anew"; }
    }
}
"#;

struct Stage {
    server: Server,
    _program: Program,
    port: u16,
    dir: TempDir,
}

impl Stage {
    /// Starts headwater, and the program that `start` starts.
    fn new(conf: &str, start: impl FnOnce(&Path, &mut Template) -> Program) -> Stage {
        let dir = TempDir::new().unwrap();
        let mut template = Template::new(dir.path());
        let port = template.port("8080").unwrap();
        let program = start(dir.path(), &mut template);
        let binary = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap().path;
        let server = Server::start(&binary, conf, &mut template, port, Mode::Master).unwrap();
        Stage { server, _program: program, port, dir }
    }

    fn uwsgi() -> Stage {
        Stage::new(CONF, |dir, _| {
            fs::write(dir.join("app.py"), APPLICATION).unwrap();
            let mut command = Command::new("uwsgi");
            command.current_dir(dir).args(["--plugin", "python3", "--wsgi-file", "app.py", "--master"]);
            command.args(["--processes", "2", "--need-app", "--chmod-socket=666"]);
            command.args(["--socket", "uwsgi.sock", "--scgi-socket", "scgi.sock", "--logto", "uwsgi.log"]);
            let listens = |name| UnixStream::connect(dir.join(name)).is_ok();
            Program::start(&mut command, || listens("uwsgi.sock") && listens("scgi.sock")).unwrap()
        })
    }

    /// The whole answer to a request of these lines.
    fn ask(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = head.replace('\n', "\r\n");
        let head = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn get(&self, target: &str) -> String {
        // Without chunks the body is as it was sent.
        text(&self.ask(&format!("GET {target} HTTP/1.0"), b""))
    }
}

fn text(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).into_owned()
}

#[track_caller]
fn has(answer: &str, parts: &[&str]) {
    for part in parts {
        assert!(answer.contains(part), "no {part:?} in\n{}", &answer[..answer.len().min(2000)]);
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn md5(body: &[u8], dir: &Path) -> String {
    let file = dir.join("upload");
    fs::write(&file, body).unwrap();
    let output = Command::new("md5sum").arg(&file).output().unwrap();
    text(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn application_answers_what_it_is_asked() {
    let stage = Stage::uwsgi();
    for place in ["/uwsgi", "/scgi", "/uwsgi/streamed", "/scgi/streamed"] {
        let get = |what: &str| stage.get(&format!("{place}/{what}"));
        let index = format!("{place}/a b of localhost for localhost");
        has(&get("a%20b"), &["HTTP/1.1 200 OK\r\n", "X-Method: GET\r\n", &index]);
        has(&get("?status"), &["HTTP/1.1 418 Tea time\r\n", "\r\n\r\ntea"]);
        has(&get("?redirect"), &["HTTP/1.1 302 Found\r\n", "\r\nLocation: /elsewhere\r\n"]);
        has(&get("?length"), &["\r\nContent-Length: 5\r\n", "\r\n\r\nhello"]);
        has(&get("?pieces"), &["\r\n\r\npiece 0\npiece 1\npiece 2\npiece 3\npiece 4\n"]);
        let head = format!("GET {place}/?headers HTTP/1.0\nX-One: 1\nX-Two: a\nX-Two: b");
        has(&text(&stage.ask(&head, b"")), &["HTTP_X_ONE=1\n", "HTTP_X_TWO=a, b\n", "HTTP_HOST=localhost\n"]);
        let head = format!("GET {place}/?cookies HTTP/1.0\nCookie: one=1\nCookie: two=2");
        let cookies = text(&stage.ask(&head, b""));
        has(&cookies, &["Set-Cookie: a=b", "Set-Cookie: c=d", "\r\n\r\none=1; two=2"]);
        let head = text(&stage.ask(&format!("HEAD {place}/?length HTTP/1.1"), b""));
        has(&head, &["X-Method: HEAD\r\n"]);
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
}

#[test]
fn large_bodies_pass_both_ways() {
    let stage = Stage::uwsgi();
    let wanted: String = (0..1000).map(|number| format!("{number:.<8192}")).collect();
    for place in ["/uwsgi", "/scgi", "/uwsgi/streamed", "/scgi/streamed"] {
        // Without a length, and with one.
        for what in ["large", "long"] {
            let answer = stage.get(&format!("{place}/?{what}"));
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            assert_eq!(body.len(), wanted.len());
            assert!(body == wanted, "the body differs");
        }
        // In memory, in a file, and in a large file.
        for size in [1, 16 * 1024 + 1, 5 << 20] {
            let body = bytes(size);
            let sum = md5(&body, stage.dir.path());
            let head = format!("POST {place}/?sum HTTP/1.0\nContent-Type: a/b\nContent-Length: {size}");
            has(&text(&stage.ask(&head, &body)), &[&format!("\r\n\r\n{size} {sum} {size}")]);
        }
    }
}

#[test]
fn chunked_body_is_passed_with_its_length() {
    let stage = Stage::uwsgi();
    let piece = bytes(40_000);
    let chunk = [b"9c40\r\n", piece.as_slice(), b"\r\n"].concat();
    let body = [chunk.as_slice(), &chunk, b"0\r\n\r\n"].concat();
    let sum = md5(&[piece.as_slice(), &piece].concat(), stage.dir.path());
    for place in ["/uwsgi", "/scgi", "/uwsgi/streamed", "/scgi/streamed"] {
        let head = format!("POST {place}/?sum HTTP/1.1\nTransfer-Encoding: chunked");
        has(&text(&stage.ask(&head, &body)), &[&format!("80000 {sum} 80000")]);
    }
}

#[test]
fn application_that_dies_is_a_bad_gateway() {
    let stage = Stage::uwsgi();
    for place in ["/uwsgi", "/scgi"] {
        has(&stage.get(&format!("{place}/?die")), &["HTTP/1.1 502 "]);
    }
    let log = stage.server.read("error.log");
    has(&log, &["upstream: \"uwsgi://unix:", "upstream: \"scgi://unix:"]);
    has(&stage.get("/uwsgi/?status"), &["HTTP/1.1 418 "]);
}

/// A connection that sets values in memcached and asks for its numbers.
struct Setter(BufReader<TcpStream>);

impl Setter {
    fn command(&mut self, lines: &[&[u8]]) -> String {
        let stream = self.0.get_mut();
        for line in lines {
            stream.write_all(line).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer
    }

    fn set(&mut self, key: &str, flags: u32, value: &[u8]) {
        let line = format!("set {key} {flags} 0 {}", value.len());
        assert_eq!(self.command(&[line.as_bytes(), value]), "STORED\r\n");
    }

    /// A number of `stats`.
    fn number(&mut self, name: &str) -> u64 {
        let mut line = self.command(&[b"stats"]);
        let mut found = None;
        while line != "END\r\n" {
            if let Some(value) = line.trim_end().strip_prefix(&format!("STAT {name} ")) {
                found = value.parse().ok();
            }
            line.clear();
            self.0.read_line(&mut line).unwrap();
        }
        found.expect("memcached has the number")
    }
}

fn memcached() -> (Stage, Setter) {
    let mut address = ("127.0.0.1", 0);
    let stage = Stage::new(MEMCACHED_CONF, |_, template| {
        address.1 = template.port("MEMCACHED").unwrap();
        let mut command = Command::new("memcached");
        command.args(["-l", address.0, "-p", &address.1.to_string(), "-U", "0", "-u", "nobody", "-I", "8m"]);
        Program::start(&mut command, || TcpStream::connect(address).is_ok()).unwrap()
    });
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (stage, Setter(BufReader::new(stream)))
}

#[test]
fn values_of_memcached_are_responses() {
    let (stage, mut setter) = memcached();
    setter.set("/a.html?", 0, b"<p>hello");
    setter.set("/empty.json?a=b", 0, b"");
    setter.set("/with%20space?", 0, b"found");
    has(
        &stage.get("/a.html"),
        &["HTTP/1.1 200 OK\r\n", "Content-Type: text/html\r\n", "Content-Length: 8\r\n", "\r\n\r\n<p>hello"],
    );
    has(&stage.get("/empty.json?a=b"), &["application/json\r\n", "Content-Length: 0\r\n"]);
    has(&stage.get("/with%20space"), &["text/plain\r\n", "\r\n\r\nfound"]);
    has(&stage.get("/missing"), &["HTTP/1.1 200 OK\r\n", "made anew"]);
    let part = text(&stage.ask("GET /a.html HTTP/1.1\nRange: bytes=3-4", b""));
    has(&part, &["HTTP/1.1 206 ", "Content-Range: bytes 3-4/8\r\n", "\r\n\r\nhe"]);
    let head = text(&stage.ask("HEAD /a.html HTTP/1.1", b""));
    assert!(head.contains("Content-Length: 8\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    has(&text(&stage.ask("POST /a.html HTTP/1.1\nContent-Length: 2", b"ab")), &["HTTP/1.1 405 "]);
}

#[test]
fn large_value_passes_whole() {
    let (stage, mut setter) = memcached();
    let value = bytes(5 << 20);
    setter.set("/large?", 0, &value);
    let answer = stage.ask("GET /large HTTP/1.1", b"");
    assert!(answer.ends_with(&value), "the value differs");
}

#[test]
fn gzip_flag_names_the_encoding() {
    let (stage, mut setter) = memcached();
    let file = stage.dir.path().join("plain");
    fs::write(&file, "hello, gzip").unwrap();
    let gzipped = Command::new("gzip").arg("-c").arg(&file).output().unwrap().stdout;
    setter.set("/a?", 2, &gzipped);
    setter.set("/unzipped/a?", 3, &gzipped);
    setter.set("/plain?", 1, b"hello");
    let answer = stage.ask("GET /a HTTP/1.1", b"");
    has(&text(&answer), &["Content-Encoding: gzip\r\n"]);
    assert!(answer.ends_with(&gzipped));
    has(&stage.get("/unzipped/a"), &["hello, gzip"]);
    assert!(!stage.get("/plain").contains("Content-Encoding"));
}

#[test]
fn connections_to_memcached_are_kept() {
    let (stage, mut setter) = memcached();
    setter.set("/a?", 0, b"hello");
    setter.set("/direct/a?", 0, b"hello");
    // An upstream block says how many are kept; an address alone has the default.
    for (found, missing) in [("/a", "/missing"), ("/direct/a", "/direct/missing")] {
        let before = setter.number("total_connections");
        for _ in 0..50 {
            has(&stage.get(found), &["\r\n\r\nhello"]);
            assert!(!stage.get(missing).contains("hello"));
        }
        let made = setter.number("total_connections") - before;
        // One for each worker, or few more when both come at once.
        assert!((1..=4).contains(&made), "{made} connections for 100 requests");
    }
}
