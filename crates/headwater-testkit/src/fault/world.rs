//! A server with its scripted back ends, and clients that play cells through it.
//!
//! Called by the fault tests. nginx counterpart: none.

#![allow(clippy::expect_used, reason = "what does not work fails the test")]

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::backend::{Backend, Record, refusing, stuck};
use super::client::{self, Seen};
use super::script::Script;
use crate::server::{Mode, Server, TempDir};
use crate::template::Template;
use socket2::Socket;

use super::matrix::{Cell, NEXT};

/// What came of a cell: what the client saw, and what the back ends were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the client saw.
    pub seen: Seen,
    /// One text per request that a back end read, and per body.
    pub asked: Vec<String>,
}

/// A server and what belongs to it.
#[derive(Debug)]
pub struct World {
    server: Server,
    port: u16,
    record: Arc<Record>,
    number: AtomicU32,
    _backends: [Backend; 2],
    _sockets: Vec<Socket>,
    dir: TempDir,
}

impl World {
    /// Starts a server on a configuration with the placeholders of the matrix.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(
        binary: &Path,
        conf: &str,
        is_headwater: bool,
        scripts: &Arc<Vec<Script>>,
    ) -> io::Result<Self> {
        let record = Arc::new(Record::default());
        let backends = [
            Backend::start("A", Arc::clone(scripts), Arc::clone(&record))?,
            Backend::start("B", Arc::clone(scripts), Arc::clone(&record))?,
        ];
        let (dead, dead_port) = refusing()?;
        let (mut sockets, stuck_port) = stuck()?;
        sockets.push(dead);
        let dir = TempDir::new()?;
        let mut template = Template::new(dir.path());
        template.set("A", backends[0].port());
        template.set("B", backends[1].port());
        template.set("DEAD", dead_port);
        template.set("STUCK", stuck_port);
        template.set("NEXT", NEXT);
        // Older nginx keeps connections only when asked to.
        template.set("NOT_KEPT", if is_headwater { "keepalive 0;" } else { "" });
        let port = template.port("8080")?;
        let server = Server::start(binary, conf, &mut template, port, Mode::Single)?;
        Ok(Self {
            server,
            port,
            record,
            number: AtomicU32::new(0),
            _backends: backends,
            _sockets: sockets,
            dir,
        })
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Plays cells with so many clients at a time; numbers and outcomes are in the order of the cells.
    ///
    /// # Panics
    /// When the server does not accept, or hangs.
    #[must_use]
    pub fn play(&self, cells: &[Cell], threads: usize) -> Vec<(u32, Outcome)> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(cells.len()));
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((at, cell)) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cells.get(at)?)))
                    {
                        let outcome = self.one(cell);
                        done.lock().expect("no client panicked").push((at, outcome));
                    }
                });
            }
        });
        let mut done = done.into_inner().expect("no client panicked");
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Plays one cell; its number and what came of it.
    ///
    /// # Panics
    /// When the server does not accept, or hangs.
    #[must_use]
    pub fn one(&self, cell: &Cell) -> (u32, Outcome) {
        let number = self.next_number();
        let start = Instant::now();
        let seen = client::ask(self.port, &uri(cell, number, ""), cell.client).expect("the server accepts");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{} took {took:?}", cell.name);
        (number, Outcome { seen, asked: self.record.take(number) })
    }

    /// A number for a further cell.
    pub fn next_number(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's error log.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.read("error.log")
    }

    /// Asks, and leaves without an answer; gives the cell's number.
    pub fn leave(&self, cell: &Cell, after: Duration) -> u32 {
        self.leave_with(cell, "", after)
    }

    /// The same with arguments behind the URI.
    ///
    /// # Panics
    /// When the server does not accept.
    pub fn leave_with(&self, cell: &Cell, args: &str, after: Duration) -> u32 {
        let number = self.next_number();
        client::leave(self.port, &uri(cell, number, args), after).expect("the server accepts");
        number
    }

    /// Number of files in the directories for temporary files.
    #[must_use]
    pub fn temp_files(&self) -> usize {
        fn count(dir: &Path) -> usize {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        let entries = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().ends_with("_temp"))
            .map(|entry| count(&entry.path()))
            .sum()
    }
}

fn uri(cell: &Cell, number: u32, args: &str) -> String {
    format!("/{}/{number}/{}{args}", cell.mode, cell.script)
}
