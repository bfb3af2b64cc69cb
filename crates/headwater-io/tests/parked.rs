//! Parked connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

mod common;

use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{pair, read, run, turn, write};
use headwater_io::parked::MAX_LATENESS;
use headwater_io::{Event, Parked};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn readable_connection_comes_back_with_its_payload() {
    run(async {
        let parked = Rc::new(Parked::new().unwrap());
        let (mut client, server) = pair().await;
        let (_other, idle) = pair().await;
        parked.park(server, Instant::now() + LONG, "one").unwrap();
        parked.park(idle, Instant::now() + LONG, "two").unwrap();
        let waiting = tokio::task::spawn_local({
            let parked = parked.clone();
            async move { parked.next().await.unwrap() }
        });
        turn().await;
        write(&mut client, b"GET").await;
        let Event::Readable(mut stream, payload) = waiting.await.unwrap() else { panic!("not readable") };
        assert_eq!((read(&mut stream, 9).await, payload, parked.len()), (b"GET".to_vec(), "one", 1));
        parked.park(stream, Instant::now() + LONG, "again").unwrap();
        drop(client);
        let Event::Readable(mut stream, payload) = parked.next().await.unwrap() else {
            panic!("not readable")
        };
        assert_eq!((read(&mut stream, 9).await, payload), (Vec::new(), "again"));
        assert_eq!(parked.drain().len(), 1);
        assert!(parked.is_empty());
    });
}

#[test]
fn data_before_parking_is_reported() {
    run(async {
        let parked = Parked::new().unwrap();
        let (mut client, server) = pair().await;
        write(&mut client, b"x").await;
        turn().await;
        parked.park(server, Instant::now() + LONG, ()).unwrap();
        assert!(matches!(parked.next().await.unwrap(), Event::Readable(..)));
    });
}

#[test]
fn deadlines_expire_in_order_and_on_time() {
    run(async {
        let parked = Parked::new().unwrap();
        let start = Instant::now();
        let mut clients = Vec::new();
        for ms in [700u64, 300, 60_000] {
            let (client, server) = pair().await;
            clients.push(client);
            parked.park(server, start + Duration::from_millis(ms), ms).unwrap();
        }
        for want in [300, 700] {
            let Event::Expired(_, _, ms) = parked.next().await.unwrap() else { panic!("not expired") };
            let took = start.elapsed();
            assert_eq!(ms, want);
            let limit = Duration::from_millis(ms) + MAX_LATENESS + Duration::from_millis(150);
            assert!(took >= Duration::from_millis(ms) && took < limit, "{ms} {took:?}");
        }
        assert_eq!(parked.len(), 1);
        let (_, _, ms) = parked.take_oldest().unwrap();
        assert_eq!((ms, parked.take_oldest().is_none()), (60_000, true));
    });
}

#[test]
fn many_connections_with_one_deadline_all_leave() {
    run(async {
        let parked = Parked::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(800);
        let mut clients = Vec::new();
        for index in 0..300usize {
            let (client, server) = pair().await;
            clients.push(Some(client));
            parked.park(server, deadline, index).unwrap();
        }
        let mut left = vec![0u8; 300];
        for client in clients.iter_mut().skip(1).step_by(2) {
            *client = None;
        }
        for _ in 0..300 {
            match parked.next().await.unwrap() {
                Event::Readable(_, index) if index % 2 == 1 => left[index] += 1,
                Event::Expired(_, _, index) if index % 2 == 0 => left[index] += 1,
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(left.iter().all(|count| *count == 1));
        assert!(parked.is_empty());
    });
}
