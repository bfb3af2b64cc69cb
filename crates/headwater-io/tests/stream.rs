//! Streams over TCP and Unix sockets on this host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

mod common;

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice, Write as _};
use std::os::fd::AsFd as _;
use std::task::Poll;

use common::{any_port, pair, pair_on, read, run, scratch_dir, turn, write};
use headwater_io::connect::SetupError;
use headwater_io::{Addr, ConnectOptions, KeepaliveParams, ListenOptions, Stream, StreamKind, bind};

#[test]
fn read_write_tcp_round_trips() {
    run(async {
        let (mut client, mut server) = pair().await;
        assert_eq!(write(&mut client, b"hello").await, 5);
        assert_eq!(read(&mut server, 100).await, b"hello");
        let parts = [IoSlice::new(b"a"), IoSlice::new(b"bc")];
        assert_eq!(poll_fn(|cx| server.poll_write_vectored(cx, &parts)).await.unwrap(), 3);
        assert_eq!(read(&mut client, 2).await, b"ab");
        assert_eq!(read(&mut client, 2).await, b"c");
        assert_eq!(server.try_write_vectored(&parts).unwrap(), 3);
        assert_eq!(server.try_write(b"d").unwrap(), 1);
        server.shutdown_write().unwrap();
        turn().await;
        assert_eq!(read(&mut client, 100).await, b"abcd");
        assert_eq!(read(&mut client, 100).await, b"");
        assert_eq!(client.kind(), StreamKind::Tcp);
    });
}

#[test]
fn addresses_of_both_ends_agree() {
    run(async {
        let (client, server) = pair().await;
        assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(client.peer_addr().unwrap(), server.local_addr().unwrap());
        assert!(client.tcp_info().unwrap().snd_cwnd > 0);
    });
}

