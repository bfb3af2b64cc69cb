//! The upstream engine at its edges: answers that come early, back ends that are free before the client is.

#![allow(clippy::expect_used, reason = "what does not work fails the test")]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::Template;

const CONF: &str = r#"
error_log error.log warn;
events { worker_connections 64; }
http {
    access_log off;
    client_max_body_size 0;
    gzip_types text/x-any;
    upstream origin { server 127.0.0.1:%%ORIGIN%%; keepalive 4; }
    upstream two { server 127.0.0.1:%%ORIGIN%% fail_timeout=100s; server 127.0.0.1:%%PORT_1%% backup; keepalive 4; }
    server { listen 127.0.0.1:%%PORT_1%%; return 200 backup; }
    server {
        listen %%PORT_8080%%;
        location / { proxy_pass http://origin; }
        location /two/ { proxy_pass http://two; }
        location /stream/ { proxy_request_buffering off; proxy_pass http://origin; }
        location /from/ { proxy_bind $arg_a; proxy_pass http://origin; }
        location /gzip/ { gzip on; gzip_comp_level 1; proxy_pass http://origin; }
    }
}
"#;

/// Limits everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server in front of an origin that is a function, called for each connection with its number.
struct Setup {
    server: Server,
    port: u16,
    _dir: TempDir,
}

impl Setup {
    fn start(origin: impl Fn(usize, TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin_port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.set_write_timeout(Some(PATIENCE));
                let _ = origin(number, stream);
            }
        });
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let dir = TempDir::new().expect("a directory");
        let mut template = Template::new(dir.path());
        template.set("ORIGIN", origin_port);
        let port = template.port("8080").expect("a port");
        let server =
            Server::start(&subject.path, CONF, &mut template, port, Mode::Single).expect("it starts");
        Self { server, port, _dir: dir }
    }

    fn client(&self) -> TcpStream {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }
}

/// Reads a head; gives its lines.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

/// Reads a response whose length is announced.
fn read_response(stream: &TcpStream) -> io::Result<(Vec<String>, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader)?;
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    reader.read_exact(&mut body)?;
    Ok((head, body))
}

fn channel<T>() -> (mpsc::Sender<T>, Receiver<T>) {
    mpsc::channel()
}

#[test]
fn answer_while_the_client_still_uploads_unbuffered_reaches_it_at_once() {
    let setup = Setup::start(|_, stream| {
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        (&stream).write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nnope")?;
        io::copy(&mut reader, &mut io::sink()).map(drop)
    });
    let mut client = setup.client();
    write!(client, "POST /stream/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").expect("sent");
    client.write_all(&[b'x'; 1000]).expect("sent");
    let (head, body) = read_response(&client).expect("an answer");
    assert!(head[0].starts_with("HTTP/1.1 413"), "{head:?}");
    assert_eq!(body, b"nope");
}

#[test]
fn idle_connection_with_a_local_address_serves_requests_that_want_it_only() {
    let setup = Setup::start(|number, stream| {
        // Each connection is a thread of its own: the one before stays open.
        thread::spawn(move || {
            let mut reader = BufReader::new(&stream);
            let from = stream.peer_addr()?.ip();
            while read_head(&mut reader).is_ok() {
                let text = format!("{number} {from}");
                write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())?;
            }
            io::Result::Ok(())
        });
        Ok(())
    });
    let client = setup.client();
    let mut ask = |address: &str| {
        write!(&client, "GET /from/?a={address} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        String::from_utf8(read_response(&client).expect("an answer").1).expect("text")
    };
    let seen: Vec<String> =
        ["127.0.0.5", "127.0.0.6", "", "127.0.0.5", "", "127.0.0.6"].map(&mut ask).into_iter().collect();
    assert_eq!(
        seen,
        ["0 127.0.0.5", "1 127.0.0.6", "2 127.0.0.1", "0 127.0.0.5", "2 127.0.0.1", "1 127.0.0.6"]
    );
}

#[test]
fn idle_connection_that_turns_out_closed_is_not_the_peers_failure() {
    let setup = Setup::start(|number, stream| {
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")?;
        // The next request is not answered: the connection ends, as if it had been closed while the request was on its way.
        read_head(&mut reader).map(drop)
    });
    let client = setup.client();
    let seen: Vec<String> = (0..5)
        .map(|_| {
            write!(&client, "GET /two/ HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
            String::from_utf8(read_response(&client).expect("an answer").1).expect("text")
        })
        .collect();
    assert_eq!(seen, ["0", "backup", "1", "backup", "2"]);
}

#[test]
fn answer_while_a_stored_body_is_being_sent_reaches_the_client_and_ends_the_connection() {
    let (accepted, connections) = channel();
    let setup = Setup::start(move |number, stream| {
        let _ = accepted.send(number);
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        // The body is larger than the sockets hold: it is not read until the answer arrived.
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")?;
        if number == 0 {
            thread::sleep(Duration::from_millis(300));
            io::copy(&mut reader, &mut io::sink())?;
        }
        Ok(())
    });
    let mut client = setup.client();
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000000\r\n\r\n").expect("sent");
    client.write_all(&vec![b'x'; 30_000_000]).expect("sent");
    assert_eq!(read_response(&client).expect("an answer").1, b"early");
    write!(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    assert_eq!(read_response(&client).expect("a second answer").1, b"early");
    // The half-sent request's connection was not used again.
    assert_eq!(connections.iter().take(2).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn interim_answer_while_the_client_uploads_does_not_end_the_upload() {
    let setup = Setup::start(|_, stream| {
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        (&stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n")?;
        let got = io::copy(&mut (&mut reader).take(3_000_000), &mut io::sink())?;
        let body = got.to_string();
        write!(&stream, "\r\nHTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let mut client = setup.client();
    write!(client, "POST /stream/ HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n").expect("sent");
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(50));
        client.write_all(&vec![b'x'; 1_000_000]).expect("sent");
    }
    assert_eq!(read_response(&client).expect("an answer").1, b"3000000");
}

#[test]
fn client_that_leaves_after_its_streamed_upload_closes_the_back_end() {
    let (told, closed) = channel();
    let setup = Setup::start(move |_, stream| {
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        reader.read_exact(&mut [0; 5])?;
        let _ = told.send(reader.read(&mut [0; 1])?);
        Ok(())
    });
    let mut client = setup.client();
    write!(client, "POST /stream/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").expect("sent");
    thread::sleep(Duration::from_millis(50));
    client.write_all(b"12345").expect("sent");
    thread::sleep(Duration::from_millis(100));
    drop(client);
    assert_eq!(closed.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn back_end_is_free_before_a_slow_client_has_its_compressed_response() {
    const SIZE: usize = 12_000_000;
    let (told, sent) = channel();
    let setup = Setup::start(move |_, stream| {
        let mut reader = BufReader::new(&stream);
        read_head(&mut reader)?;
        write!(&stream, "HTTP/1.1 200 OK\r\nContent-Type: text/x-any\r\nContent-Length: {SIZE}\r\n\r\n")?;
        (&stream).write_all(&noise(SIZE))?;
        let _ = told.send(());
        // Kept for another request.
        read_head(&mut reader)?;
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
    });
    let mut client = setup.client();
    write!(client, "GET /gzip/ HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
        .expect("sent");
    sent.recv_timeout(PATIENCE).expect("the back end got rid of its response");
    // What the sockets hold is stored, too, in a moment.
    thread::sleep(Duration::from_millis(800));
    // It serves somebody else while the first client has not read a byte.
    let mut other = setup.client();
    write!(other, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    assert_eq!(read_response(&other).expect("an answer").1, b"second");
    let body = read_chunked(&mut client).expect("the whole response");
    assert_eq!(gunzip(&body), noise(SIZE));
    assert!(setup.server.read("error.log").contains("buffered to a temporary file"));
}

/// Bytes that do not compress, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(length);
    bytes
}

/// Reads a chunked response; gives its body.
fn read_chunked(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    read_head(&mut reader)?;
    let mut body = Vec::new();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(body);
        }
        (&mut reader).take(size).read_to_end(&mut body)?;
        reader.read_exact(&mut [0; 2])?;
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
    plain
}
