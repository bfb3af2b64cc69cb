//! The wait for a request head: idle time, parsing, and the request that a head amounts to.
//!
//! Called by `flow::connection`. nginx's counterpart: `ngx_http_process_request_line`, `ngx_http_process_request_headers`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_wire::headers::{HeaderList, Span};
use headwater_wire::http1::request::{
    HeadError, HeadLimits, HeadOptions, Progress, RequestLine, RequestParser, Version,
};
use headwater_wire::http1::semantics::{RequestSemantics, check};
use headwater_wire::method::Method;

use super::connection::default_server;
use super::error_log::Level;
use super::worker::Raised;
use crate::config::{Generation, ServerId};
use crate::request::Connection;
use crate::request::connection::ReadError;
use crate::request::exchange::RequestHead;

/// How long an idle connection stays in the runtime before it is parked.
const PARK_AFTER: Duration = Duration::from_millis(1000);

/// What the wait for a request head brought.
pub(super) enum Head {
    /// A request that can be processed.
    Request(Box<RequestHead>),
    /// A head that is answered with this status.
    Refused(Box<RequestHead>, u16),
    /// The connection has been idle.
    Park(Instant),
    /// The connection is over.
    Close,
}

/// Reads one request head; gives also when its first byte was there.
pub(super) async fn read_head(
    connection: &Rc<Connection>,
    generation: &Rc<Generation>,
    default: ServerId,
) -> (Head, Instant) {
    let settings = &generation.server(default).settings;
    let first = connection.requests.get() == 0;
    connection.came_early.set(!first && !connection.input.borrow().is_empty());
    if connection.input.borrow().is_empty() {
        let waited = if first {
            connection.fill(*settings.client_header_timeout).await.map(drop)
        } else {
            match wait_idle(connection, generation, default).await {
                Ok(true) => Ok(()),
                Ok(false) => return (Head::Close, headwater_io::clock::now()),
                Err(head) => return (head, headwater_io::clock::now()),
            }
        };
        if let Err(error) = waited {
            if matches!(error, ReadError::TimedOut) {
                connection.log(
                    Level::Info,
                    format_args!("client timed out (110: Connection timed out) while waiting for request"),
                );
                reset_if_asked(connection, generation);
            }
            return (Head::Close, headwater_io::clock::now());
        }
    }
    let start = headwater_io::clock::now();
    connection.requests.set(connection.requests.get().saturating_add(1));
    let reading = Raised::new(&connection.worker.counters.reading);
    let head = read_rest(connection, generation, default, start).await;
    drop(reading);
    (head, start)
}

fn reset_if_asked(connection: &Connection, generation: &Generation) {
    let root = generation.server(default_server(connection, generation)).root;
    if generation.location(root).core.reset_timedout_connection {
        let _ = connection.stream.borrow().set_linger_zero();
    }
}

/// Waits for the first byte of a further request. `Ok(false)` means the connection is over.
async fn wait_idle(
    connection: &Rc<Connection>,
    generation: &Generation,
    default: ServerId,
) -> Result<bool, Head> {
    let location = generation.location(generation.server(default).root);
    let timeout = connection.keepalive_timeout.get().unwrap_or(*location.core.keepalive_timeout.timeout);
    if connection.worker.draining.get() || timeout == Duration::ZERO {
        return Ok(false);
    }
    match connection.fill(timeout.min(PARK_AFTER)).await {
        Ok(_) => Ok(true),
        Err(ReadError::TimedOut) if timeout > PARK_AFTER && !connection.worker.draining.get() => {
            Err(Head::Park(headwater_io::clock::now() + (timeout - PARK_AFTER)))
        }
        Err(_) => Ok(false),
    }
}

async fn read_rest(
    connection: &Rc<Connection>,
    generation: &Rc<Generation>,
    default: ServerId,
    start: Instant,
) -> Head {
    let settings = &generation.server(default).settings;
    let limits = HeadLimits {
        first_buffer: *settings.client_header_buffer_size,
        line: settings.large_client_header_buffers.size,
        buffers: settings.large_client_header_buffers.number,
        max_headers: *settings.max_headers,
    };
    let options = HeadOptions {
        underscores: settings.underscores_in_headers,
        ignore_invalid: settings.ignore_invalid_headers,
    };
    let mut parser = RequestParser::new();
    let deadline = start + *settings.client_header_timeout;
    loop {
        let parsed = parser.parse(&connection.input.borrow(), &limits, &options);
        match parsed {
            Ok(Progress::Complete { len }) => {
                log_invalid_lines(connection, &parser, len);
                return complete(connection, &mut parser, len);
            }
            Ok(Progress::Partial) => {}
            Err(error) => return refuse(connection, &mut parser, error),
        }
        let left = deadline.saturating_duration_since(headwater_io::clock::now());
        if let Err(error) = connection.fill(left).await {
            if matches!(error, ReadError::TimedOut) {
                reset_if_asked(connection, generation);
            }
            log_unread_head(connection, &error);
            return Head::Close;
        }
    }
}

