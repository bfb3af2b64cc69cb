//! The engine: the only code that waits for a back end.
//!
//! choose peer → connect or reuse → send → read head → relay body → finish, with one timer per stage; a failed attempt goes to `retry`. Called by
//! content handlers. nginx's counterpart: `ngx_http_upstream.c` up to `ngx_http_upstream_send_response`.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use headwater_io::connect::ConnectOptions;
use headwater_io::scratch::with_scratch;
use headwater_io::stream::Stream;
use headwater_io::timer::{Timer, with_timeout};

use super::head::{Verdict, process};
use super::peers::{Group, Peer, Picked, Report, Tried};
use super::pool::Link;
use super::protocol::{Header, Protocol, ResponseHead, log};
use super::relay::{Spool, Step};
use super::retry::{self, Attempt, Failure};
use super::settings::{UpstreamConf, local_address};
use super::tunnel;
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::{Outcome, Redirect};
use crate::request::Request;
use crate::request::body::BodyError;
use crate::request::upstream_state::UpstreamState;

/// One request's work with back ends.
pub(super) struct Engine<'a> {
    pub(super) r: &'a Request,
    pub(super) conf: &'a UpstreamConf,
    pub(super) group: &'a Arc<Group>,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) head: ResponseHead,
    pub(super) timer: Timer,
    /// Body bytes received from the back end and not yet used up by the protocol.
    pub(super) rest: Vec<u8>,
    /// What did not fit into memory.
    pub(super) spool: Option<Spool>,
    /// Body bytes received that wait until the client took what came of those before.
    pub(super) held: Bytes,
    /// The request's head, and its body when that is small.
    pub(super) request: Vec<u8>,
    /// Whether the client's body is sent on while it comes in.
    pub(super) streams_body: bool,
    owner: usize,
    start: Instant,
    attempt_ms: u64,
    tried: Tried,
    /// The peer of the present attempt, which counts until the back end is done.
    pub(super) picked: Option<Picked>,
}

/// How an attempt ended.
pub(super) enum End {
    /// The response was passed on, or the request goes elsewhere.
    Outcome(Outcome<'static>),
    /// It failed before anything was passed on.
    Failed(Failure, Attempt),
    /// The connection became a tunnel; the bytes came behind the head.
    Upgraded(Box<Link>, Vec<u8>),
}

/// Asks a back end and passes its answer on. `owner` names the location, for groups whose idle connections are not shared.
pub async fn run(
    r: &Request,
    conf: &UpstreamConf,
    group: &Arc<Group>,
    owner: usize,
    mut protocol: Box<dyn Protocol>,
) -> Outcome<'static> {
    let streams_body = match prepare_body(r, conf).await {
        Ok(streams) => streams,
        Err(outcome) => return outcome,
    };
    let mut request = Vec::with_capacity(1024);
    if let Err(status) = protocol.create_request(r, &mut request) {
        return Outcome::Status(status);
    }
    r.action.set("connecting to upstream");
    let mut engine = Engine {
        r,
        conf,
        group,
        protocol,
        head: ResponseHead::default(),
        timer: Timer::new(),
        rest: Vec::new(),
        spool: None,
        held: Bytes::new(),
        request,
        streams_body,
        owner,
        start: headwater_io::clock::now(),
        attempt_ms: 0,
        tried: group.start(r),
        picked: None,
    };
    let end = engine.attempts_while_client_waits().await;
    engine.note_end();
    let outcome = match end {
        End::Outcome(outcome) => outcome,
        End::Failed(failure, _) => Outcome::Status(failure.status()),
        End::Upgraded(link, early) => tunnel::run(r, conf, *link, early).await,
    };
    engine.peer_is_done(false);
    let status = r.headers_out.borrow().status();
    engine.protocol.finalize_request(r, status);
    r.action.set("");
    *r.upstream_url.borrow_mut() = None;
    outcome
}

/// Reads the request body, or as much of it as came with the head when it is sent on as it comes; gives whether there is more to
/// send on.
pub(super) async fn prepare_body(r: &Request, conf: &UpstreamConf) -> Result<bool, Outcome<'static>> {
    if !conf.pass_request_body {
        return Ok(false);
    }
    let read = if conf.request_buffering { r.read_body().await } else { r.preread_body() };
    match read {
        Ok(()) => Ok(!conf.request_buffering && !r.exchange.body.is_complete()),
        Err(BodyError::Status(status)) => Err(Outcome::Status(status)),
        Err(BodyError::Gone(status)) => Err(Outcome::Close(status)),
    }
}

