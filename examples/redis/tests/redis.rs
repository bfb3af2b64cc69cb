//! The example in front of a real Redis.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::example::Example;
use headwater_testkit::server::TempDir;
use headwater_testkit::template::free_port;

/// A Redis of the test's own.
struct Redis {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Redis {
    fn start() -> io::Result<Self> {
        let (port, dir) = (free_port()?, TempDir::new()?);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()?;
        let redis = Self { child, port, _dir: dir };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                return Err(io::Error::other("redis-server does not listen"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    /// Sends a command; gives the first line of the answer.
    fn say(&self, parts: &[&[u8]]) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "*{}\r\n", parts.len())?;
        for part in parts {
            write!(stream, "${}\r\n", part.len())?;
            stream.write_all(part)?;
            stream.write_all(b"\r\n")?;
        }
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn values_of_redis_are_served_over_kept_connections() {
    let redis = Redis::start().unwrap();
    let large = vec![b'v'; 300_000];
    redis.say(&[b"SET", b"/hello", b"world"]).unwrap();
    redis.say(&[b"SET", b"/large", &large]).unwrap();
    redis.say(&[b"SET", b"/empty", b""]).unwrap();
    redis.say(&[b"LPUSH", b"/list", b"1"]).unwrap();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = Path::new(env!("CARGO_BIN_EXE_example-redis"));
    let example = Example::start(binary, home, &[(6379, redis.port)]).unwrap();
    let before = connections(&redis).unwrap();
    for _ in 0..3 {
        let answer = example.get(8084, "/hello").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nworld"), "{answer}");
        assert!(example.get(8084, "/arg?key=/hello").unwrap().ends_with("world"));
        assert!(example.get(8084, "/large").unwrap().ends_with(std::str::from_utf8(&large).unwrap()));
        assert!(example.get(8084, "/empty").unwrap().contains("Content-Length: 0"));
        assert!(example.get(8084, "/none").unwrap().starts_with("HTTP/1.1 404 "));
    }
    // One connection per location, and those that ask here.
    assert!(connections(&redis).unwrap() - before <= 3, "connections are used again");
    // Not a string: Redis says an error, which is no answer.
    assert!(example.get(8084, "/list").unwrap().starts_with("HTTP/1.1 502 "));
    assert!(example.server().read("stderr.log").contains("redis sent \"-WRONGTYPE"));
}

/// Connections that Redis has accepted over its life.
fn connections(redis: &Redis) -> io::Result<u64> {
    let info = redis.say(&[b"INFO", b"stats"])?;
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.unwrap_or_default().trim().parse().map_err(io::Error::other)
}