#[test]
fn unix_stream_has_unnamed_peer() {
    run(async {
        let dir = scratch_dir("stream-unix");
        let path = dir.join("s");
        let (mut client, mut server) = pair_on(Addr::unix(&path)).await;
        assert!(!path.exists(), "the path goes with the listener");
        assert_eq!(server.peer_addr().unwrap(), Addr::unnamed_unix());
        assert_eq!(server.local_addr().unwrap(), Addr::unix(&path));
        assert_eq!((server.kind(), server.tcp_info()), (StreamKind::Unix, None));
        server.set_nodelay(true).unwrap();
        server.set_cork(true).unwrap();
        write(&mut client, b"x").await;
        assert_eq!(read(&mut server, 9).await, b"x");
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn options_apply_without_error() {
    run(async {
        let (client, server) = pair().await;
        server.set_nodelay(true).unwrap();
        server.set_cork(true).unwrap();
        server.set_cork(false).unwrap();
        server.set_sndbuf(65536).unwrap();
        server.set_rcvbuf(65536).unwrap();
        let keepalive = KeepaliveParams { on: true, idle: Some(30), intvl: Some(5), cnt: Some(3) };
        server.set_keepalive(&keepalive).unwrap();
        let fd = server.as_fd();
        assert_eq!(rustix::net::sockopt::tcp_keepcnt(fd).unwrap(), 3);
        assert!(rustix::net::sockopt::tcp_nodelay(fd).unwrap());
        drop(client);
    });
}

#[test]
fn sendfile_larger_than_the_socket_buffer_sends_all() {
    run(async {
        let dir = scratch_dir("sendfile");
        let path = dir.join("f");
        let data: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::File::create(&path).unwrap().write_all(&data).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let (mut client, mut server) = pair().await;
        let length = data.len();
        let sender = tokio::task::spawn_local(async move {
            let mut offset = 10;
            loop {
                let sent = poll_fn(|cx| server.poll_sendfile(cx, &file, &mut offset, length)).await.unwrap();
                if sent == 0 {
                    return offset;
                }
            }
        });
        let mut got = Vec::new();
        loop {
            let part = read(&mut client, 100_000).await;
            if part.is_empty() {
                break;
            }
            got.extend_from_slice(&part);
        }
        assert_eq!(sender.await.unwrap(), length as u64);
        assert!(got == data[10..]);
        std::fs::remove_dir_all(dir).unwrap();
    });
}

#[test]
fn looks_idle_follows_data_and_close() {
    run(async {
        let (mut client, mut server) = pair().await;
        turn().await;
        assert!(client.looks_idle());
        write(&mut server, b"ab").await;
        turn().await;
        assert!(!client.looks_idle());
        // A read that fills its buffer leaves readiness on; the look must see past that.
        assert_eq!(read(&mut client, 2).await, b"ab");
        assert!(client.looks_idle());
        drop(server);
        turn().await;
        assert!(!client.looks_idle());
    });
}

#[test]
fn peek_leaves_the_data() {
    run(async {
        let (mut client, mut server) = pair().await;
        let mut byte = [0; 1];
        assert_eq!(server.try_peek(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
        write(&mut client, b"\x16\x03").await;
        assert_eq!(poll_fn(|cx| server.poll_peek(cx, &mut byte)).await.unwrap(), 1);
        assert_eq!(byte[0], 0x16);
        assert_eq!(read(&mut server, 9).await, b"\x16\x03");
    });
}

#[test]
fn connect_refused_is_an_error() {
    run(async {
        let socket = bind(&ListenOptions::new(any_port())).unwrap();
        let addr = socket.addr().clone();
        drop(socket);
        let error = Stream::connect(&addr, &ConnectOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error =
            Stream::connect(&Addr::unix("/no/such/socket"), &ConnectOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn connect_local_address_is_used() {
    run(async {
        let socket = bind(&ListenOptions::new(any_port())).unwrap();
        let options = ConnectOptions {
            local: Some("127.0.0.2:0".parse().unwrap()),
            keepalive: true,
            sndbuf: Some(32768),
            rcvbuf: Some(32768),
            ..ConnectOptions::default()
        };
        let stream = Stream::connect(socket.addr(), &options).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), Some("127.0.0.2".parse().unwrap()));
        let socket = socket2::SockRef::from(&stream);
        // The kernel doubles what it is asked for, for its own bookkeeping.
        assert_eq!((socket.send_buffer_size().unwrap(), socket.recv_buffer_size().unwrap()), (65536, 65536));
    });
}

#[test]
fn connect_transparent_sets_the_option_when_that_is_allowed() {
    run(async {
        let socket = bind(&ListenOptions::new(any_port())).unwrap();
        let options = ConnectOptions {
            local: Some("127.0.0.2:0".parse().unwrap()),
            transparent: true,
            ..ConnectOptions::default()
        };
        match Stream::connect(socket.addr(), &options).await {
            Ok(stream) => assert!(socket2::SockRef::from(&stream).ip_transparent_v4().unwrap()),
            Err(error) => {
                let setup = SetupError::of(&error).expect("a failure before connecting");
                assert_eq!(setup.call, "setsockopt(IP_TRANSPARENT)");
                assert_eq!(setup.error.kind(), ErrorKind::PermissionDenied);
            }
        }
    });
}

#[test]
fn connect_local_address_of_another_host_is_refused_before_connecting() {
    run(async {
        let socket = bind(&ListenOptions::new(any_port())).unwrap();
        let local = Some("203.0.113.7:0".parse().unwrap());
        let options = ConnectOptions { local, ..ConnectOptions::default() };
        let error = Stream::connect(socket.addr(), &options).await.unwrap_err();
        let setup = SetupError::of(&error).expect("a failure before connecting");
        assert_eq!((setup.to_string().as_str(), setup.error.raw_os_error()), ("bind failed", Some(99)));
    });
}

#[test]
fn into_fd_moves_to_another_worker() {
    let (fd, kind, mut client) = run(async {
        let (client, server) = pair().await;
        let kind = server.kind();
        (server.into_std_fd().unwrap(), kind, std::net::TcpStream::from(client.into_std_fd().unwrap()))
    });
    client.set_nonblocking(false).unwrap();
    client.write_all(b"moved").unwrap();
    std::thread::spawn(move || {
        run(async {
            let mut server = Stream::from_fd(fd, kind).unwrap();
            assert_eq!(read(&mut server, 9).await, b"moved");
        });
    })
    .join()
    .unwrap();
}

#[test]
fn from_fd_without_runtime_is_an_error() {
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    assert!(Stream::from_fd(one.into(), StreamKind::Unix).is_err());
}

#[test]
fn linger_zero_resets_the_connection() {
    run(async {
        let (mut client, server) = pair().await;
        server.set_linger_zero().unwrap();
        drop(server);
        turn().await;
        let mut buffer = [0; 8];
        let error = poll_fn(|cx| client.poll_read(cx, &mut buffer)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn write_full_socket_waits_for_the_reader() {
    run(async {
        let (mut client, mut server) = pair().await;
        let block = vec![1u8; 1 << 20];
        let mut sent = 0;
        loop {
            let poll = poll_fn(|cx| Poll::Ready(client.poll_write(cx, &block))).await;
            match poll {
                Poll::Ready(count) => sent += count.unwrap(),
                Poll::Pending => break,
            }
        }
        assert_eq!(client.try_write(&block).unwrap_err().kind(), ErrorKind::WouldBlock);
        let writer = tokio::task::spawn_local(async move { write(&mut client, b"end").await });
        let mut got = 0;
        while got < sent + 3 {
            got += read(&mut server, 1 << 20).await.len();
        }
        assert_eq!((writer.await.unwrap(), got), (3, sent + 3));
    });
}

#[test]
fn read_short_forgets_readiness_so_that_no_probe_follows() {
    run(async {
        let (mut client, mut server) = pair().await;
        write(&mut client, b"abc").await;
        assert_eq!(read(&mut server, 100).await, b"abc");
        let ready = poll_fn(|cx| Poll::Ready(server.poll_read_ready(cx).is_ready())).await;
        assert!(!ready);
    });
}
