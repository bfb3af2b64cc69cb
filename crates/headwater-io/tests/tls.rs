//! TLS sessions over sockets: whatever way the records travel, the bytes are the same.
//!
//! The peer is rustls' own server on a blocking socket. Certificates are accepted unseen: what they must be is the business of others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::run;
use headwater_io::stream::{Stream, StreamKind};
use headwater_io::tls::HandshakeError;
use headwater_testkit::certificates;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};

/// Accepts anything.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A socket that gives and takes few bytes at a time, of changing number.
struct Pieces {
    socket: std::net::TcpStream,
    sizes: Vec<usize>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buf)
    }
}

impl Write for Pieces {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let size = self.sizes[self.at % self.sizes.len()].min(buf.len());
        self.at += 1;
        let sent = self.socket.write(&buf[..size])?;
        if self.at.is_multiple_of(64) {
            // Lets the other side read what there is.
            thread::sleep(Duration::from_micros(200));
        }
        Ok(sent)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

type Server = StreamOwned<ServerConnection, Pieces>;

/// Starts a server that does `job` on one connection, and gives the connected socket.
fn serve<R: Send + 'static>(
    sizes: &[usize],
    job: impl FnOnce(&mut Server) -> R + Send + 'static,
) -> (OwnedFd, JoinHandle<R>) {
    let directory = certificates::directory().unwrap();
    let chain = vec![CertificateDer::from_pem_file(directory.join("ec.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(directory.join("ec.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sizes = sizes.to_vec();
    let server = thread::spawn(move || {
        let socket = listener.accept().unwrap().0;
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        job(&mut StreamOwned::new(connection, Pieces { socket, sizes, at: 0 }))
    });
    let client = std::net::TcpStream::connect(address).unwrap();
    client.set_nonblocking(true).unwrap();
    (client.into(), server)
}

async fn connect(socket: OwnedFd) -> Result<Stream, HandshakeError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    let stream = Stream::from_fd(socket, StreamKind::Tcp).unwrap();
    stream.handshake(Arc::new(config), ServerName::try_from("localhost").unwrap()).await
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

async fn read_all(stream: &mut Stream, sizes: &[usize]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for size in sizes.iter().cycle() {
        let mut buf = vec![0; *size];
        match poll_fn(|cx| stream.poll_read(cx, &mut buf)).await? {
            0 => break,
            length => all.extend_from_slice(&buf[..length]),
        }
    }
    Ok(all)
}

#[test]
fn any_split_of_records_and_any_buffer_give_the_same_bytes() {
    let sent = bytes(700_000);
    for (pieces, buffers) in [
        (&[1_000_000][..], &[131_072][..]),
        (&[7, 5000, 1, 300][..], &[131_072][..]),
        (&[16_000, 3][..], &[131_072, 10, 50_000][..]),
        (&[1_000_000][..], &[100, 40_960, 4000][..]),
    ] {
        let copy = sent.clone();
        let (socket, server) = serve(pieces, move |tls| {
            tls.write_all(&copy).unwrap();
            tls.conn.send_close_notify();
            tls.flush().unwrap();
        });
        run(async {
            let mut stream = connect(socket).await.unwrap();
            assert!(stream.is_tls() && !stream.is_unix());
            let got = read_all(&mut stream, buffers).await.unwrap();
            assert!(got == sent, "{pieces:?} {buffers:?}: {} bytes", got.len());
        });
        server.join().unwrap();
    }
}

#[test]
fn all_ways_of_writing_arrive_in_order_and_the_end_is_announced() {
    let sent = bytes(3_000_000);
    let (socket, server) = serve(&[1_000_000], |tls| {
        // So that writing has to wait.
        tls.write_all(b"go").unwrap();
        tls.flush().unwrap();
        thread::sleep(Duration::from_millis(100));
        let mut got = Vec::new();
        // A cut connection would be an error.
        tls.read_to_end(&mut got).unwrap();
        got
    });
    let path = std::env::temp_dir().join(format!("headwater-tls-{}", std::process::id()));
    std::fs::write(&path, &sent[1_000_000..2_500_000]).unwrap();
    run(async {
        let mut stream = connect(socket).await.unwrap();
        let mut go = vec![0; 131_072];
        assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut go)).await.unwrap(), 2);
        let mut at = 0;
        while at < 1_000_000 {
            let (one, two) = sent[at..1_000_000].split_at((1_000_000 - at).min(999));
            let parts = [IoSlice::new(one), IoSlice::new(two)];
            // One that does not wait is followed by one that does, with the same bytes.
            at += match stream.try_write_vectored(&parts) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll_fn(|cx| stream.poll_write_vectored(cx, &parts)).await.unwrap()
                }
                written => written.unwrap(),
            };
        }
        let file = File::open(&path).unwrap();
        let mut offset = 0;
        while poll_fn(|cx| stream.poll_sendfile(cx, &file, &mut offset, 1 << 20)).await.unwrap() > 0 {}
        assert_eq!(offset, 1_500_000);
        let mut at = 2_500_000;
        while at < sent.len() {
            at += poll_fn(|cx| stream.poll_write(cx, &sent[at..])).await.unwrap();
        }
    });
    std::fs::remove_file(path).unwrap();
    assert!(server.join().unwrap() == sent);
}

