//! The example as a program: what a client sees, and what the callbacks of its protocol make of odd back ends.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use headwater_testkit::example::Example;
use headwater_testkit::response::{self, Framing};

fn start() -> io::Result<Example> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    Example::start(Path::new(env!("CARGO_BIN_EXE_example-hello")), home, &[])
}

#[test]
fn query_string_is_asked_for_and_the_answer_passed_on() {
    let example = start().unwrap();
    let answer = example.get(8082, "/?lumia").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nfound lumia\n"), "{answer}");
    let other = example.get(8082, "/?other").unwrap();
    assert!(other.ends_with("found other\n"), "{other}");
}

#[test]
fn answer_in_pieces_without_a_length_ends_with_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Otherwise it is up to the kernel what is one piece.
            stream.set_nodelay(true).unwrap();
            // Closing with unread bytes would be a reset, not an end.
            let _ = stream.read(&mut [0; 1024]);
            for piece in ["HT", "TP/1.0 203 Odd\r\nX-Own: 1\r", "\n\r\nfirst ", "second"] {
                let _ = stream.write_all(piece.as_bytes());
                thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    });
    let example = Front::start(port).unwrap();
    let answer = example.get("/").unwrap();
    let (response, used) = response::parse(answer.as_bytes(), false, true).unwrap();
    assert_eq!((response.status(), response.header("X-Own")), (203, Some("1")), "{answer}");
    assert_eq!(
        (response.body.as_slice(), response.framing),
        (&b"first second"[..], Framing::Chunked),
        "{answer}"
    );
    assert_eq!(used, answer.len(), "{answer}");
}

#[test]
fn what_is_no_answer_becomes_502() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"nonsense\r\n\r\n");
        }
    });
    let example = Front::start(port).unwrap();
    let answer = example.get("/").unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

/// The program with a back end of the test's.
struct Front {
    example: Example,
    _dir: headwater_testkit::server::TempDir,
}

impl Front {
    fn start(port: u16) -> io::Result<Self> {
        let dir = headwater_testkit::server::TempDir::new()?;
        let conf = format!(
            "events {{}} http {{ server {{ listen 127.0.0.1:8082; location / {{ hello_pass localhost:{port}; }} }} }}"
        );
        std::fs::write(dir.path().join("nginx.conf"), conf)?;
        let binary = Path::new(env!("CARGO_BIN_EXE_example-hello"));
        Ok(Self { example: Example::start(binary, dir.path(), &[])?, _dir: dir })
    }

    fn get(&self, uri: &str) -> io::Result<String> {
        self.example.get(8082, uri)
    }
}
