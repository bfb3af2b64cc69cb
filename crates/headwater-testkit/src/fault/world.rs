//! A server with its scripted back ends, and clients that play cells through it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::fault::backend::{Backend, Record, refusing, stuck};
use headwater_testkit::fault::client::{self, Seen};
use headwater_testkit::fault::script::Script;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::template::Template;
use socket2::Socket;

use crate::matrix::{CONF, Cell};

const NEXT: &str =
    "proxy_next_upstream error timeout invalid_header http_502 non_idempotent; proxy_next_upstream_tries 2;";

/// What came of a cell: what the client saw, and what the back ends were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) seen: Seen,
    pub(crate) asked: Vec<String>,
}

/// A server and what belongs to it.
pub(crate) struct World {
    server: Server,
    port: u16,
    record: Arc<Record>,
    number: AtomicU32,
    _backends: [Backend; 2],
    _sockets: Vec<Socket>,
    dir: TempDir,
}

impl World {
    pub(crate) fn start(binary: &Path, is_headwater: bool, scripts: &Arc<Vec<Script>>) -> io::Result<Self> {
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
        let server = Server::start(binary, CONF, &mut template, port, Mode::Single)?;
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

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Plays cells with so many clients at a time; the outcomes are in the order of the cells.
    pub(crate) fn play(&self, cells: &[Cell], threads: usize) -> Vec<Outcome> {
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

    /// Plays one cell.
    pub(crate) fn one(&self, cell: &Cell) -> Outcome {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        let seen = client::ask(self.port, &uri(cell, number), cell.client).expect("the server accepts");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{} took {took:?}", cell.name);
        Outcome { seen, asked: self.record.take(number) }
    }

    /// Asks, and leaves without an answer.
    pub(crate) fn leave(&self, cell: &Cell, after: Duration) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        client::leave(self.port, &uri(cell, number), after).expect("the server accepts");
    }

    /// Number of files in the directories for temporary files.
    pub(crate) fn temp_files(&self) -> usize {
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

fn uri(cell: &Cell, number: u32) -> String {
    format!("/{}/{number}/{}", cell.mode, cell.script)
}
