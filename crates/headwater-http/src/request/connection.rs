//! A client connection: its socket, its buffers, its counters. It lives and dies on one worker.
//!
//! Made by `flow::accept`; used by everything that reads from or writes to the client. nginx's counterpart: `ngx_connection_t`,
//! `ngx_http_connection_t`.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use headwater_io::addr::Addr;
use headwater_io::scratch::with_scratch;
use headwater_io::stream::Stream;
use headwater_io::timer::{Timer, with_timeout};
use headwater_wire::proxy_protocol::ProxyHeader;

use super::input::Input;
use crate::config::listen::ListenerKey;
use crate::flow::out_queue::OutQueue;
use crate::flow::worker::Worker;

/// What became of an attempt to read from a client.
#[derive(Debug)]
pub enum ReadError {
    /// The client closed its side.
    Closed,
    /// The time ran out.
    TimedOut,
    /// The socket failed.
    Failed(io::Error),
}

/// A client connection.
pub struct Connection {
    /// `$connection`.
    pub number: u64,
    /// The worker that owns it.
    pub worker: Rc<Worker>,
    /// The listening socket it came in on.
    pub listener: ListenerKey,
    /// The socket.
    pub stream: RefCell<Stream>,
    /// The client's address, as the socket or the PROXY protocol gives it.
    pub peer: Addr,
    /// The PROXY protocol's head, when the listener asks for it.
    pub proxy_protocol: OnceCell<ProxyHeader>,
    /// Bytes read from the client and not used yet.
    pub input: RefCell<Input>,
    /// Bytes to write to the client.
    pub out: RefCell<OutQueue>,
    /// For reading.
    pub read_timer: Timer,
    /// For writing.
    pub write_timer: Timer,
    /// How many requests it has served, the present one included.
    pub requests: Cell<u64>,
    /// When it was accepted.
    pub start: Instant,
    /// Bytes written over its life.
    pub sent: Cell<u64>,
    /// Whether the socket failed, so that nothing more can be sent.
    pub broken: Cell<bool>,
    /// Whether a write ran out of time (`reset_timedout_connection`).
    pub timed_out: Cell<bool>,
    /// Whether a response has begun on it, for the answer after a panic.
    pub response_started: Cell<bool>,
    /// Whether a further request arrived before the one before was answered.
    pub pipelined: Cell<bool>,
    /// Whether the present request was there when the one before ended (`$pipe`).
    pub came_early: Cell<bool>,
    /// How long it stays open without a request, by the location of the last one.
    pub keepalive_timeout: Cell<Option<Duration>>,
    /// Whether small packets leave at once (`tcp_nodelay`).
    pub nodelay: Cell<bool>,
    /// Whether a task waits for the socket to take more: one at a time does, the others wait for it.
    pub writing: Cell<bool>,
    /// Whether small packets are held back for the present response (`tcp_nopush`).
    pub corked: Cell<bool>,
    local: OnceCell<Addr>,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        listener: ListenerKey,
        stream: Stream,
        peer: Addr,
        number: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            number,
            worker,
            listener,
            stream: RefCell::new(stream),
            peer,
            proxy_protocol: OnceCell::new(),
            input: RefCell::default(),
            out: RefCell::default(),
            read_timer: Timer::new(),
            write_timer: Timer::new(),
            requests: Cell::new(0),
            start: headwater_io::clock::now(),
            sent: Cell::new(0),
            broken: Cell::new(false),
            timed_out: Cell::new(false),
            response_started: Cell::new(false),
            pipelined: Cell::new(false),
            came_early: Cell::new(false),
            keepalive_timeout: Cell::new(None),
            nodelay: Cell::new(true),
            writing: Cell::new(false),
            corked: Cell::new(false),
            local: OnceCell::new(),
        })
    }

    /// The address the client connected to.
    pub fn local(&self) -> &Addr {
        self.local.get_or_init(|| self.stream.borrow().local_addr().unwrap_or_else(|_| Addr::unnamed_unix()))
    }

    /// Reads once, appending to `input`; gives the number of bytes.
    pub async fn fill(&self, limit: Duration) -> Result<usize, ReadError> {
        match with_timeout(&self.read_timer, limit, self.fill_untimed()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ReadError::TimedOut),
        }
    }

    /// Reads once without a limit of its own.
    pub async fn fill_untimed(&self) -> Result<usize, ReadError> {
        let outcome = poll_fn(|cx| {
            with_scratch(|scratch| {
                let polled = self.stream.borrow_mut().poll_read(cx, scratch);
                if let Poll::Ready(Ok(length)) = polled {
                    self.input.borrow_mut().append(scratch.get(..length).unwrap_or_default());
                }
                polled
            })
        })
        .await;
        match outcome {
            Ok(0) => Err(ReadError::Closed),
            Ok(length) => Ok(length),
            Err(error) => Err(ReadError::Failed(error)),
        }
    }

    /// Drops bytes from the front of `input`.
    pub fn consume(&self, length: usize) {
        self.input.borrow_mut().consume(length);
    }

    /// Completes when the client closes its side or the socket fails; bytes that arrive meanwhile are kept for later (at most one
    /// buffer) and do not complete it.
    pub async fn closed(&self) {
        loop {
            if self.broken.get() || self.input.borrow().len() > crate::flow::connection::PIPELINE_LIMIT {
                // Enough is waiting: nothing more is read until the present request is done.
                return std::future::pending().await;
            }
            match self.fill_untimed().await {
                Ok(_) => self.pipelined.set(true),
                Err(_) => return,
            }
        }
    }
}
