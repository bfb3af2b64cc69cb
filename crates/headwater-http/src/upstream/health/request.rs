//! One check: a request without a client, given to the location's content handler, and its answer judged.
//!
//! Called by `upstream::health`. The handler takes the request for a client's: there is a connection, whose other end nobody uses, and a head.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;
use headwater_io::stream::{Stream, StreamKind};
use headwater_io::timer::{Timer, with_timeout};
use headwater_wire::headers::HeaderList;
use headwater_wire::http1::request::{HeadLimits, HeadOptions, RequestParser};
use headwater_wire::method::Method;

use super::conditions::Answer;
use super::{Check, Kind, Probe, lone_group};
use crate::config::Generation;
use crate::flow::error_log::Level;
use crate::flow::head::target;
use crate::flow::os_error;
use crate::flow::output::Output;
use crate::flow::phases::{BackEnd, Outcome};
use crate::flow::worker::Worker;
use crate::request::exchange::RequestHead;
use crate::request::subrequest::MemorySink;
use crate::request::{Connection, Exchange, Request};
use crate::upstream::peers::{Group, Peer};

/// How much of a body is looked at, bytes.
const BODY: usize = 256 * 1024;

/// Makes the requests by which one peer is checked.
pub(super) struct Client {
    worker: Rc<Worker>,
    generation: Rc<Generation>,
    check: Arc<Check>,
    peer: Arc<str>,
    group: Arc<Group>,
    /// The connection that stands for a client's, and its other end.
    connection: RefCell<Option<(Rc<Connection>, UnixStream)>>,
}

impl Client {
    pub(super) fn new(
        worker: Rc<Worker>,
        generation: Rc<Generation>,
        check: &Arc<Check>,
        peer: &Peer,
    ) -> Self {
        Self {
            worker,
            generation,
            check: check.clone(),
            peer: peer.name.clone(),
            group: lone_group(check, peer),
            connection: RefCell::default(),
        }
    }

    /// A request for the next check; nothing when there is no descriptor for it.
    pub(super) fn request(&self) -> Option<Rc<Request>> {
        let connection = self.connection()?;
        connection.broken.set(false);
        let head = head(&self.check.uri)?;
        let (uri, args) = target(&head, false)?;
        let start = headwater_io::clock::now();
        let exchange = Rc::new(Exchange::new(connection, self.generation.clone(), head, start));
        let location = self.generation.location(self.check.location);
        let sink = Rc::new(MemorySink::beginning(BODY));
        let r = Request::with_output(exchange, location.server, Method::Get, uri, args, Output::Memory(sink));
        r.location.set(self.check.location);
        r.set_extension(Probe {
            name: self.check.name.clone(),
            peer: self.peer.clone(),
            upstream: self.check.group.name.clone(),
            group: self.group.clone(),
            stage: std::cell::Cell::new(""),
        });
        Some(r)
    }

    fn connection(&self) -> Option<Rc<Connection>> {
        if let Some((connection, _)) = &*self.connection.borrow() {
            return Some(connection.clone());
        }
        let made = UnixStream::pair().and_then(|(end, other)| {
            end.set_nonblocking(true)?;
            Ok((Stream::from_fd(end.into(), StreamKind::Unix)?, other))
        });
        let (stream, other) = match made {
            Ok(made) => made,
            Err(error) => {
                let log = &self.generation.location(self.check.location).error_log;
                log.write(Level::Alert, None, format_args!("socketpair() failed {}", os_error(&error)));
                return None;
            }
        };
        let listener = self.generation.listeners.keys().next()?.clone();
        let connection = Connection::new(self.worker.clone(), listener, stream, Addr::unnamed_unix(), 0);
        *self.connection.borrow_mut() = Some((connection.clone(), other));
        Some(connection)
    }

    /// Checks once. The error is what was being done when it turned out that the peer is not well.
    pub(super) async fn ask(&self, r: &Request) -> Result<(), &'static str> {
        let location = self.generation.location(self.check.location);
        let Some(handler) = &location.content_handler else { return Err("checking") };
        let Some(back_end) = handler.back_end() else { return Err("checking") };
        let conf = back_end.conf;
        let limit = conf.connect_timeout.saturating_add(conf.send_timeout).saturating_add(conf.read_timeout);
        let work = async {
            match self.check.kind {
                Kind::Tcp => self.connect(r, &back_end).await,
                Kind::Http => {
                    let mut outcome = handler.handle(r);
                    while let Outcome::Wait(future) = outcome {
                        outcome = future.await;
                    }
                    self.judge(r, &outcome)
                }
            }
        };
        // Each of its steps has a limit; an answer that never ends would not reach it.
        match with_timeout(&Timer::new(), limit.max(Duration::from_millis(1)), work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                r.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err("reading upstream")
            }
        }
    }

    async fn connect(&self, r: &Request, back_end: &BackEnd<'_>) -> Result<(), &'static str> {
        const STAGE: &str = "connecting to upstream";
        r.action.set(STAGE);
        let Some(peer) = self.group.peers_to_check().into_iter().next() else { return Err(STAGE) };
        let options = back_end.conf.connect_options(r, false);
        let connect = Stream::connect(&peer.addr, &options);
        match with_timeout(&Timer::new(), back_end.conf.connect_timeout, connect).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                r.log(Level::Error, format_args!("connect() failed {}", os_error(&error)));
                Err(STAGE)
            }
            Err(_) => {
                r.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err(STAGE)
            }
        }
    }

    fn judge(&self, r: &Request, outcome: &Outcome<'_>) -> Result<(), &'static str> {
        let Output::Memory(sink) = &r.output else { return Err("checking") };
        // Of a body that is larger its beginning is enough.
        if !matches!(outcome, Outcome::Done) && !sink.overflow.get() {
            let stage = r.probe().map_or("", |probe| probe.stage.get());
            return Err(if stage.is_empty() { "checking" } else { stage });
        }
        let headers = r.upstream.borrow().headers.clone().unwrap_or_default();
        let status = r.headers_out.borrow().status();
        let body = sink.take();
        self.check.conditions.check(&Answer { request: r, status, headers: &headers, body: &body })
    }
}

/// The head of a check's request.
fn head(uri: &[u8]) -> Option<RequestHead> {
    let bytes = [b"GET ", uri, b" HTTP/1.0\r\n\r\n"].concat();
    let room = bytes.len().saturating_add(1024);
    let limits = HeadLimits { first_buffer: room, line: room, buffers: 2, max_headers: 1 };
    let options = HeadOptions { underscores: false, ignore_invalid: true };
    let mut parser = RequestParser::new();
    parser.parse(&bytes, &limits, &options).ok()?;
    let (line, lines) = parser.take();
    let length = bytes.len();
    Some(RequestHead::unchecked(line, HeaderList::adopt(bytes, lines), length))
}

/// Whether a URI can be asked for.
pub(crate) fn is_uri(uri: &[u8]) -> bool {
    uri.starts_with(b"/")
        && uri.iter().all(|byte| byte.is_ascii_graphic())
        && head(uri).is_some_and(|head| target(&head, false).is_some())
}
