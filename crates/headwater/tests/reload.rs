//! Reloads under load: two hundred `SIGHUP`s fail no request and end no upgraded connection.
//!
//! Runs headwater (or `SUBJECT`) with a master process, as in production. `RELOADS=n` changes the count.

use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::load::Load;
use headwater_testkit::origin::Origin;
use headwater_testkit::origin::rules::Rules;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::Signal;

const CONF: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    keepalive_requests 1000000;
    upstream origin { server 127.0.0.1:%%ORIGIN_A%%; keepalive 8; }
    server {
        listen %%PORT_8080%%;
        add_header X-Generation "generation-1";
        location /return { return 200 "hello\n"; }
        location /proxy { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
        location /upgrade {
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
    }
}
"#;

const ORIGIN: &[&str] = &[
    "on /upgrade",
    "< HTTP/1.1 101 Switching Protocols",
    "< Upgrade: echo",
    "< Connection: upgrade",
    "<",
    "echo",
];

#[test]
fn reload_two_hundred_times_under_load_fails_nothing() {
    let reloads = env::var("RELOADS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap();
    let dir = TempDir::new().unwrap();
    let mut template = Template::new(dir.path());
    let origin_port = free_port().unwrap();
    template.set("ORIGIN_A", origin_port);
    let rules: Vec<String> = ORIGIN.iter().map(|line| (*line).to_owned()).collect();
    let _origin = Origin::start("A", origin_port, dir.path(), Rules::parse(&rules).unwrap()).unwrap();
    let port = template.port("8080").unwrap();
    let mut server = Server::start(&subject.path, CONF, &mut template, port, Mode::Master).unwrap();

    let mut tunnel = open_tunnel(port).unwrap();
    let loads = [Load::start(port, "/return", 2), Load::start(port, "/proxy", 2)];
    for number in 2..reloads + 2 {
        reload(&server, dir.path(), port, number).unwrap();
        assert!(server.is_running(), "the server ended:\n{}", server.read("error.log"));
        let word = format!("after {number}");
        assert_eq!(echo(&mut tunnel, &word).unwrap(), word, "the upgraded connection did not survive");
    }
    for load in loads {
        let (served, failed) = load.stop();
        assert_eq!(failed, 0, "failed requests beside {served} served:\n{}", server.read("error.log"));
        assert!(served > u64::try_from(reloads).unwrap(), "only {served} requests were served");
    }
}

/// Writes the next generation, sends the signal and waits until the new generation answers.
fn reload(server: &Server, dir: &Path, port: u16, number: usize) -> io::Result<()> {
    let file = dir.join("nginx.conf");
    let old = std::fs::read_to_string(&file)?;
    let new = old.replace(&format!("generation-{}\"", number - 1), &format!("generation-{number}\""));
    assert_ne!(old, new);
    std::fs::write(&file, new)?;
    server.signal(Signal::HUP)?;
    let wanted = format!("generation-{number}\r\n");
    let end = Instant::now() + Duration::from_secs(10);
    while !ask(port).is_ok_and(|answer| answer.contains(&wanted)) {
        assert!(Instant::now() < end, "generation {number} never answered:\n{}", server.read("error.log"));
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn ask(port: u16) -> io::Result<String> {
    let mut stream = connect(port)?;
    stream.write_all(b"GET /return HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn open_tunnel(port: u16) -> io::Result<TcpStream> {
    let mut stream = connect(port)?;
    stream.write_all(
        b"GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
    )?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
    }
    Ok(stream)
}

fn echo(tunnel: &mut TcpStream, word: &str) -> io::Result<String> {
    tunnel.write_all(word.as_bytes())?;
    let mut back = vec![0; word.len()];
    tunnel.read_exact(&mut back)?;
    Ok(String::from_utf8_lossy(&back).into_owned())
}
