//! The example as a client sees it, and that its parts are asked at the same time.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::example::Example;
use headwater_testkit::server::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_example-gateway");

#[test]
fn five_back_ends_become_one_document_within_the_deadlines() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = Example::start(Path::new(BINARY), home, &[]).unwrap();
    let start = Instant::now();
    let answer = example.get(8087, "/all?id=7").unwrap();
    let wanted = "{\"user\":{\"name\":\"ann\",\"id\":\"7\"},\"cart\":[1,2,3],\"stock\":\"plain \\\"text\\\"\",\
        \"missing\":{\"error\":\"status 404\"},\"slow\":{\"error\":\"too late\"}}\n";
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, wanted);
    assert!(start.elapsed() < Duration::from_secs(5), "the slow one was not waited for");
}

#[test]
fn back_ends_are_asked_at_the_same_time() {
    // Nobody answers until all three have been asked.
    let barrier = Arc::new(Barrier::new(3));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let barrier = barrier.clone();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                barrier.wait();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
            });
        }
    });
    let dir = TempDir::new().unwrap();
    let conf = format!(
        "events {{}} http {{ server {{ listen 127.0.0.1:8087; location = /all {{ join a /p 9s; join b /p 9s; join c /p 9s; }}
         location = /p {{ proxy_pass http://localhost:{port}; }} }} }}"
    );
    std::fs::write(dir.path().join("nginx.conf"), conf).unwrap();
    let example = Example::start(Path::new(BINARY), dir.path(), &[]).unwrap();
    let answer = example.get(8087, "/all").unwrap();
    assert!(answer.ends_with("{\"a\":1,\"b\":1,\"c\":1}\n"), "{answer}");
}