/// Runs something for the client; `None` when that leaves before, unless its leaving is not to matter or its body is still coming.
pub(super) async fn while_client_waits<F: Future>(
    r: &Request,
    conf: &UpstreamConf,
    streams_body: bool,
    work: F,
) -> Option<F::Output> {
    if conf.ignore_client_abort || streams_body || !r.is_main() {
        return Some(work.await);
    }
    let connection = r.connection().clone();
    tokio::select! {
        biased;
        output = work => Some(output),
        () = connection.closed() => None,
    }
}

impl Engine<'_> {
    /// Tries peers while the client waits.
    async fn attempts_while_client_waits(&mut self) -> End {
        let (r, conf, streams_body) = (self.r, self.conf, self.streams_body);
        if let Some(end) = while_client_waits(r, conf, streams_body, self.attempts()).await {
            return end;
        }
        let already = if r.header_sent.get() { "" } else { ", so upstream connection is closed too" };
        self.log(Level::Info, format_args!("client prematurely closed connection{already}"));
        self.protocol.abort_request(r);
        End::Outcome(Outcome::Close(499))
    }

    /// Tries peers until one answers or there is no reason to go on.
    async fn attempts(&mut self) -> End {
        if self.conf.next_upstream_tries > 0 {
            self.tried.left = self.tried.left.min(self.conf.next_upstream_tries);
        }
        loop {
            let Some(picked) = self.group.pick(&mut self.tried) else {
                self.push_state(&self.group.name.clone());
                self.set_status(502);
                self.log(Level::Error, format_args!("no live upstreams"));
                return End::Outcome(Outcome::Status(502));
            };
            self.push_state(&picked.peer.name);
            self.picked = Some(picked);
            let end = self.attempt().await;
            match end {
                End::Failed(failure, attempt) => {
                    self.note_end();
                    self.peer_is_done(failure.blames_peer());
                    self.set_status(failure.status());
                    if !self.again(attempt, failure) {
                        return End::Failed(failure, attempt);
                    }
                    self.protocol.reinit_request(self.r);
                    self.head = ResponseHead::default();
                    self.rest.clear();
                }
                // A tunnel's peer is done when the tunnel ends.
                End::Upgraded(..) => return end,
                End::Outcome(_) => {
                    self.peer_is_done(false);
                    return end;
                }
            }
        }
    }

    /// Gives the connection to the present attempt's peer back and notes how the attempt went, once.
    pub(super) fn peer_is_done(&mut self, failed: bool) {
        let Some(picked) = self.picked.take() else { return };
        let mut report = Report { failed, ..Report::default() };
        if let Some(state) = self.r.upstream.borrow_mut().current() {
            report.status = if failed { 0 } else { state.status };
            report.header_ms = state.header_ms;
            report.response_ms = state.response_ms;
            report.sent = state.bytes_sent;
            report.received = state.bytes_received;
        }
        if report.header_ms.is_some() && !failed {
            self.group.answered(self.r, &picked, &self.tried);
        }
        if self.group.finish(picked, &mut self.tried, &report) {
            self.log(Level::Warn, format_args!("upstream server temporarily disabled"));
        }
    }

    fn again(&mut self, attempt: Attempt, failure: Failure) -> bool {
        retry::again(self.r, self.conf, &mut self.tried, attempt, failure)
    }

    async fn attempt(&mut self) -> End {
        let r = self.r;
        let worker = r.connection().worker.clone();
        let mut attempt = Attempt { request_sent: false, reused: false, start: self.start };
        let owner = if self.group.keepalive.local { self.owner } else { 0 };
        let idle =
            self.picked.as_ref().and_then(|picked| self.group.pool.take(&picked.peer, worker.index, owner));
        let mut link = match idle {
            Some(link) => {
                attempt.reused = true;
                link
            }
            None => match self.connect().await {
                Ok(stream) => Link {
                    stream,
                    requests: 0,
                    since: headwater_io::clock::now(),
                    reused: false,
                    worker: worker.index,
                },
                Err(failure) => return End::Failed(failure, attempt),
            },
        };
        link.requests = link.requests.saturating_add(1);
        self.note(|state, now| state.connect_ms = Some(now));
        r.action.set("sending request to upstream");
        attempt.request_sent = true;
        if let Err(end) = self.send(&mut link.stream, attempt).await {
            return end;
        }
        r.action.set("reading response header from upstream");
        match self.read_head(&mut link.stream, attempt).await {
            Ok(Step::Upgraded(early)) => End::Upgraded(Box::new(link), early),
            Ok(step) => self.relay(link, step, owner).await,
            Err(end) => end,
        }
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let Some(picked) = &self.picked else { return Err(Failure::NoLive) };
        let conf = self.conf;
        let local = conf.bind.as_ref().and_then(|bind| local_address(&bind.value(self.r)));
        let options = ConnectOptions { local, keepalive: conf.socket_keepalive, ..ConnectOptions::default() };
        let connect = Stream::connect(&picked.peer.addr, &options);
        match with_timeout(&self.timer, conf.connect_timeout, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                self.connect_failed(&picked.peer, &error);
                Err(Failure::Error)
            }
            Err(_) => {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err(Failure::Timeout)
            }
        }
    }

    /// Logs as nginx does: what `connect` itself refuses names the address, what comes later does not.
    fn connect_failed(&self, peer: &Peer, error: &io::Error) {
        let text = os_error(error);
        if peer.addr.is_unix() {
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let level = if refused { Level::Error } else { Level::Crit };
            self.log(level, format_args!("connect() to {} failed {text}", peer.name));
        } else {
            self.log(Level::Error, format_args!("connect() failed {text}"));
        }
    }

    /// Reads until the head is complete; body bytes that came with it are passed on at once.
    async fn read_head(&mut self, stream: &mut Stream, attempt: Attempt) -> Result<Step, End> {
        let timer = self.timer.clone();
        let limit = self.conf.read_timeout;
        let mut buffer: Vec<u8> = Vec::new();
        loop {
            let read = poll_fn(|cx| {
                with_scratch(|scratch| {
                    let length = ready!(stream.poll_read(cx, scratch))?;
                    let bytes = scratch.get(..length).unwrap_or_default();
                    Poll::Ready(io::Result::Ok(self.head_bytes(bytes, &mut buffer, attempt)))
                })
            });
            match with_timeout(&timer, limit, read).await {
                Ok(Ok(Some(outcome))) => return outcome,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    self.log(Level::Error, format_args!("recv() failed {}", os_error(&error)));
                    return Err(End::Failed(Failure::Error, attempt));
                }
                Err(_) => {
                    self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                    return Err(End::Failed(Failure::Timeout, attempt));
                }
            }
        }
    }

    /// Takes bytes while the head is incomplete. `None` means more are needed.
    fn head_bytes(
        &mut self,
        bytes: &[u8],
        buffer: &mut Vec<u8>,
        attempt: Attempt,
    ) -> Option<Result<Step, End>> {
        let r = self.r;
        if bytes.is_empty() {
            self.log(Level::Error, format_args!("upstream prematurely closed connection"));
            return Some(Err(End::Failed(Failure::Error, attempt)));
        }
        if let Some(state) = r.upstream.borrow_mut().current() {
            state.bytes_received = state.bytes_received.saturating_add(bytes.len() as u64);
        }
        let fresh = buffer.is_empty();
        if !fresh {
            buffer.extend_from_slice(bytes);
        }
        let all: &[u8] = if fresh { bytes } else { buffer };
        let header = self.protocol.process_header(r, all, &mut self.head);
        let size = |used: usize| self.protocol.header_size(used);
        match header {
            Header::Again | Header::Skip(_) if size(all.len()) >= self.conf.buffer_size => {
                Some(self.invalid("upstream sent too big header", attempt))
            }
            Header::Again => {
                if self.head.status != 0 {
                    self.set_status(self.head.status);
                }
                if fresh {
                    buffer.extend_from_slice(bytes);
                }
                None
            }
            Header::Skip(used) => {
                let rest = all.get(used..).unwrap_or_default().to_vec();
                *buffer = rest;
                None
            }
            Header::Invalid(text) => Some(self.invalid(&text, attempt)),
            Header::Ok(used) if size(used) > self.conf.buffer_size => {
                Some(self.invalid("upstream sent too big header", attempt))
            }
            Header::Ok(used) => {
                let rest = all.get(used..).unwrap_or_default();
                if fresh {
                    Some(self.accept(rest, attempt))
                } else {
                    let rest = rest.to_vec();
                    Some(self.accept(&rest, attempt))
                }
            }
        }
    }

    fn invalid(&self, text: &str, attempt: Attempt) -> Result<Step, End> {
        if !text.is_empty() {
            self.log(Level::Error, format_args!("{text}"));
        }
        Err(End::Failed(Failure::InvalidHeader, attempt))
    }

    /// Decides what becomes of a response whose head is complete, and starts passing it on.
    fn accept(&mut self, rest: &[u8], attempt: Attempt) -> Result<Step, End> {
        let r = self.r;
        let status = self.head.status;
        self.note(|state, now| state.header_ms = Some(now));
        self.set_status(status);
        if retry::is_named(self.conf, status) {
            let failure = Failure::Status(status);
            // A response that could be dropped is passed on when there is nobody else to ask.
            if self.may_drop(attempt, failure) {
                return Err(End::Failed(failure, attempt));
            }
        }
        if status == 101 && self.head.upgrade {
            return self.upgrade(rest);
        }
        if self.conf.intercept_errors && status >= 300 && self.intercepts(status) {
            return Err(End::Outcome(Outcome::Status(status)));
        }
        let verdict = process(r, self.conf, &*self.protocol, &self.head);
        self.keep_headers();
        self.head_arrived();
        if let Verdict::Redirect(redirect) = verdict {
            if matches!(&redirect, Redirect::Uri(uri, _) if uri.is_empty()) {
                r.log(Level::Error, format_args!("unsafe URI in \"X-Accel-Redirect\""));
                return Err(End::Outcome(Outcome::Status(404)));
            }
            r.headers_out.borrow_mut().status = 0;
            if let Some(state) = r.upstream.borrow_mut().current() {
                state.group_end = true;
            }
            return Err(End::Outcome(Outcome::Redirect(redirect)));
        }
        if let Err(error) = r.send_header() {
            return Err(End::Outcome(error.outcome()));
        }
        self.protocol.input_filter_init(r, &self.head);
        r.action.set("reading upstream");
        Ok(self.body_bytes(rest))
    }

    fn upgrade(&mut self, rest: &[u8]) -> Result<Step, End> {
        let r = self.r;
        let _ = process(r, self.conf, &*self.protocol, &self.head);
        self.keep_headers();
        self.head_arrived();
        if let Some(value) = self.head.headers.get(b"upgrade") {
            let mut out = r.headers_out.borrow_mut();
            out.list.remove(b"upgrade");
            out.list.push(b"Upgrade", value);
        }
        r.exchange.keepalive.set(false);
        if let Err(error) = r.send_header().and_then(|()| r.push_end()) {
            return Err(End::Outcome(error.outcome()));
        }
        Ok(Step::Upgraded(rest.to_vec()))
    }

    fn may_drop(&self, attempt: Attempt, failure: Failure) -> bool {
        // The real bookkeeping is done by the caller; here only whether it would allow another attempt.
        let mut tried = Tried::with_left(self.tried.left.saturating_sub(1));
        retry::again(self.r, self.conf, &mut tried, attempt, failure)
    }

    fn intercepts(&self, status: u16) -> bool {
        let core = &self.r.loc().core;
        let page = core.error_page.iter().any(|page| page.codes.contains(&status));
        if page && status == 401 {
            for value in self.head.headers.get_all(b"www-authenticate") {
                self.r.headers_out.borrow_mut().list.push(b"WWW-Authenticate", value);
            }
        }
        page && (!self.r.error_page_used.get() || core.recursive_error_pages)
    }

    /// Tells the group that the head of the answer is there and not yet sent.
    fn head_arrived(&mut self) {
        if let Some(picked) = &mut self.picked {
            let header_ms = self.r.upstream.borrow_mut().current().and_then(|state| state.header_ms);
            self.group.head_arrived(self.r, picked, &self.tried, header_ms);
        }
    }

    /// Keeps the head for `$upstream_http_*` where the configuration uses such variables.
    fn keep_headers(&mut self) {
        if self.r.exchange.generation.keeps_upstream_headers {
            self.r.upstream.borrow_mut().headers = Some(self.head.headers.clone());
        }
    }

    /// Logs with the back end's URL, which is put together only when a line is written.
    pub(super) fn log(&self, level: Level, text: std::fmt::Arguments<'_>) {
        log(self.r, self.protocol.scheme(), self.protocol.uri(&self.request), level, text);
    }

    fn push_state(&mut self, peer: &Arc<str>) {
        self.attempt_ms = headwater_io::clock::now_ms();
        self.r
            .upstream
            .borrow_mut()
            .states
            .push(UpstreamState { peer: peer.clone(), ..UpstreamState::default() });
    }

    pub(super) fn note(&self, set: impl FnOnce(&mut UpstreamState, u64)) {
        let now = headwater_io::clock::now_ms().saturating_sub(self.attempt_ms);
        if let Some(state) = self.r.upstream.borrow_mut().current() {
            set(state, now);
        }
    }

    /// Notes when the present attempt ended, once.
    pub(super) fn note_end(&self) {
        self.note(|state, now| {
            state.response_ms.get_or_insert(now);
        });
    }

    fn set_status(&self, status: u16) {
        if let Some(state) = self.r.upstream.borrow_mut().current() {
            state.status = status;
        }
    }
}
