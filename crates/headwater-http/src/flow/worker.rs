//! A worker: one thread with its runtime, its connections and its copy of the configuration.
//!
//! Started by the binary, which tells it what to do through [`Command`]s. nginx's counterpart: `ngx_worker_process_cycle`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use headwater_io::listener::{Acceptor, ListenSocket};
use headwater_io::parked::{Event, Parked};
use headwater_io::timer::Timer;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::accept::{self, Idle};
use super::error_log::Level;
use crate::config::listen::ListenerKey;
use crate::config::{Conf, Generation};
use crate::upstream::{health, names};

/// What the master tells a worker.
pub enum Command {
    /// Use this configuration for new requests and listen on exactly these sockets.
    Configure {
        /// The configuration.
        conf: Arc<Conf>,
        /// The sockets; one that is new starts accepting, one that is gone stops.
        sockets: Vec<(ListenerKey, ListenSocket)>,
    },
    /// Stop accepting, close idle connections, finish the others (at most this long; `None`: no limit), then return.
    Quit(Option<Duration>),
    /// Return now.
    Stop,
}

/// Counters of one worker; only it writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections that were served rather than dropped.
    pub handled: AtomicU64,
    /// Requests.
    pub requests: AtomicU64,
    /// Connections now.
    pub active: AtomicI64,
    /// Connections whose request head is being read.
    pub reading: AtomicI64,
    /// Connections whose request is being answered.
    pub writing: AtomicI64,
}

/// One more in a gauge for as long as it lives, also when a panic ends what it counts.
pub(super) struct Raised<'g>(&'g AtomicI64);

impl<'g> Raised<'g> {
    pub(super) fn new(gauge: &'g AtomicI64) -> Self {
        Worker::gauge(gauge, 1);
        Self(gauge)
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        Worker::gauge(self.0, -1);
    }
}

/// The sum of all workers' counters.
#[derive(Debug, Default, Clone, Copy)]
#[allow(missing_docs, reason = "as in Counters")]
pub struct Totals {
    pub accepted: u64,
    pub handled: u64,
    pub requests: u64,
    pub active: u64,
    pub reading: u64,
    pub writing: u64,
    pub waiting: u64,
}

/// State shared by all workers.
#[derive(Default)]
pub struct Shared {
    workers: std::sync::Mutex<Vec<Arc<Counters>>>,
    connection_number: AtomicU64,
}

impl Shared {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn register(&self) -> Arc<Counters> {
        let counters = Arc::<Counters>::default();
        if let Ok(mut workers) = self.workers.lock() {
            workers.push(counters.clone());
        }
        counters
    }

    /// The sum of all workers' counters.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let gauge = |value: &AtomicI64| u64::try_from(value.load(Ordering::Relaxed)).unwrap_or(0);
        if let Ok(workers) = self.workers.lock() {
            for counters in workers.iter() {
                totals.accepted += counters.accepted.load(Ordering::Relaxed);
                totals.handled += counters.handled.load(Ordering::Relaxed);
                totals.requests += counters.requests.load(Ordering::Relaxed);
                totals.active += gauge(&counters.active);
                totals.reading += gauge(&counters.reading);
                totals.writing += gauge(&counters.writing);
            }
        }
        totals.waiting = totals.active.saturating_sub(totals.reading).saturating_sub(totals.writing);
        totals
    }

    pub(super) fn next_connection_number(&self) -> u64 {
        self.connection_number.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }
}

/// One worker's own state.
pub struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Client connections without a request, outside the runtime.
    pub(super) parked: Parked<Idle>,
    /// Whether it is finishing.
    pub draining: Cell<bool>,
    /// Client connections, parked ones included.
    pub(super) connections: Cell<usize>,
    /// Woken when a connection ends while draining.
    pub(super) ended: Notify,
    generation: RefCell<Rc<Generation>>,
    /// Timers that nobody uses.
    timers: RefCell<Vec<Timer>>,
    /// How many connections were parked when memory was given back last.
    parked_at_release: Cell<usize>,
}

/// How many timers are kept.
const SPARE_TIMERS: usize = 512;
/// How many more connections must have been parked before memory is given back again.
const RELEASE_STEP: usize = 256;

impl Worker {
    /// The present configuration.
    #[must_use]
    pub fn generation(&self) -> Rc<Generation> {
        self.generation.borrow().clone()
    }