#[test]
fn tickets_leave_a_connection_idle_and_data_and_the_end_do_not() {
    let (socket, server) = serve(&[1_000_000], |tls| {
        let mut buf = [0; 1];
        for answer in [&b"a"[..], b"bc"] {
            tls.read_exact(&mut buf).unwrap();
            tls.write_all(answer).unwrap();
        }
        tls.read_exact(&mut buf).unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        thread::sleep(Duration::from_millis(300));
    });
    run(async {
        let pause = || tokio::time::sleep(Duration::from_millis(50));
        let mut stream = connect(socket).await.unwrap();
        let mut buf = vec![0; 131_072];
        poll_fn(|cx| stream.poll_write(cx, b"1")).await.unwrap();
        assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut buf)).await.unwrap(), 1);
        pause().await;
        // The tickets of TLS 1.3 are there by now.
        assert!(stream.looks_idle());
        stream = stream.rehome().unwrap();
        assert!(stream.looks_idle());
        poll_fn(|cx| stream.poll_write(cx, b"2")).await.unwrap();
        pause().await;
        assert_eq!(stream.try_peek(&mut buf).unwrap(), 2);
        assert!(!stream.looks_idle());
        poll_fn(|cx| stream.poll_read_ready(cx)).await.unwrap();
        assert_eq!(stream.try_read(&mut buf[..1]).unwrap(), 1);
        assert!(!stream.looks_idle());
        assert_eq!(stream.try_read(&mut buf).unwrap(), 1);
        assert_eq!(&buf[..1], b"c");
        assert_eq!(stream.try_read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(stream.looks_idle());
        poll_fn(|cx| stream.poll_write(cx, b"3")).await.unwrap();
        pause().await;
        assert!(!stream.looks_idle());
        assert_eq!(poll_fn(|cx| stream.poll_read(cx, &mut buf)).await.unwrap(), 0);
        assert_eq!(stream.into_std_fd().unwrap_err().kind(), ErrorKind::InvalidInput);
    });
    server.join().unwrap();
}

#[test]
fn a_peer_that_is_no_tls_or_goes_away_is_an_error() {
    for (answer, closed) in [(&b"HTTP/1.1 200 OK\r\n\r\n"[..], false), (b"", true)] {
        let (socket, server) = serve(&[1000], move |tls| {
            let mut hello = [0; 5];
            tls.sock.read_exact(&mut hello).unwrap();
            tls.sock.socket.write_all(answer).unwrap();
            let _ = tls.sock.socket.shutdown(std::net::Shutdown::Write);
            let _ = tls.sock.read_to_end(&mut Vec::new());
        });
        run(async {
            match connect(socket).await {
                Err(HandshakeError::Closed) => assert!(closed),
                Err(HandshakeError::Tls(error)) => assert!(!closed, "{error}"),
                other => panic!("{other:?}"),
            }
        });
        server.join().unwrap();
    }
}

#[test]
fn a_record_that_was_changed_on_its_way_is_an_error() {
    let (socket, server) = serve(&[1_000_000], |tls| {
        tls.write_all(b"fine").unwrap();
        tls.flush().unwrap();
        tls.sock
            .socket
            .write_all(&[
                0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
            ])
            .unwrap();
        thread::sleep(Duration::from_millis(100));
    });
    run(async {
        let mut stream = connect(socket).await.unwrap();
        assert_eq!(read_all(&mut stream, &[131_072]).await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(!stream.looks_idle());
    });
    server.join().unwrap();
}
