//! Listening and accepting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

mod common;

use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::time::Duration;

use common::{any_port, run, scratch_dir};
use headwater_io::{
    Acceptor, Addr, ConnectOptions, KeepaliveParams, ListenOptions, ListenSocket, Stream, bind,
};

#[test]
fn accept_many_on_two_workers_serves_all() {
    let socket = bind(&ListenOptions::new(any_port())).unwrap();
    let (report, reports) = mpsc::channel();
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            let (socket, report) = (socket.clone(), report.clone());
            std::thread::spawn(move || {
                run(async {
                    let acceptor = Acceptor::new(&socket).unwrap();
                    drop(socket);
                    loop {
                        let wait = Duration::from_millis(1500);
                        match tokio::time::timeout(wait, acceptor.accept()).await {
                            Ok(accepted) => report.send((worker, accepted.unwrap().1)).unwrap(),
                            Err(_) => return,
                        }
                    }
                });
            })
        })
        .collect();
    let clients: Vec<_> =
        (0..50).map(|_| std::net::TcpStream::connect(socket.addr().inet().unwrap()).unwrap()).collect();
    drop(report);
    let mut got: Vec<Addr> = reports.iter().map(|(_, peer)| peer).collect();
    let mut want: Vec<Addr> = clients.iter().map(|client| client.local_addr().unwrap().into()).collect();
    got.sort_by_key(Addr::port);
    want.sort_by_key(Addr::port);
    assert_eq!(got, want);
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn bind_taken_port_is_an_error_unless_reuseport() {
    let mut options = ListenOptions::new(any_port());
    options.reuseport = true;
    let first = bind(&options).unwrap();
    options.addr = first.addr().clone();
    let second = bind(&options).unwrap();
    assert_eq!(first.addr(), second.addr());
    options.reuseport = false;
    assert_eq!(bind(&options).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn bind_all_options_apply() {
    let mut options = ListenOptions::new(any_port());
    options.rcvbuf = Some(20_000);
    options.sndbuf = Some(20_000);
    options.fastopen = Some(16);
    options.deferred = true;
    options.keepalive = Some(KeepaliveParams { on: true, idle: Some(77), intvl: None, cnt: None });
    let socket = bind(&options).unwrap();
    assert_eq!(rustix::net::sockopt::tcp_keepidle(socket.as_fd()).unwrap(), Duration::from_secs(77));
    assert_eq!(rustix::net::sockopt::socket_recv_buffer_size(socket.as_fd()).unwrap(), 40_000);
    socket.relisten(10).unwrap();
}

#[test]
fn bind_v6_is_v6_only_by_default() {
    // Somebody else may have a port of that number in IPv4; not all of these numbers.
    let bound = (0..20).any(|_| {
        let options = ListenOptions::new(Addr::Inet("[::]:0".parse().unwrap()));
        let socket = match bind(&options) {
            Ok(socket) => socket,
            // There are hosts without IPv6.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
                return true;
            }
        };
        assert!(rustix::net::sockopt::ipv6_v6only(socket.as_fd()).unwrap());
        let same_port = Addr::Inet(format!("0.0.0.0:{}", socket.addr().port()).parse().unwrap());
        bind(&ListenOptions::new(same_port)).is_ok()
    });
    assert!(bound, "the IPv6 wildcard takes the IPv4 one's ports");
}

#[test]
fn unix_path_is_public_and_removed_with_the_last_handle() {
    let dir = scratch_dir("listen-unix");
    let path = dir.join("socket");
    let options = ListenOptions::new(Addr::unix(&path));
    let socket = bind(&options).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    let clone = socket.try_clone().unwrap();
    drop(socket);
    assert!(path.exists());
    assert_eq!(bind(&options).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(path.exists(), "a failed bind leaves the other's path alone");
    drop(clone);
    assert!(!path.exists());
    let kept = bind(&options).unwrap();
    kept.keep_path();
    drop(kept);
    assert!(path.exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn from_fd_inherited_socket_accepts() {
    run(async {
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = ListenSocket::from_fd(plain.into()).unwrap();
        socket.set_inheritable(true).unwrap();
        socket.set_inheritable(false).unwrap();
        let acceptor = Acceptor::new(&socket).unwrap();
        let client = Stream::connect(socket.addr(), &ConnectOptions::default()).await.unwrap();
        let (server, peer) = acceptor.accept().await.unwrap();
        assert_eq!(
            (peer, server.local_addr().unwrap()),
            (client.local_addr().unwrap(), socket.addr().clone())
        );
    });
}
