//! PHP behind headwater: php-fpm on a Unix socket of its own, asked through FastCGI as usual configurations do it.
//!
//! Runs headwater (or `SUBJECT`) on loopback with free ports and php-fpm (Debian's `php-fpm`) in the foreground; both end with the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
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
    upstream php { server unix:%%DIR%%/php.sock; keepalive 4; }
    fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
    fastcgi_param QUERY_STRING $query_string;
    fastcgi_param REQUEST_METHOD $request_method;
    fastcgi_param CONTENT_TYPE $content_type;
    fastcgi_param CONTENT_LENGTH $content_length;
    fastcgi_param SCRIPT_NAME $fastcgi_script_name;
    fastcgi_param REQUEST_URI $request_uri;
    fastcgi_param SERVER_PROTOCOL $server_protocol;
    fastcgi_param HTTPS $https if_not_empty;
    fastcgi_param REMOTE_ADDR $remote_addr;
    fastcgi_param SERVER_NAME $server_name;
    fastcgi_param REDIRECT_STATUS 200;
    fastcgi_param PATH_INFO $fastcgi_path_info;
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        server_name localhost;
        root html;
        index index.php;
        location / { try_files $uri $uri/ =404; }
        location ~ \.php(/|$) {
            fastcgi_split_path_info ^(.+?\.php)(/.*)$;
            fastcgi_pass unix:%%DIR%%/php.sock;
        }
        location ^~ /kept/ {
            rewrite ^/kept(/.*)$ $1 break;
            fastcgi_keep_conn on;
            fastcgi_pass php;
        }
        location ^~ /streamed/ {
            rewrite ^/streamed(/.*)$ $1 break;
            fastcgi_request_buffering off;
            fastcgi_buffering off;
            fastcgi_pass php;
        }
    }
}
"#;

const POOL: &str = "[global]\nerror_log = DIR/fpm.log\ndaemonize = no\n[www]\nlisten = DIR/php.sock\nlisten.mode = 0666\n\
    pm = static\npm.max_children = 2\nphp_admin_value[post_max_size] = 64M\nphp_admin_value[display_errors] = 0\n\
    php_admin_value[log_errors] = 1\nphp_admin_value[memory_limit] = 256M\n";

const SCRIPT: &str = r#"<?php
header('X-Method: ' . $_SERVER['REQUEST_METHOD']);
switch ($_GET['do'] ?? '') {
    case 'headers':
        foreach ($_SERVER as $name => $value) if (str_starts_with($name, 'HTTP_')) echo "$name=$value\n";
        break;
    case 'cookies': setcookie('a', 'b'); setcookie('c', 'd'); echo $_COOKIE['one'], $_COOKIE['two']; break;
    case 'large':
        for ($i = 0; $i < 1000; $i++) echo str_pad((string) $i, 8192, '.');
        break;
    case 'status': http_response_code(418); echo 'tea'; break;
    case 'redirect': header('Location: /elsewhere'); break;
    case 'log': error_log('odd things happen'); echo 'logged'; break;
    case 'logs':
        for ($i = 0; $i < 40; $i++) error_log(str_repeat('x', 400) . " number $i");
        echo 'logged';
        break;
    case 'info': echo $_SERVER['SCRIPT_NAME'], '|', $_SERVER['PATH_INFO'], '|', $_SERVER['PHP_SELF']; break;
    case 'sum':
        $body = file_get_contents('php://input');
        echo strlen($body), ' ', md5($body), ' ', $_SERVER['CONTENT_LENGTH'] ?? 'none';
        break;
    case 'die': posix_kill(getmypid(), 9); break;
    case 'pieces': for ($i = 0; $i < 5; $i++) { echo "piece $i\n"; flush(); usleep(20000); } break;
    case 'post': echo $_POST['name'], ' of ', $_POST['place']; break;
    default: echo 'index of ', $_SERVER['REQUEST_URI'], ' by ', $_SERVER['SERVER_NAME'];
}
"#;

/// Starts php-fpm in `dir` and waits until it listens.
fn php(dir: &Path) -> Program {
    let config = dir.join("fpm.conf");
    fs::write(&config, POOL.replace("DIR", &dir.display().to_string())).unwrap();
    let mut command = Command::new(program());
    command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]).arg(config);
    let listens = || UnixStream::connect(dir.join("php.sock")).is_ok();
    Program::start(&mut command, listens).expect("./test installs php-fpm")
}

/// Debian names the program after its version.
fn program() -> PathBuf {
    let entries = fs::read_dir("/usr/sbin").unwrap().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")))
        .collect();
    found.sort();
    found.pop().expect("./test installs php-fpm")
}

