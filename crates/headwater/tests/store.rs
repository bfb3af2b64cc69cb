//! `proxy_store` at its edges: a file is there whole or not at all, whatever becomes of client, back end and disk.

#![allow(clippy::expect_used, clippy::panic, reason = "what does not work fails the test")]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::Template;

const CONF: &str = r#"
error_log error.log info;
events { worker_connections 64; }
http {
    access_log off;
    proxy_temp_path %%DIR%%/temp 1 2;
    proxy_store_access user:rw group:r all:r;
    proxy_read_timeout 2s;
    server {
        listen %%PORT_8080%%;
        location / { proxy_store %%DIR%%/data$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /small/ { proxy_buffers 2 4k; proxy_busy_buffers_size 4k; proxy_store %%DIR%%/data$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /limited/ { proxy_buffers 2 4k; proxy_busy_buffers_size 4k; proxy_max_temp_file_size 0; proxy_store %%DIR%%/data$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /across/ { proxy_store /dev/shm/headwater-%%ORIGIN%%$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /file/ { proxy_store %%DIR%%/nginx.conf/x; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /notemp/ { proxy_temp_path %%DIR%%/gone; proxy_store %%DIR%%/data$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
        location /full/ { proxy_temp_path %%DIR%%/full; proxy_store %%DIR%%/data$uri; proxy_pass http://127.0.0.1:%%ORIGIN%%; }
    }
}
"#;

/// Limits everything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

const LENGTH: usize = 3_000_000;

struct Setup {
    server: Server,
    port: u16,
    origin: u16,
    dir: TempDir,
}

/// A body in which every place is different from those near it, and which depends on `seed`.
fn body(seed: u8) -> Vec<u8> {
    (0..LENGTH).map(|at| (at / 7 % 251) as u8 ^ seed).collect()
}

/// Answers each request by what its URI contains.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n");
    let time = "Last-Modified: Mon, 28 Sep 1970 06:00:00 GMT\r\n";
    let seed = u8::from(line.contains("odd"));
    if line.contains("empty") {
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    write!(stream, "{head}{time}\r\n")?;
    let all = body(seed);
    let (first, second) = all.split_at(LENGTH / 2);
    stream.write_all(first)?;
    if line.contains("slow") {
        thread::sleep(Duration::from_millis(400));
    }
    if line.contains("broken") {
        return Ok(());
    }
    if line.contains("reset") {
        return Ok(rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?);
    }
    stream.write_all(second)
}

impl Setup {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_write_timeout(Some(PATIENCE));
                thread::spawn(move || answer(stream));
            }
        });
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let dir = TempDir::new().expect("a directory");
        let mut template = Template::new(dir.path());
        template.set("ORIGIN", origin);
        let port = template.port("8080").expect("a port");
        let server =
            Server::start(&subject.path, CONF, &mut template, port, Mode::Single).expect("it starts");
        Self { server, port, origin, dir }
    }

    fn send(&self, uri: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        write!(stream, "GET {uri} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        stream
    }

    /// The body of an answer.
    fn get(&self, uri: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = self.send(uri).read_to_end(&mut all);
        let head = all.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
        assert!(all.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&all[..head]));
        all.split_off(head + 4)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Waits until the log holds a text.
    fn logs(&self, text: &str) {
        wait_for(text, || self.server.read("error.log").contains(text));
    }

    fn assert_no_temp_files(&self) {
        for directory in ["temp", "full", "gone"] {
            wait_for("no temp file", || files(&self.path(directory)).is_empty());
        }
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn complete_response_is_saved_with_its_time_and_rights() {
    let setup = Setup::start();
    assert_eq!(setup.get("/new/dir/file").len(), LENGTH);
    let path = setup.path("data/new/dir/file");
    let meta = fs::metadata(&path).expect("the file");
    assert_eq!(fs::read(&path).expect("its bytes"), body(0));
    assert_eq!(meta.permissions().mode() & 0o777, 0o644);
    let time = meta.modified().expect("a time").duration_since(std::time::UNIX_EPOCH).expect("later");
    assert_eq!(time, Duration::from_secs(23_349_600));
    let directory = fs::metadata(setup.path("data/new")).expect("the directory");
    assert_eq!(directory.permissions().mode() & 0o777, 0o755);
    assert_eq!(setup.get("/empty").len(), 0);
    assert_eq!(fs::read(setup.path("data/empty")).expect("an empty file"), b"");
    setup.assert_no_temp_files();
}

#[test]
fn reader_in_a_loop_sees_whole_files_only() {
    let setup = Setup::start();
    let path = setup.path("data/both");
    let over = AtomicBool::new(false);
    let wanted = [body(0), body(1)];
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut partial) = ([0_u32; 2], 0_u32);
            while !over.load(Ordering::Relaxed) {
                if let Ok(bytes) = fs::read(&path) {
                    match wanted.iter().position(|one| *one == bytes) {
                        Some(which) => seen[which] += 1,
                        None => partial += 1,
                    }
                }
            }
            (seen, partial)
        });
        for round in 0..10 {
            setup.get(if round % 2 == 0 { "/both?even" } else { "/both?odd" });
        }
        over.store(true, Ordering::Relaxed);
        let (seen, partial) = reader.join().expect("the reader");
        assert_eq!(partial, 0);
        assert!(seen.iter().sum::<u32>() > 0, "{seen:?}");
    });
}

#[test]
fn response_that_breaks_off_leaves_nothing() {
    let setup = Setup::start();
    for uri in ["/broken", "/reset", "/small/broken"] {
        assert!(setup.get(uri).len() < LENGTH);
        assert!(!setup.path(&format!("data{uri}")).exists());
    }
    setup.logs("upstream prematurely closed connection");
    setup.assert_no_temp_files();
    assert_eq!(files(&setup.path("data")).len(), 0);
}

#[test]
fn client_that_leaves_does_not_stop_the_saving() {
    let setup = Setup::start();
    for uri in ["/slow", "/small/slow", "/limited/slow"] {
        let mut stream = setup.send(uri);
        let mut some = [0; 1000];
        stream.read_exact(&mut some).expect("a beginning");
        drop(stream);
        let path = setup.path(&format!("data{uri}"));
        wait_for("the file", || path.exists());
        assert!(fs::read(&path).expect("the file") == body(0), "{uri}");
    }
    setup.assert_no_temp_files();
}

#[test]
fn slow_client_gets_what_is_saved_from_the_same_file() {
    let setup = Setup::start();
    for uri in ["/small/file", "/limited/file"] {
        let mut stream = setup.send(uri);
        let path = setup.path(&format!("data{uri}"));
        wait_for("the file", || path.exists());
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all of it");
        assert!(all.ends_with(&body(0)), "{uri}");
        assert!(fs::read(&path).expect("the file") == body(0), "{uri}");
    }
    let log = setup.server.read("error.log");
    assert!(!log.contains("is buffered to a temporary file"), "{log}");
}

#[test]
fn target_on_another_file_system_is_copied_there() {
    let setup = Setup::start();
    let base = PathBuf::from(format!("/dev/shm/headwater-{}", setup.origin));
    assert_eq!(setup.get("/across/file").len(), LENGTH);
    let path = base.join("across/file");
    let (bytes, meta) = (fs::read(&path), fs::metadata(&path));
    let left = files(&base).len();
    let _ = fs::remove_dir_all(&base);
    assert!(bytes.expect("the file") == body(0));
    assert_eq!(meta.expect("the file").permissions().mode() & 0o777, 0o644);
    assert_eq!(left, 1, "nothing lies beside it");
    setup.assert_no_temp_files();
}

#[test]
fn file_that_cannot_be_made_is_logged_and_the_client_gets_the_response() {
    let setup = Setup::start();
    assert!(setup.get("/file/x") == body(0));
    let target = setup.path("nginx.conf/x");
    setup.logs(&format!("to \"{}\" failed (20: Not a directory) while", target.display()));
    assert!(setup.server.read("error.log").contains("[crit]"));
    fs::remove_dir_all(setup.path("gone")).expect("removed");
    fs::write(setup.path("gone"), b"").expect("a file in its place");
    assert!(setup.get("/notemp/x") == body(0));
    setup.logs(&format!("open() \"{}/", setup.path("gone").display()));
    assert!(!setup.path("data/notemp/x").exists());
    fs::remove_file(setup.path("gone")).expect("removed");
    setup.assert_no_temp_files();
}

#[test]
fn full_disk_is_logged_and_the_client_gets_the_response() {
    let setup = Setup::start();
    let full = setup.path("full");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&full)
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("no right to mount a small file system here");
        return;
    }
    let answer = setup.get("/full/x");
    let temp = files(&full);
    let _ = std::process::Command::new("umount").arg("-l").arg(&full).status();
    assert!(answer == body(0));
    setup.logs("[crit]");
    setup.logs("(28: No space left on device)");
    assert!(!setup.path("data/full/x").exists());
    assert_eq!(temp.len(), 0, "{temp:?}");
}
