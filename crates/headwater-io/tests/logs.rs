//! Log buffers and syslog.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

mod common;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use common::{run, scratch_dir, turn};
use headwater_io::syslog::{facility, severity};
use headwater_io::{Addr, BufferOptions, LogBuffer, LogFile, Syslog, SyslogOptions};

#[test]
fn append_unbuffered_writes_once_after_the_ready_tasks() {
    run(async {
        let dir = scratch_dir("logs-turn");
        let file = Arc::new(LogFile::open(dir.join("log")).unwrap());
        let log = LogBuffer::new(file.clone(), None);
        log.append(b"first\n");
        turn().await;
        assert_eq!(std::fs::read(file.path()).unwrap(), b"first\n");
        // Tasks that are ready together append before the flusher runs.
        let tasks: Vec<_> = (0..3)
            .map(|index| {
                let (log, path) = (log.clone(), file.path().to_owned());
                tokio::task::spawn_local(async move {
                    let seen = std::fs::read(path).unwrap().len();
                    log.append(format!("line {index}\n").as_bytes());
                    seen
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 6);
        }
        turn().await;
        assert_eq!(std::fs::read(file.path()).unwrap(), b"first\nline 0\nline 1\nline 2\n");
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn append_buffered_writes_when_full_or_flushed_or_dropped() {
    run(async {
        let dir = scratch_dir("logs-buffer");
        let file = Arc::new(LogFile::open(dir.join("log")).unwrap());
        let options = BufferOptions { size: 10, flush: Some(Duration::from_millis(100)), gzip: None };
        let log = LogBuffer::new(file.clone(), Some(options));
        let content = || std::fs::read(file.path()).unwrap();
        log.append(b"123456\n");
        turn().await;
        assert_eq!(content(), b"");
        log.append(b"abcdef\n");
        assert_eq!(content(), b"123456\n");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(content(), b"123456\nabcdef\n");
        log.append(b"longer than the buffer\n");
        assert_eq!(content(), b"123456\nabcdef\nlonger than the buffer\n");
        log.append(b"x\n");
        tokio::time::sleep(Duration::from_millis(200)).await;
        log.append(b"y\n");
        drop(log);
        assert!(content().ends_with(b"\nx\ny\n"));
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn append_gzip_writes_whole_members() {
    run(async {
        let dir = scratch_dir("logs-gzip");
        let file = Arc::new(LogFile::open(dir.join("log.gz")).unwrap());
        let options = BufferOptions { size: 4096, flush: None, gzip: Some(1) };
        let log = LogBuffer::new(file.clone(), Some(options));
        for index in 0..1000 {
            log.append(format!("line {index}\n").as_bytes());
        }
        log.flush().unwrap();
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(std::fs::File::open(file.path()).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text.lines().count(), 1000);
        assert!(text.ends_with("line 998\nline 999\n"));
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn flush_full_disk_reports_the_error() {
    run(async {
        let log = LogBuffer::new(Arc::new(LogFile::open("/dev/full").unwrap()), None);
        log.append(b"lost\n");
        assert_eq!(log.flush().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert!(log.flush().is_ok());
    });
}

fn options(server: Addr, hostname: Option<&str>) -> SyslogOptions {
    SyslogOptions {
        server,
        facility: facility("local7").unwrap(),
        severity: severity("info").unwrap(),
        tag: "nginx".to_owned(),
        hostname: hostname.map(str::to_owned),
    }
}

/// Checks a message but for its time.
#[track_caller]
fn check(message: &[u8], head: &str, tail: &str) {
    let text = std::str::from_utf8(message).unwrap();
    assert!(text.starts_with(head) && text.get(head.len() + 15..) == Some(tail), "{text}");
}

#[test]
fn syslog_udp_sends_rfc3164_messages() {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let addr = Addr::Inet(server.local_addr().unwrap());
    let mut buffer = [0; 500];
    let syslog = Syslog::new(options(addr.clone(), Some("host"))).unwrap();
    syslog.send(b"a line\n").unwrap();
    let count = server.recv(&mut buffer).unwrap();
    check(&buffer[..count], "<190>", " host nginx: a line");
    let syslog = Syslog::new(options(addr, None)).unwrap();
    syslog.send_with(severity("error").unwrap(), b"bad").unwrap();
    let count = server.recv(&mut buffer).unwrap();
    check(&buffer[..count], "<187>", " nginx: bad");
    assert_eq!((facility("nope"), severity("nope")), (None, None));
}

#[test]
fn syslog_unix_server_restarts_messages_go_on() {
    let dir = scratch_dir("syslog");
    let path = dir.join("log");
    let syslog = Syslog::new(options(Addr::unix(&path), None)).unwrap();
    assert!(syslog.send(b"nobody there").is_err());
    for _ in 0..2 {
        let server = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        syslog.send(b"hello").unwrap();
        let mut buffer = [0; 500];
        let count = server.recv(&mut buffer).unwrap();
        check(&buffer[..count], "<190>", " nginx: hello");
        drop(server);
        std::fs::remove_file(&path).unwrap();
        assert!(syslog.send(b"gone").is_err());
    }
    std::fs::remove_dir_all(dir).unwrap();
}
