//! Steady load against a server, and the count of what failed.
//!
//! Called by the reload test; calls [`crate::response`]. nginx counterpart: none.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::response;

/// Clients that ask again and again until told to stop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    served: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Starts `clients` threads that ask for `uri`, each on a keepalive connection of its own.
    ///
    /// A server may close an idle keepalive connection at any time, so a request that meets a connection closed
    /// before its first answer byte is repeated once on a new connection, as browsers do; all else is a failure.
    #[must_use]
    pub fn start(port: u16, uri: &str, clients: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..clients)
            .map(|_| {
                let (shared, uri) = (Arc::clone(&shared), uri.to_owned());
                thread::spawn(move || client(&shared, port, &uri))
            })
            .collect();
        Self { shared, clients }
    }

    /// How many requests were answered with 200 so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Stops the clients; how many requests were served and how many failed.
    #[must_use]
    pub fn stop(self) -> (u64, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.join();
        }
        (self.shared.served.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }
}

fn client(shared: &Shared, port: u16, uri: &str) {
    let request = format!("GET {uri} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut connection: Option<TcpStream> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let reused = connection.is_some();
        let outcome = exchange(&mut connection, port, &request);
        match outcome {
            Ok(true) => drop(shared.served.fetch_add(1, Ordering::Relaxed)),
            Err(error) if reused && is_early_close(&error) => connection = None,
            Ok(false) | Err(_) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                connection = None;
            }
        }
    }
}

fn is_early_close(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionAborted];
    kinds.contains(&error.kind())
}

/// One request; true when it was answered with 200. `ConnectionAborted`: closed before the first byte.
fn exchange(connection: &mut Option<TcpStream>, port: u16, request: &str) -> io::Result<bool> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    stream.write_all(request.as_bytes())?;
    let (mut received, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 && received.is_empty() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        received.extend_from_slice(&buffer[..count]);
        if let Some((response, _)) = response::parse(&received, false, count == 0) {
            if response.header("Connection") != Some("close") {
                *connection = Some(stream);
            }
            return Ok(response.status() == 200);
        }
        if count == 0 {
            return Ok(false);
        }
    }
}
