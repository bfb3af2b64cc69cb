//! The program's command line: options, configuration tests, signals by pid file, start and stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use headwater_testkit::server::TempDir;
use headwater_testkit::template::free_port;

/// A prefix with `logs/` and a configuration.
struct Prefix(TempDir);

impl Prefix {
    fn new(conf: &str) -> Prefix {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("logs")).unwrap();
        let prefix = Prefix(dir);
        prefix.write("nginx.conf", conf);
        prefix
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.arg("-p").arg(self.0.path()).args(["-c", "nginx.conf"]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        texts(&self.command(args).output().unwrap())
    }

    /// Runs, and gives standard error with the prefix written as `P`.
    fn stderr(&self, args: &[&str]) -> (i32, String) {
        let (code, _, stderr) = self.run(args);
        (code, stderr.replace(&self.0.path().display().to_string(), "P"))
    }

    fn start(&self) -> Child {
        let child = self.command(&[]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for(|| !self.read("logs/nginx.pid").is_empty());
        child
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_headwater"))
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn bare(args: &[&str]) -> (i32, String) {
    let (code, _, stderr) = texts(&program().args(args).output().unwrap());
    (code, stderr)
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain");
        sleep(Duration::from_millis(10));
    }
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn conf(port: u16, text: &str) -> String {
    format!(
        "daemon off; error_log logs/error.log notice; events {{}} \
         http {{ server {{ listen 127.0.0.1:{port}; return 200 {text}; }} }}\n"
    )
}

#[test]
fn version_is_told_on_standard_error() {
    assert_eq!(bare(&["-v"]), (0, "headwater version: headwater/0.1.0\n".to_owned()));
    let (code, text) = bare(&["-V"]);
    assert_eq!(code, 0);
    assert!(text.contains("\nnginx version: nginx/1.31.4\n"), "{text}");
    assert!(text.contains("\nconfigure arguments: --prefix="), "{text}");
    let (code, text) = bare(&["-h"]);
    assert!(code == 0 && text.contains("\nUsage: headwater [-?hvVtTq]"), "{text}");
}

#[test]
fn wrong_options_are_errors() {
    assert_eq!(bare(&["x"]), (1, "headwater: invalid option: \"x\"\n".to_owned()));
    assert_eq!(bare(&["-c"]), (1, "headwater: option \"-c\" requires file name\n".to_owned()));
    assert_eq!(bare(&["-sfoo"]), (1, "headwater: invalid option: \"-s foo\"\n".to_owned()));
}

#[test]
fn test_of_a_good_configuration_succeeds() {
    let prefix = Prefix::new(&conf(free_port().unwrap(), "x"));
    let good = "headwater: the configuration file P/nginx.conf syntax is ok\n\
                headwater: configuration file P/nginx.conf test is successful\n";
    assert_eq!(prefix.stderr(&["-t"]), (0, good.to_owned()));
    assert_eq!(prefix.stderr(&["-tq"]), (0, String::new()));
    assert!(prefix.path("logs/nginx.pid").exists(), "as nginx, a test makes the pid file");
}

#[test]
fn test_of_a_bad_configuration_shows_the_place() {
    let prefix = Prefix::new("events {}\nhttp {\n    sendfil on;\n}\n");
    let (code, text) = prefix.stderr(&["-t"]);
    assert_eq!(code, 1);
    assert!(
        text.starts_with("headwater: [emerg] unknown directive \"sendfil\" in P/nginx.conf:3\n"),
        "{text}"
    );
    assert!(text.contains("    sendfil on;\n") && text.contains("^^^^^^^\n"), "{text}");
    assert!(text.ends_with("headwater: configuration file P/nginx.conf test failed\n"), "{text}");
}

#[test]
fn test_without_the_file_or_the_events_fails() {
    let prefix = Prefix::new("");
    let (code, text) = prefix.stderr(&["-t", "-c", "none"]);
    let missing = "headwater: [emerg] open() \"P/none\" failed (2: No such file or directory)\n\
                   headwater: configuration file P/none test failed\n";
    assert_eq!((code, text.as_str()), (1, missing));
    let (code, text) = prefix.stderr(&["-t"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("syntax is ok\n") && text.contains("no \"events\" section in configuration"),
        "{text}"
    );
}

#[test]
fn dump_prints_every_file() {
    let prefix = Prefix::new("events {}\ninclude more.conf;\n");
    prefix.write("more.conf", "worker_processes 2;\n");
    let (code, stdout, _) = prefix.run(&["-T"]);
    let stdout = stdout.replace(&prefix.0.path().display().to_string(), "P");
    let expected = "# configuration file P/nginx.conf:\nevents {}\ninclude more.conf;\n\n\
                    # configuration file P/more.conf:\nworker_processes 2;\n\n";
    assert_eq!((code, stdout.as_str()), (0, expected));
}

#[test]
fn signal_without_a_server_is_an_error() {
    let prefix = Prefix::new("daemon off; events {}\n");
    let (code, text) = prefix.stderr(&["-s", "reload"]);
    let missing = "headwater: [error] open() \"P/logs/nginx.pid\" failed (2: No such file or directory)\n";
    assert_eq!((code, text.as_str()), (1, missing));
    prefix.write("logs/nginx.pid", "");
    let (_, text) = prefix.stderr(&["-s", "reload"]);
    assert_eq!(text, "headwater: [error] invalid PID number \"\" in \"P/logs/nginx.pid\"\n");
    prefix.write("logs/nginx.pid", "4194305\n");
    let (_, text) = prefix.stderr(&["-s", "stop"]);
    assert_eq!(text, "headwater: [alert] kill(4194305, 15) failed (3: No such process)\n");
}

#[test]
fn reload_changes_what_is_served_and_a_bad_one_does_not() {
    let (port, other) = (free_port().unwrap(), free_port().unwrap());
    let prefix = Prefix::new(&conf(port, "one"));
    let mut child = prefix.start();
    wait_for(|| get(port).as_deref() == Some("one"));

    prefix.write(
        "nginx.conf",
        &conf(port, "two").replace("return", &format!("listen 127.0.0.1:{other}; return")),
    );
    assert_eq!(prefix.stderr(&["-s", "reload"]).0, 0);
    wait_for(|| get(port).as_deref() == Some("two"));
    wait_for(|| get(other).as_deref() == Some("two"));

    prefix.write("nginx.conf", "events {} nonsense;");
    let pid = prefix.read("logs/nginx.pid");
    Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap();
    wait_for(|| prefix.read("logs/error.log").contains("[emerg]"));
    assert!(prefix.read("logs/error.log").contains("unknown directive \"nonsense\""));
    assert_eq!(get(port).as_deref(), Some("two"));

    prefix.write("nginx.conf", &conf(port, "three"));
    assert_eq!(prefix.stderr(&["-s", "reload"]).0, 0);
    wait_for(|| get(port).as_deref() == Some("three"));
    wait_for(|| get(other).is_none());

    assert_eq!(prefix.stderr(&["-s", "quit"]).0, 0);
    assert!(child.wait().unwrap().success());
    assert!(!prefix.path("logs/nginx.pid").exists());
    let log = prefix.read("logs/error.log");
    assert!(log.contains("signal 3 (SIGQUIT) received from ") && log.contains(", shutting down\n"), "{log}");
}

#[test]
fn reopen_makes_the_log_again() {
    let prefix = Prefix::new(&conf(free_port().unwrap(), "x"));
    let mut child = prefix.start();
    fs::rename(prefix.path("logs/error.log"), prefix.path("logs/old.log")).unwrap();
    assert_eq!(prefix.stderr(&["-s", "reopen"]).0, 0);
    wait_for(|| prefix.read("logs/old.log").contains("reopening logs\n"));
    assert_eq!(prefix.stderr(&["-s", "reload"]).0, 0);
    wait_for(|| prefix.read("logs/error.log").contains("reconfiguring\n"));
    assert_eq!(prefix.stderr(&["-s", "quit"]).0, 0);
    assert!(child.wait().unwrap().success());
    assert!(prefix.read("logs/error.log").ends_with("exit\n"));
}

#[test]
fn daemon_lets_go_of_the_terminal_and_stops_on_order() {
    let port = free_port().unwrap();
    let prefix = Prefix::new(&conf(port, "background").replace("daemon off;", ""));
    // This returns only when nothing holds the pipes any more.
    let (code, stdout, stderr) = prefix.run(&[]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", ""));
    wait_for(|| get(port).as_deref() == Some("background"));
    assert_eq!(prefix.stderr(&["-s", "stop"]).0, 0);
    wait_for(|| !prefix.path("logs/nginx.pid").exists());
    wait_for(|| get(port).is_none());
}

#[test]
fn busy_address_is_an_error_at_start_and_none_in_a_test() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let prefix = Prefix::new(&conf(port, "x"));
    assert_eq!(prefix.stderr(&["-tq"]), (0, String::new()));
    let (code, text) = prefix.stderr(&[]);
    let line = format!("headwater: [emerg] bind() to 127.0.0.1:{port} failed (98: Address already in use)\n");
    let expected = format!("{}headwater: [emerg] still could not bind()\n", line.repeat(5));
    assert_eq!((code, text), (1, expected));
    assert!(prefix.read("logs/error.log").contains("[notice]"), "the retries are noticed");
}

#[test]
fn unix_socket_is_removed_at_the_end() {
    let prefix = Prefix::new("");
    let socket = prefix.path("s");
    let text = conf(1, "x").replace("127.0.0.1:1", &format!("unix:{}", socket.display()));
    prefix.write("nginx.conf", &text);
    let mut child = prefix.start();
    wait_for(|| Path::exists(&socket));
    assert_eq!(prefix.stderr(&["-s", "stop"]).0, 0);
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
}
