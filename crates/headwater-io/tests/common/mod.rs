//! What the integration tests share: a worker to run in, and pairs of connected streams.
#![allow(dead_code)] // each test file uses a part

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::time::Duration;

use headwater_io::{Acceptor, Addr, ConnectOptions, ListenOptions, Stream, bind};

/// Runs a future as a worker would, for at most ten seconds.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(10), future).await };
    tokio::task::LocalSet::new().block_on(&runtime, limited).expect("test takes too long")
}

pub(crate) fn any_port() -> Addr {
    Addr::Inet("127.0.0.1:0".parse().unwrap())
}

/// A new empty directory for one test.
pub(crate) fn scratch_dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("headwater-io-it-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Client and server end of a connection to `addr`.
pub(crate) async fn pair_on(addr: Addr) -> (Stream, Stream) {
    let socket = bind(&ListenOptions::new(addr)).unwrap();
    let acceptor = Acceptor::new(&socket).unwrap();
    let client = Stream::connect(socket.addr(), &ConnectOptions::default()).await.unwrap();
    let (server, _) = acceptor.accept().await.unwrap();
    (client, server)
}

pub(crate) async fn pair() -> (Stream, Stream) {
    pair_on(any_port()).await
}

pub(crate) async fn read(stream: &mut Stream, size: usize) -> Vec<u8> {
    let mut buffer = vec![0; size];
    let count = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await.unwrap();
    buffer.truncate(count);
    buffer
}

pub(crate) async fn write(stream: &mut Stream, bytes: &[u8]) -> usize {
    poll_fn(|cx| stream.poll_write(cx, bytes)).await.unwrap()
}

/// Lets the reactor run.
pub(crate) async fn turn() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
