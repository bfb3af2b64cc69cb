//! The life of a client connection: read a head, serve the request, log it, and again.
//!
//! Called by `flow::accept`; calls `flow::head` and `flow::phases`. nginx's counterpart: `ngx_http_request.c`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_wire::method::Method;
use headwater_wire::proxy_protocol::{self, ProxyProgress};

use super::error_log::Level;
use super::head::{Head, read_head, target};
use super::phases::{Finish, run};
use super::pinned::pinned;
use super::postpone::EndFamily;
use super::special;
use super::worker::{Raised, Worker};
use crate::config::core::Lingering;
use crate::config::{Generation, ServerId};
use crate::request::connection::ReadError;
use crate::request::exchange::RequestHead;
use crate::request::{Connection, Exchange, Request};

/// How much of further requests is read while one is served.
pub const PIPELINE_LIMIT: usize = 65536;
/// The largest PROXY protocol head, bytes.
const PROXY_HEAD_LIMIT: usize = 4096;

/// What becomes of the connection.
pub(super) enum After {
    /// It waits for its next request until then.
    Park(Instant),
    /// It ends.
    Close,
}

/// Serves a connection until it is idle or over.
pub(super) async fn serve(connection: &Rc<Connection>) -> After {
    let mut generation = connection.worker.generation();
    let mut default = default_server(connection, &generation);
    let listener = generation.listener(&connection.listener);
    if listener.is_some_and(|listener| listener.proxy_protocol)
        && connection.proxy_protocol.get().is_none()
        && connection.requests.get() == 0
        && !read_proxy_head(connection, &generation).await
    {
        return After::Close;
    }
    loop {
        // A reload counts from the next request on, unless the new configuration no longer listens here.
        if !connection.worker.is_current(&generation) {
            let current = connection.worker.generation();
            if current.listener(&connection.listener).is_some() {
                default = default_server(connection, &current);
                generation = current;
            }
        }
        let (head, start) = read_head(connection, &generation, default).await;
        let (head, refused) = match head {
            Head::Request(head) => (head, None),
            Head::Refused(head, status) => (head, Some(status)),
            Head::Park(until) => return After::Park(until),
            Head::Close => return After::Close,
        };
        Worker::count(&connection.worker.counters.requests);
        let writing = Raised::new(&connection.worker.counters.writing);
        let keep =
            pinned(|| serve_request(connection, generation.clone(), default, head, refused, start)).await;
        drop(writing);
        connection.response_started.set(false);
        if !keep {
            return After::Close;
        }
    }
}

async fn read_proxy_head(connection: &Connection, generation: &Generation) -> bool {
    let server = default_server(connection, generation);
    let limit = *generation.server(server).settings.client_header_timeout;
    loop {
        if let Err(error) = connection.fill(limit).await {
            if matches!(error, ReadError::TimedOut) {
                connection.log(
                    Level::Info,
                    format_args!("client timed out (110: Connection timed out) while reading PROXY protocol"),
                );
            }
            return false;
        }
        let parsed = proxy_protocol::parse(&connection.input.borrow());
        match parsed {
            Ok(ProxyProgress::Complete { len, header }) => {
                connection.consume(len);
                let _ = connection.proxy_protocol.set(header.unwrap_or_default());
                return true;
            }
            Ok(ProxyProgress::Partial) if connection.input.borrow().len() < PROXY_HEAD_LIMIT => {}
            _ => {
                let input = connection.input.borrow();
                let shown = String::from_utf8_lossy(input.get(..input.len().min(107)).unwrap_or_default())
                    .into_owned();
                connection.log(
                    Level::Error,
                    format_args!("broken header: \"{shown}\" while reading PROXY protocol"),
                );
                return false;
            }
        }
    }
}

pub(super) fn default_server(connection: &Connection, generation: &Generation) -> ServerId {
    generation.listener(&connection.listener).map_or(ServerId(0), |listener| listener.names.default)
}

