//! The example as a client sees it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use headwater_testkit::example::Example;

#[test]
fn only_tokens_that_somebody_vouches_for_pass() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = Example::start(Path::new(env!("CARGO_BIN_EXE_example-gate")), home, &[]).unwrap();
    let get = |token: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", example.port(8089))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: a\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(example.get(8089, "/open").unwrap().ends_with("open to all\n"));
    for _ in 0..3 {
        assert!(get("", "").starts_with("HTTP/1.1 401 "));
        assert!(get("X-Token: wrong\r\n", "some body").starts_with("HTTP/1.1 403 "));
        assert!(get("X-Token: broken\r\n", "").starts_with("HTTP/1.1 503 "));
        let answer = get("X-Token: sesame\r\n", "some body");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello ali\n"), "{answer}");
    }
}
