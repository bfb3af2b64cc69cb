//! The resolver's driver with a real name server on loopback, over IPv6 where there is any.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use headwater_io::resolver::{ResolveError, Resolver, ResolverOptions};
use tokio::task::LocalSet;

const A: u16 = 1;
const SRV: u16 = 33;

/// A name server that gives everybody 127.0.0.1 and every service port 8080 at `target.test`; it is silent about names with `silent` in them.
fn serve() -> SocketAddr {
    let socket = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[12..length];
            if question.windows(6).any(|part| part == b"silent") {
                continue;
            }
            let kind = u16::from_be_bytes([buffer[length - 4], buffer[length - 3]]);
            let data: &[u8] = match kind {
                A => &[127, 0, 0, 1],
                SRV => b"\0\x05\0\x02\x1f\x90\x06target\x04test\0",
                _ => &[],
            };
            let count = u8::from(!data.is_empty());
            let mut answer = [&buffer[..2], &[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
            if count > 0 {
                answer.extend_from_slice(&[0xc0, 12]);
                answer.extend_from_slice(&kind.to_be_bytes());
                answer.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
                answer.extend_from_slice(data);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    address
}

fn resolver() -> Rc<Resolver> {
    let options = ResolverOptions { servers: vec![serve()], valid: None, ipv4: true, ipv6: true };
    Resolver::new(&options, Box::new(|text| panic!("logged: {text}")))
}

const LIMIT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "current_thread")]
async fn names_and_services_are_resolved_through_sockets() {
    let run = async {
        let resolver = resolver();
        for _ in 0..2 {
            let found = resolver.addresses(b"A.test", LIMIT).await.unwrap();
            assert_eq!(found.addresses, [IpAddr::from([127, 0, 0, 1])]);
            assert!((59..=60).contains(&found.valid));
        }
        let found = resolver.services("http", "a.test", LIMIT).await.unwrap();
        let target = &found.targets[0];
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!((&*target.name, target.priority, target.weight), ("target.test", 5, 2));
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(flavor = "current_thread")]
async fn silence_ends_with_the_time_limit() {
    let run = async {
        let resolver = resolver();
        let outcome = resolver.addresses(b"silent.test", Duration::from_millis(100)).await;
        assert_eq!(outcome, Err(ResolveError::TimedOut));
        assert_eq!(resolver.addresses(b"a..test", LIMIT).await, Err(ResolveError::NotFound));
        let digits = resolver.addresses(b"10.1.2.3", LIMIT).await.unwrap();
        assert_eq!(digits.addresses, [IpAddr::from([10, 1, 2, 3])]);
    };
    LocalSet::new().run_until(run).await;
}