/// Serves one request; `true` when the connection can take another.
async fn serve_request(
    connection: &Rc<Connection>,
    generation: Rc<Generation>,
    default: ServerId,
    head: Box<RequestHead>,
    refused: Option<u16>,
    start: Instant,
) -> bool {
    let merge = generation.server(default).settings.merge_slashes;
    let method = head.line.method;
    let keep_alive = head.keep_alive;
    let (uri, args, refused) = match (refused, target(&head, merge)) {
        (None, Some((uri, args))) => (uri, args, None),
        (None, None) => {
            connection.log(
                Level::Info,
                format_args!("client sent invalid request while reading client request line"),
            );
            (Bytes::new(), Bytes::new(), Some(400))
        }
        (Some(status), target) => {
            let (uri, args) = target.unwrap_or_default();
            (uri, args, Some(status))
        }
    };
    let exchange = Rc::new(Exchange::new(connection.clone(), generation.clone(), *head, start));
    let (server, captured) = find_server(&generation, connection, &exchange.head.host, default);
    let refused = match refused {
        None if method == Method::Connect && !generation.server(server).takes_connect => {
            connection.log(
                Level::Info,
                format_args!("client sent CONNECT method while reading client request headers"),
            );
            Some(405)
        }
        refused => refused,
    };
    // What a client sends after CONNECT is meant for the tunnel: when there is none, it must not be taken for requests.
    exchange.keepalive.set(keep_alive && refused.is_none() && method != Method::Connect);
    let r = Request::main(exchange, server, method, uri, args);
    let _family = EndFamily(&r);
    if let Some(pattern) = captured {
        pattern.matches(&r, &r.exchange.head.host.clone());
    }
    let finish = match refused {
        None => run(&r).await,
        Some(status) => match special::answer(&r, status).await {
            special::Answer::Done => Finish::Done,
            special::Answer::Close(status) => Finish::Close(status),
            special::Answer::Redirect(redirect) => super::phases::run_from_redirect(&r, redirect).await,
        },
    };
    let finish = settle_family(&r, finish).await;
    uncork(connection);
    if r.loc().core.post_action.is_some() {
        Box::pin(super::post_action::run(&r, &finish)).await;
    }
    end(connection, &r, finish, refused.is_some()).await
}

/// Waits for the subrequests of a request that has said all it has to say.
async fn settle_family(r: &Rc<Request>, finish: Finish) -> Finish {
    let Some(family) = r.family() else { return finish };
    if matches!(finish, Finish::Close(_)) {
        return finish;
    }
    r.done.set(true);
    let connection = r.connection();
    let all = async {
        loop {
            if let Some(status) = family.failed() {
                return Finish::Close(status);
            }
            let (queued, over) = (connection.out.borrow().queued(), family.is_over(r));
            if over && queued == 0 {
                return Finish::Done;
            }
            // Until all parts are there, little is collected before it is written.
            let due = over || queued >= *r.loc().core.postpone_output as u64;
            if due && queued > 0 && !connection.writing.get() {
                let written = tokio::select! {
                    () = family.changed.notified() => Ok(()),
                    written = r.write_some(connection) => written,
                };
                if written.is_err() {
                    return Finish::Close(499);
                }
            } else {
                family.changed.notified().await;
            }
        }
    };
    tokio::select! {
        biased;
        finish = all => finish,
        () = connection.closed() => {
            r.log(Level::Info, format_args!("client prematurely closed connection"));
            Finish::Close(499)
        }
    }
}

fn find_server<'g>(
    generation: &'g Generation,
    connection: &Connection,
    host: &[u8],
    default: ServerId,
) -> (ServerId, Option<&'g crate::request::PatternWithNames>) {
    match generation.listener(&connection.listener).map(|listener| &listener.names) {
        Some(names) if !names.is_trivial() => names.find(host).unwrap_or((default, None)),
        _ => (default, None),
    }
}

/// Lets the last packet of a response go.
fn uncork(connection: &Connection) {
    if connection.corked.replace(false) {
        let _ = connection.stream.borrow().set_cork(false);
    }
}

/// Ends a request: the log, what is left of its body, the connection's future.
async fn end(connection: &Rc<Connection>, r: &Rc<Request>, finish: Finish, refused: bool) -> bool {
    if let Finish::Close(status) = finish {
        if !r.header_sent.get() {
            r.headers_out.borrow_mut().status = status;
        }
        r.exchange.keepalive.set(false);
    }
    log_request(r);
    let location = r.loc();
    let core = &location.core;
    let closed = matches!(finish, Finish::Close(_)) || connection.broken.get() || r.truncated.get();
    if closed {
        if connection.timed_out.get() && core.reset_timedout_connection {
            let _ = connection.stream.borrow().set_linger_zero();
        }
        return false;
    }
    let body_complete = r.exchange.body.is_complete();
    if r.exchange.keepalive.get() && (body_complete || r.discard_body().await) {
        connection.keepalive_timeout.set(Some(*core.keepalive_timeout.timeout));
        return true;
    }
    let unread =
        !body_complete || !connection.input.borrow().is_empty() || refused || connection.pipelined.get();
    let linger = match core.lingering_close {
        Lingering::Off => false,
        Lingering::On => unread,
        Lingering::Always => true,
    };
    if linger {
        linger_close(connection, *core.lingering_time, *core.lingering_timeout).await;
    }
    false
}

/// Runs the log handlers of the request's last location.
pub(crate) fn log_request(r: &Request) {
    if r.logged.replace(true) {
        return;
    }
    r.action.set("logging request");
    for handler in &r.loc().log {
        handler.log(r);
    }
}

/// Reads and drops what the client still sends, so that it can read the answer before the connection is reset.
async fn linger_close(connection: &Connection, time: Duration, timeout: Duration) {
    let _ = connection.stream.borrow().shutdown_write();
    let until = headwater_io::clock::now() + time;
    loop {
        connection.input.borrow_mut().clear();
        let left = until.saturating_duration_since(headwater_io::clock::now());
        if left == Duration::ZERO || connection.fill(timeout.min(left)).await.is_err() {
            return;
        }
    }
}
