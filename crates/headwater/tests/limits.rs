//! Large bodies pass through flat memory: the server's peak resident size hardly grows while they do.
//!
//! `LIMITS_MB=1024 cargo test -p headwater --test limits` sends a gigabyte each way; the default is 64 MB.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use headwater_testkit::origin::Origin;
use headwater_testkit::origin::rules::Rules;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};

/// How much the peak may grow, far below the bodies' size.
const ALLOWED_GROWTH: u64 = 16 << 20;

const CONF: &str = r#"
events { worker_connections 64; }
http {
    access_log off;
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_max_temp_file_size 0;
    server {
        listen %%PORT_8080%%;
        location / { proxy_set_header Connection ""; proxy_pass http://127.0.0.1:%%ORIGIN_A%%; }
        location /unbuffered/ {
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_set_header Connection "";
            proxy_pass http://127.0.0.1:%%ORIGIN_A%%;
        }
    }
}
"#;

#[test]
fn download_of_a_large_body_buffered_uses_flat_memory() {
    let size = body_size();
    let got = with_server(size, |port| download(port, "/down")).unwrap();
    assert_eq!(got, size);
}

#[test]
fn download_of_a_large_body_unbuffered_uses_flat_memory() {
    let size = body_size();
    let got = with_server(size, |port| download(port, "/unbuffered/down")).unwrap();
    assert_eq!(got, size);
}

#[test]
fn upload_of_a_large_body_buffered_uses_flat_memory() {
    let size = body_size();
    let answer = with_server(size, |port| upload(port, "/up", size)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn upload_of_a_large_body_unbuffered_uses_flat_memory() {
    let size = body_size();
    let answer = with_server(size, |port| upload(port, "/unbuffered/up", size)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn body_size() -> u64 {
    let megabytes: u64 = env::var("LIMITS_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    megabytes << 20
}

/// Runs `action` against a fresh server and fails if its peak memory grew beyond what is allowed.
fn with_server<T>(size: u64, action: impl Fn(u16) -> io::Result<T>) -> io::Result<T> {
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater")))?;
    let dir = TempDir::new()?;
    let mut template = Template::new(dir.path());
    let origin_port = free_port()?;
    template.set("ORIGIN_A", origin_port);
    let rules = [
        "on /down".to_owned(),
        "< HTTP/1.1 200 OK".to_owned(),
        format!("< Content-Length: {size}"),
        "<".to_owned(),
        format!("stream {size}"),
        "on /up".to_owned(),
        "discard".to_owned(),
        "< HTTP/1.1 200 OK".to_owned(),
        "< Content-Length: 0".to_owned(),
        "<".to_owned(),
    ];
    let _origin = Origin::start("A", origin_port, dir.path(), Rules::parse(&rules)?)?;
    let port = template.port("8080")?;
    let server = Server::start(&subject.path, CONF, &mut template, port, Mode::Single)?;
    let before = peak(&server)?;
    let result = action(port)?;
    let grown = peak(&server)?.saturating_sub(before);
    if grown > ALLOWED_GROWTH {
        return Err(io::Error::other(format!("the peak grew by {grown} bytes for a body of {size}")));
    }
    Ok(result)
}

/// The peak resident size of the server's process, in bytes.
fn peak(server: &Server) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
    Ok(kilobytes << 10)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Number of body bytes received.
fn download(port: u16, uri: &str) -> io::Result<u64> {
    let mut stream = connect(port)?;
    write!(stream, "GET {uri} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut buffer = vec![0; 1 << 16];
    let mut head = Vec::new();
    let mut total = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        if total > 0 || headwater_testkit::text::find(&head, b"\r\n\r\n").is_some() {
            total += count as u64;
            continue;
        }
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = headwater_testkit::text::find(&head, b"\r\n\r\n") {
            total += (head.len() - end - 4) as u64;
        }
    }
}

fn upload(port: u16, uri: &str, size: u64) -> io::Result<String> {
    let mut stream = connect(port)?;
    write!(
        stream,
        "POST {uri} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    )?;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..size >> 20 {
        stream.write_all(&piece)?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