struct Stage {
    server: Server,
    _php: Program,
    port: u16,
    dir: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("html/index.php"), SCRIPT).unwrap();
        let mut template = Template::new(dir.path());
        let port = template.port("8080").unwrap();
        let php = php(dir.path());
        let binary = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap().path;
        let server = Server::start(&binary, CONF, &mut template, port, Mode::Master).unwrap();
        Stage { server, _php: php, port, dir }
    }

    /// The whole answer to a request of these lines.
    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = head.replace('\n', "\r\n");
        stream
            .write_all(format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, target: &str) -> String {
        // Without chunks the body is as it was sent.
        self.ask(&format!("GET {target} HTTP/1.0"), b"")
    }

    fn post(&self, target: &str, kind: &str, body: &[u8]) -> String {
        let length = body.len();
        self.ask(&format!("POST {target} HTTP/1.0\nContent-Type: {kind}\nContent-Length: {length}"), body)
    }
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
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn php_answers_what_it_is_asked() {
    let stage = Stage::new();
    has(&stage.get("/"), &["HTTP/1.1 200 OK\r\n", "X-Method: GET\r\n", "index of / by localhost"]);
    has(&stage.get("/index.php?do=status"), &["HTTP/1.1 418 ", "\r\n\r\ntea"]);
    has(&stage.get("/index.php?do=redirect"), &["HTTP/1.1 302 ", "\r\nLocation: /elsewhere\r\n"]);
    has(&stage.get("/index.php/a/b?do=info"), &["/index.php|/a/b|/index.php/a/b"]);
    has(&stage.get("/missing.php"), &["HTTP/1.1 404 ", "File not found."]);
    let headers = stage.ask("GET /?do=headers HTTP/1.0\nX-One: 1\nX-Two: a\nX-Two: b", b"");
    has(&headers, &["HTTP_X_ONE=1\n", "HTTP_X_TWO=a, b\n", "HTTP_HOST=localhost\n"]);
    let cookies = stage.ask("GET /?do=cookies HTTP/1.0\nCookie: one=1\nCookie: two=2", b"");
    has(&cookies, &["Set-Cookie: a=b", "Set-Cookie: c=d", "\r\n\r\n12"]);
    let form = "application/x-www-form-urlencoded";
    has(&stage.post("/index.php?do=post", form, b"name=Zo%C3%AB&place=here"), &["Zoë of here"]);
    let head = stage.ask("HEAD /index.php HTTP/1.1", b"");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn large_bodies_pass_both_ways() {
    let stage = Stage::new();
    let wanted: String = (0..1000).map(|number| format!("{number:.<8192}")).collect();
    for place in ["", "/kept", "/streamed"] {
        let answer = stage.get(&format!("{place}/index.php?do=large"));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert_eq!(body.len(), wanted.len());
        assert!(body == wanted, "the body differs");
        for size in [1, 16 * 1024, 32 * 1024 + 1, 5 << 20] {
            let body = bytes(size);
            let sum = md5(&body, stage.dir.path());
            let answer = stage.post(&format!("{place}/index.php?do=sum"), "a/b", &body);
            has(&answer, &[&format!("\r\n\r\n{size} {sum} {size}")]);
        }
    }
}

#[test]
fn chunked_body_is_passed() {
    let stage = Stage::new();
    let sum = md5(b"hello", stage.dir.path());
    let head = "POST /index.php?do=sum HTTP/1.1\nTransfer-Encoding: chunked";
    has(&stage.ask(head, b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"), &[&format!("5 {sum} 5")]);
}

#[test]
fn connections_are_kept_for_many_requests() {
    let stage = Stage::new();
    for _ in 0..50 {
        has(&stage.get("/kept/index.php?do=status"), &["HTTP/1.1 418 ", "tea"]);
    }
    has(
        &stage.get("/streamed/index.php?do=pieces"),
        &["\r\n\r\npiece 0\npiece 1\npiece 2\npiece 3\npiece 4\n"],
    );
}

#[test]
fn what_php_logs_is_in_the_error_log() {
    let stage = Stage::new();
    has(&stage.get("/index.php?do=log"), &["\r\n\r\nlogged"]);
    let log = stage.server.read("error.log");
    has(&log, &["FastCGI sent in stderr: \"PHP message: odd things happen\""]);
    has(&log, &["upstream: \"fastcgi://unix:", "/php.sock:\""]);
}

#[test]
fn more_log_than_fits_the_buffer_does_not_harm_the_response() {
    let stage = Stage::new();
    has(&stage.get("/index.php?do=logs"), &["HTTP/1.1 200 OK\r\n", "\r\n\r\nlogged"]);
    has(&stage.server.read("error.log"), &["xxx number 0", "xxx number 39"]);
}

#[test]
fn php_that_dies_is_a_bad_gateway() {
    let stage = Stage::new();
    has(&stage.get("/index.php?do=die"), &["HTTP/1.1 502 "]);
    let log = stage.server.read("error.log");
    has(&log, &["while reading response header from upstream"]);
    has(&stage.get("/index.php?do=status"), &["HTTP/1.1 418 "]);
}