    /// A timer that is not armed. One that was used before need not be queued again when it is armed, which is what these are kept for.
    pub(crate) fn timer(&self) -> Timer {
        self.timers.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a timer back.
    pub(crate) fn keep_timer(&self, timer: Timer) {
        timer.retire();
        let mut timers = self.timers.borrow_mut();
        if timers.len() < SPARE_TIMERS {
            timers.push(timer);
        }
    }

    /// Whether this is the present configuration.
    #[must_use]
    pub fn is_current(&self, generation: &Rc<Generation>) -> bool {
        Rc::ptr_eq(&self.generation.borrow(), generation)
    }

    /// Gives memory back to the system when many connections went idle since the last time: what their requests used is free now.
    pub(crate) fn release_memory(&self) {
        let parked = self.parked.len();
        let before = self.parked_at_release.get();
        let nothing_else = parked > before && parked == self.connections.get();
        if nothing_else || parked >= before.saturating_add(RELEASE_STEP) {
            headwater_io::alloc::release();
            self.parked_at_release.set(parked);
        } else if parked < before {
            self.parked_at_release.set(parked);
        }
    }

    /// Adds to one of the worker's gauges.
    pub fn gauge(gauge: &AtomicI64, by: i64) {
        gauge.store(gauge.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
    }

    /// Adds one to one of the worker's counters.
    pub fn count(counter: &AtomicU64) {
        counter.store(counter.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
    }
}

struct Listening {
    socket: ListenSocket,
    task: JoinHandle<()>,
}

/// Runs one worker on the calling thread until it is told to stop.
///
/// # Errors
/// When the runtime or the first sockets cannot be set up.
pub fn run(index: usize, mut commands: UnboundedReceiver<Command>, shared: Arc<Shared>) -> io::Result<()> {
    headwater_io::clock::start_turn();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(headwater_io::clock::start_turn)
        .build()?;
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async move {
        let Some(first) = commands.recv().await else { return Ok(()) };
        let Command::Configure { conf, sockets } = first else { return Ok(()) };
        let counters = shared.register();
        let worker = Rc::new(Worker {
            index,
            shared,
            counters,
            parked: Parked::new()?,
            draining: Cell::new(false),
            connections: Cell::new(0),
            ended: Notify::new(),
            generation: RefCell::new(Rc::new(Generation::new(conf))),
            timers: RefCell::default(),
            parked_at_release: Cell::new(0),
        });
        // Peers are shared, so one worker looks up their names; a configuration that is replaced takes its tasks with it.
        let keep_names = |worker: &Rc<Worker>| (worker.index == 0).then(|| names::keep(&worker.generation()));
        let mut names = keep_names(&worker);
        let mut checks = Some(health::keep(&worker));
        let mut listening = HashMap::new();
        listen(&worker, &mut listening, sockets);
        let unpark = spawn_local(unpark(worker.clone()));
        let janitor = spawn_local(crate::upstream::pool::janitor(worker.clone()));
        while let Some(command) = commands.recv().await {
            match command {
                Command::Configure { conf, sockets } => {
                    for group in &worker.generation().upstreams {
                        group.pool.retire();
                    }
                    drop(names.take());
                    *worker.generation.borrow_mut() = Rc::new(Generation::new(conf));
                    names = keep_names(&worker);
                    checks = Some(health::keep(&worker));
                    listen(&worker, &mut listening, sockets);
                }
                Command::Quit(limit) => {
                    drop(checks.take());
                    listen(&worker, &mut listening, Vec::new());
                    drain(&worker, limit, &mut commands).await;
                    break;
                }
                Command::Stop => break,
            }
        }
        listen(&worker, &mut listening, Vec::new());
        drop(names);
        drop(checks);
        unpark.abort();
        janitor.abort();
        crate::modules::flush_logs();
        Ok(())
    }))
}

/// Listens on exactly these sockets.
fn listen(
    worker: &Rc<Worker>,
    listening: &mut HashMap<ListenerKey, Listening>,
    sockets: Vec<(ListenerKey, ListenSocket)>,
) {
    listening.retain(|key, old| {
        let keep = sockets.iter().any(|(other, socket)| other == key && socket.same_as(&old.socket));
        if !keep {
            old.task.abort();
        }
        keep
    });
    for (key, socket) in sockets {
        if listening.contains_key(&key) {
            continue;
        }
        match Acceptor::new(&socket) {
            Ok(acceptor) => {
                let task = spawn_local(accept::accept_loop(worker.clone(), key.clone(), acceptor));
                listening.insert(key, Listening { socket, task });
            }
            Err(error) => {
                let text = super::os_error(&error);
                let log = worker.generation().main.error_log.clone();
                log.write(Level::Emerg, None, format_args!("listening on {key} failed {text}"));
            }
        }
    }
}

/// Waits until the last connection ended, the time is up, or the master has had enough.
async fn drain(worker: &Rc<Worker>, limit: Option<Duration>, commands: &mut UnboundedReceiver<Command>) {
    worker.draining.set(true);
    for (_, _, idle) in worker.parked.drain() {
        accept::forget(worker, &idle);
    }
    let time_up = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let told_to_stop = async {
        while let Some(command) = commands.recv().await {
            if matches!(command, Command::Stop) {
                return;
            }
        }
    };
    let all_ended = async {
        while worker.connections.get() > 0 {
            worker.ended.notified().await;
        }
    };
    tokio::select! {
        () = time_up => {}
        () = told_to_stop => {}
        () = all_ended => {}
    }
}

/// Brings parked connections back when they have something to say.
async fn unpark(worker: Rc<Worker>) {
    loop {
        match worker.parked.next().await {
            Ok(Event::Readable(stream, idle)) => accept::resume(&worker, stream, idle),
            Ok(Event::Expired(_, _, idle)) | Ok(Event::Lost(_, idle)) => accept::forget(&worker, &idle),
            Err(error) => {
                let text = super::os_error(&error);
                let log = worker.generation().main.error_log.clone();
                log.write(Level::Alert, None, format_args!("epoll_wait() failed {text}"));
                headwater_io::timer::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// Catches panics of a connection, so that one of our mistakes costs one connection.
pub(crate) struct CatchPanic<F>(pub(crate) Pin<Box<F>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.0.as_mut();
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(payload) => {
                let text = payload
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| payload.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "unknown reason".to_owned());
                Poll::Ready(Err(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_panic_is_caught_and_its_text_kept() {
        let outcome = CatchPanic(Box::pin(async { panic!("one {}", 1) })).await;
        assert_eq!(outcome.map(|()| ""), Err("one 1".to_owned()));
        assert_eq!(CatchPanic(Box::pin(async { 7 })).await, Ok(7));
    }
}
