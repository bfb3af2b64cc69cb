//! Accepting connections, parking idle ones and bringing them back.
//!
//! Called by `flow::worker`; hands connections to `flow::connection`. nginx's counterpart: `ngx_event_accept`,
//! `ngx_http_init_connection`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use headwater_io::addr::Addr;
use headwater_io::listener::{Acceptor, is_out_of_descriptors};
use headwater_io::stream::Stream;
use headwater_wire::proxy_protocol::ProxyHeader;
use tokio::task::spawn_local;

use super::connection::{After, serve};
use super::error_log::Level;
use super::worker::{CatchPanic, Worker};
use crate::config::listen::ListenerKey;
use crate::request::Connection;

/// How long accepting pauses when there are no descriptors left (nginx: `accept_mutex_delay`).
const PAUSE: Duration = Duration::from_millis(500);

/// What is kept of a connection that has no request.
pub(super) struct Idle {
    number: u64,
    listener: ListenerKey,
    peer: Addr,
    requests: u64,
    start: Instant,
    sent: u64,
    proxy_protocol: Option<Box<ProxyHeader>>,
}

/// Accepts connections until the task is dropped.
pub(super) async fn accept_loop(worker: Rc<Worker>, key: ListenerKey, acceptor: Acceptor) {
    let wildcard = key.ip().is_some_and(|ip| ip.is_unspecified());
    loop {
        match acceptor.accept().await {
            Ok((stream, peer)) => accepted(&worker, &key, wildcard, stream, peer),
            Err(error) => {
                let log = worker.generation().main.error_log.clone();
                let text = super::os_error(&error);
                if is_out_of_descriptors(&error) {
                    log.write(Level::Crit, None, format_args!("accept4() failed {text}"));
                    make_room(&worker);
                    headwater_io::timer::sleep(PAUSE).await;
                } else {
                    log.write(Level::Error, None, format_args!("accept4() failed {text}"));
                    headwater_io::timer::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// Closes the connection that has been idle longest.
fn make_room(worker: &Rc<Worker>) {
    if let Some((_, _, idle)) = worker.parked.take_oldest() {
        forget(worker, &idle);
    }
}

fn accepted(worker: &Rc<Worker>, key: &ListenerKey, wildcard: bool, stream: Stream, peer: Addr) {
    Worker::count(&worker.counters.accepted);
    let generation = worker.generation();
    if worker.connections.get() >= *generation.main.events.worker_connections {
        make_room(worker);
    }
    if worker.connections.get() >= *generation.main.events.worker_connections {
        let limit = *generation.main.events.worker_connections;
        let log = &generation.main.error_log;
        log.write(Level::Alert, None, format_args!("{limit} worker_connections are not enough"));
        return;
    }
    let mut key = key.clone();
    if wildcard
        && generation.listeners.len() > 1
        && let Ok(local) = stream.local_addr()
        && let Some(listener) = generation.listeners.get(&local)
    {
        key = listener.key.clone();
    }
    Worker::count(&worker.counters.handled);
    Worker::gauge(&worker.counters.active, 1);
    worker.connections.set(worker.connections.get().saturating_add(1));
    let number = worker.shared.next_connection_number();
    start(Connection::new(worker.clone(), key, stream, peer, number));
}

/// Gives a connection its task.
fn start(connection: Rc<Connection>) {
    let _ = connection.stream.borrow().set_nodelay(true);
    spawn_local(async move {
        let outcome = CatchPanic(Box::pin(serve(&connection))).await;
        match outcome {
            Ok(After::Park(until)) => park(connection, until),
            Ok(After::Close) => close(&connection),
            Err(text) => {
                connection.log(Level::Alert, format_args!("a request panicked: {text}"));
                if !connection.response_started.get() {
                    let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    // The connection ends either way.
                    if let Ok(mut stream) = connection.stream.try_borrow_mut() {
                        let _ = stream.try_write(answer);
                    }
                }
                close(&connection);
            }
        }
    });
}

fn close(connection: &Rc<Connection>) {
    let worker = &connection.worker;
    worker.connections.set(worker.connections.get().saturating_sub(1));
    Worker::gauge(&worker.counters.active, -1);
    if worker.draining.get() {
        worker.ended.notify_one();
    }
}

/// Counts a parked connection that is gone.
pub(super) fn forget(worker: &Rc<Worker>, _: &Idle) {
    worker.connections.set(worker.connections.get().saturating_sub(1));
    Worker::gauge(&worker.counters.active, -1);
    if worker.draining.get() {
        worker.ended.notify_one();
    }
}

fn park(connection: Rc<Connection>, until: Instant) {
    let worker = connection.worker.clone();
    let Ok(connection) = Rc::try_unwrap(connection) else {
        // Something still holds the connection: it cannot be idle. It ends when that lets go.
        worker.connections.set(worker.connections.get().saturating_sub(1));
        Worker::gauge(&worker.counters.active, -1);
        return;
    };
    let idle = Idle {
        number: connection.number,
        listener: connection.listener.clone(),
        peer: connection.peer.clone(),
        requests: connection.requests.get(),
        start: connection.start,
        sent: connection.sent.get(),
        proxy_protocol: connection.proxy_protocol.get().cloned().map(Box::new),
    };
    if let Err((error, idle)) = worker.parked.park(connection.stream.into_inner(), until, idle) {
        let log = worker.generation().main.error_log.clone();
        log.write(
            Level::Alert,
            None,
            format_args!("a connection could not be parked {}", super::os_error(&error)),
        );
        forget(&worker, &idle);
    }
}

/// Makes a parked connection live again.
pub(super) fn resume(worker: &Rc<Worker>, stream: Stream, idle: Idle) {
    let mut connection = Connection::new(worker.clone(), idle.listener, stream, idle.peer, idle.number);
    if let Some(inner) = Rc::get_mut(&mut connection) {
        inner.start = idle.start;
        inner.requests.set(idle.requests);
        inner.sent.set(idle.sent);
        if let Some(header) = idle.proxy_protocol {
            let _ = inner.proxy_protocol.set(*header);
        }
    }
    start(connection);
}