/// A head that cannot be parsed further: what there is of it is answered.
fn refuse(connection: &Connection, parser: &mut RequestParser, error: HeadError) -> Head {
    let part = if parser.request_line().is_some() { "headers" } else { "line" };
    connection.log(Level::Info, format_args!("{} while reading client request {part}", error.message()));
    let length = connection.input.borrow().len();
    let mut head = partial_head(connection, parser, length);
    if error == HeadError::InvalidHttp09Method {
        head.line.version = Version::Http09;
    }
    connection.input.borrow_mut().clear();
    Head::Refused(Box::new(head), error.status())
}

fn log_unread_head(connection: &Connection, error: &ReadError) {
    let reason = match error {
        ReadError::TimedOut => "client timed out (110: Connection timed out)".to_owned(),
        ReadError::Closed => "client prematurely closed connection".to_owned(),
        ReadError::Failed(error) => format!("recv() failed {}", super::os_error(error)),
    };
    connection.log(Level::Info, format_args!("{reason} while reading client request headers"));
}

fn log_invalid_lines(connection: &Connection, parser: &RequestParser, len: usize) {
    for span in parser.invalid_lines() {
        let input = connection.input.borrow();
        let line = String::from_utf8_lossy(span.get(input.get(..len).unwrap_or_default())).into_owned();
        drop(input);
        connection.log(
            Level::Info,
            format_args!("client sent invalid header line: \"{line}\" while reading client request headers"),
        );
    }
}

fn partial_head(connection: &Connection, parser: &mut RequestParser, len: usize) -> RequestHead {
    let bytes = connection.input.borrow().get(..len).unwrap_or_default().to_vec();
    let (mut line, lines) = parser.take();
    let broken = line.request.is_empty();
    if broken {
        // `$request` shows what there is of the line; `$request_length` counts nothing yet.
        let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        line.request = Span::between(0, end);
    }
    let line = if line.protocol.is_empty() {
        // nginx answers a broken request line as HTTP/1.0.
        RequestLine {
            version: if broken { Version::Http10 } else { line.version.max(Version::Http10) },
            ..line
        }
    } else {
        line
    };
    RequestHead::unchecked(line, HeaderList::adopt(bytes, lines), if broken { 0 } else { len })
}

fn complete(connection: &Connection, parser: &mut RequestParser, len: usize) -> Head {
    let bytes = connection.input.borrow().get(..len).unwrap_or_default().to_vec();
    connection.consume(len);
    let (line, lines) = parser.take();
    let headers = HeaderList::adopt(bytes, lines);
    let checked = check(&line, &headers);
    let (semantics, refused) = match checked {
        Ok(semantics) => (semantics, None),
        Err(error) => {
            let text = String::from_utf8_lossy(&error.describe(&headers)).into_owned();
            connection.log(Level::Info, format_args!("{text} while reading client request headers"));
            (RequestSemantics::default(), Some(error.status))
        }
    };
    let host = semantics
        .host
        .as_ref()
        .map_or(Bytes::new(), |host| Bytes::copy_from_slice(host.get(headers.buffer())));
    let head = Box::new(RequestHead {
        headers,
        line,
        host,
        port: semantics.port,
        framing: semantics.framing,
        expect_continue: semantics.expect_continue,
        upgrade: semantics.upgrade,
        keep_alive: semantics.keep_alive,
        length: len,
    });
    match refused {
        Some(status) => Head::Refused(head, status),
        None => Head::Request(head),
    }
}

/// The decoded path and the query string of a request, or `None` for a bad one.
pub(crate) fn target(head: &RequestHead, merge_slashes: bool) -> Option<(Bytes, Bytes)> {
    let raw = head.unparsed_uri();
    if head.line.method == Method::Connect {
        return Some((Bytes::from_static(b"/"), Bytes::new()));
    }
    if head.line.complex {
        let normal = headwater_wire::uri::normalize(raw, merge_slashes).ok()?;
        let args = normal.args.and_then(|range| raw.get(range)).map_or(Bytes::new(), Bytes::copy_from_slice);
        return Some((normal.path.into(), args));
    }
    let path = Bytes::copy_from_slice(head.headers.span(head.line.path));
    let args = head.line.args.map_or(Bytes::new(), |span| Bytes::copy_from_slice(head.headers.span(span)));
    Some((path, args))
}
