//! The engine: the only code that waits for a back end.
//!
//! choose peer → connect or reuse → send → read head → relay body → finish, with one timer per stage; a failed attempt goes to `retry`. Called by
//! content handlers. nginx's counterpart: `ngx_http_upstream.c` up to `ngx_http_upstream_send_response`.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use headwater_io::connect::{ConnectOptions, SetupError};
use headwater_io::stream::Stream;
use headwater_io::timer::{Timer, with_timeout};

use super::peers::{Group, Peer, Picked, Report, Tried};
use super::pool::{Kind, Link};
use super::protocol::{Protocol, ResponseHead, log};
use super::relay::Step;
use super::retry::{self, Attempt, Failure};
use super::settings::UpstreamConf;
use super::spool::Spool;
use super::tls::Identity;
use super::tunnel;
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::output::SendError;
use crate::flow::phases::Outcome;
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
    /// Whether the body's end waits behind what the temp file still holds.
    pub(super) end_waits: bool,
    /// Whether the response is being saved.
    pub(super) storing: bool,
    /// Whether bytes may wait in a temp file, none having failed so far.
    pub(super) may_use_file: bool,
    /// Whether a body may go through a pipe, there having been one so far.
    pub(super) may_use_pipe: bool,
    /// Whether this is a health check.
    pub(super) probing: bool,
    /// Why the client gets no more of a response that is saved nevertheless.
    pub(super) lost: Option<SendError>,
    /// Body bytes received that wait until the client took what came of those before.
    pub(super) held: Bytes,
    /// The request's head, and its body when that is small.
    pub(super) request: Vec<u8>,
    /// Whether the client's body is sent on while it comes in.
    pub(super) streams_body: bool,
    /// Whether the response began before all of the request had left, so that the connection is of no further use.
    pub(super) answered_early: bool,
    /// Whether the protocol could make nothing of the body.
    pub(super) garbled: bool,
    owner: usize,
    /// How to connect.
    options: ConnectOptions,
    start: Instant,
    attempt_ms: u64,
    pub(super) tried: Tried,
    /// The peer of the present attempt, which counts until the back end is done.
    pub(super) picked: Option<Picked>,
    /// Whether `abort_request` was called.
    aborted: bool,
    /// Whether `finalize_request` was called.
    finalized: bool,
}

impl Drop for Engine<'_> {
    /// What ends here unfinished was dropped with its connection, or by a panic: the protocol hears of it all the same. A callback that
    /// panics now must not meet the panic under way, which would end the process.
    fn drop(&mut self) {
        self.r.connection().worker.keep_timer(self.timer.clone());
        if self.finalized {
            return;
        }
        let calls: [fn(&mut Self); 2] = [Self::abort, |engine| engine.finalize(499)];
        for call in calls {
            if catch_unwind(AssertUnwindSafe(|| call(self))).is_err() {
                self.log(Level::Alert, format_args!("a callback panicked while its request was dropped"));
            }
        }
    }
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
    protocol: Box<dyn Protocol>,
) -> Outcome<'static> {
    let probe = r.probe();
    let group = probe.as_ref().map_or(group, |probe| &probe.group);
    let buffered = is_buffered(r, conf, &*protocol);
    let streams_body = match prepare_body(r, conf, buffered).await {
        Ok(streams) => streams,
        Err(outcome) => return outcome,
    };
    let options = conf.connect_options(r, !protocol.is_tunnel());
    let mut engine = Engine {
        r,
        conf,
        group,
        protocol,
        head: ResponseHead::default(),
        timer: r.connection().worker.timer(),
        rest: Vec::new(),
        spool: None,
        end_waits: false,
        storing: false,
        may_use_file: true,
        may_use_pipe: true,
        probing: probe.is_some(),
        lost: None,
        held: Bytes::new(),
        request: Vec::with_capacity(1024),
        streams_body,
        answered_early: false,
        garbled: false,
        aborted: false,
        finalized: false,
        owner,
        options,
        start: headwater_io::clock::now(),
        attempt_ms: 0,
        tried: group.start(r),
        picked: None,
    };
    // From here on the protocol hears of the end, whatever happens.
    if let Err(status) = engine.protocol.create_request(r, &mut engine.request) {
        engine.finalize(status);
        return Outcome::Status(status);
    }
    r.action.set("connecting to upstream");
    let end = engine.attempts_while_client_waits().await;
    engine.note_end();
    let outcome = match end {
        End::Outcome(outcome) => outcome,
        End::Failed(failure, _) => Outcome::Status(failure.status()),
        End::Upgraded(link, early) => {
            let limit = if engine.protocol.is_tunnel() { conf.buffer_size } else { usize::MAX };
            Box::pin(tunnel::run(r, conf, *link, early, limit)).await
        }
    };
    engine.peer_is_done(false);
    let status = r.headers_out.borrow().status();
    engine.finalize(status);
    if let Some(probe) = &probe {
        probe.stage.set(r.action.get());
    }
    r.action.set("");
    *r.upstream_url.borrow_mut() = None;
    outcome
}

/// Whether the client's body is read before back ends are looked at.
pub(super) fn is_buffered(r: &Request, conf: &UpstreamConf, protocol: &dyn Protocol) -> bool {
    conf.request_buffering || (protocol.needs_length() && r.exchange.body.is_chunked())
}

/// Reads the request body, or as much of it as came with the head when it is sent on as it comes; gives whether there is more to
/// send on.
pub(super) async fn prepare_body(
    r: &Request,
    conf: &UpstreamConf,
    buffered: bool,
) -> Result<bool, Outcome<'static>> {
    if !conf.pass_request_body {
        return Ok(false);
    }
    let read = if buffered { r.read_body().await } else { r.preread_body() };
    match read {
        Ok(()) => Ok(r.is_main() && !buffered && !r.exchange.body.is_complete()),
        Err(BodyError::Status(status)) => Err(Outcome::Status(status)),
        Err(BodyError::Gone(status)) => Err(Outcome::Close(status)),
    }
}

/// Runs something for the client; `None` when that leaves before, unless its leaving is not to matter. The work stays where its caller
/// pinned it: with the exchange in it, it is what a request's future is made of, and is not to be moved or held twice.
pub(super) async fn while_client_waits<F: Future>(
    r: &Request,
    conf: &UpstreamConf,
    streams_body: bool,
    mut work: Pin<&mut F>,
) -> Option<F::Output> {
    if conf.ignore_client_abort || conf.store.is_on() || !r.is_main() || r.post_action.get() {
        return Some(work.await);
    }
    let mut closed = pin!(r.connection().closed());
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // While the body is sent on as it comes, reading the connection is the body's business.
        if streams_body && !r.exchange.body.is_complete() {
            return Poll::Pending;
        }
        closed.as_mut().poll(cx).map(|()| None)
    })
    .await
}

impl Engine<'_> {
    fn abort(&mut self) {
        if !std::mem::replace(&mut self.aborted, true) {
            self.protocol.abort_request(self.r);
        }
    }

    fn finalize(&mut self, status: u16) {
        if !std::mem::replace(&mut self.finalized, true) {
            self.protocol.finalize_request(self.r, status);
        }
    }

    /// Tries peers while the client waits.
    async fn attempts_while_client_waits(&mut self) -> End {
        let (r, conf, streams_body) = (self.r, self.conf, self.streams_body);
        {
            let attempts = pin!(self.attempts());
            if let Some(end) = while_client_waits(r, conf, streams_body, attempts).await {
                return end;
            }
        }
        let already = if r.header_sent.get() { "" } else { ", so upstream connection is closed too" };
        self.log(Level::Info, format_args!("client prematurely closed connection{already}"));
        self.abort();
        self.peer_is_done(false);
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
                    match self.picked.take_if(|_| attempt.was_stale(failure)) {
                        Some(picked) => self.group.leave(picked, &mut self.tried),
                        None => self.peer_is_done(failure.blames_peer()),
                    }
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
                End::Outcome(outcome) => {
                    // Something went wrong on the client's side while the back end was still at work.
                    if self.picked.is_some() && matches!(outcome, Outcome::Close(status) if status != 502) {
                        self.abort();
                    }
                    self.peer_is_done(false);
                    return End::Outcome(outcome);
                }
            }
        }
    }

    /// Gives the connection to the present attempt's peer back and notes how the attempt went, once.
    pub(super) fn peer_is_done(&mut self, failed: bool) {
        let Some(picked) = self.picked.take() else { return };
        let mut report = Report { failed, ..Report::default() };
        if let Some(state) = self.r.upstream.borrow_mut().current() {
            report.status = if state.header_ms.is_some() { state.status } else { 0 };
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
        let mut attempt =
            Attempt { request_sent: false, reused: false, keeps_body: !self.streams_body, start: self.start };
        let owner = if self.group.keepalive.local { self.owner } else { 0 };
        let secured = self.identity();
        let tunnels = self.protocol.is_tunnel();
        let idle = self.picked.as_ref().filter(|_| !tunnels).and_then(|picked| {
            let kind = Kind { secured: secured.clone(), local: self.options.local };
            self.group.pool.take(&picked.peer, worker.index, owner, &kind)
        });
        let mut link = match idle {
            Some(link) => {
                attempt.reused = true;
                link
            }
            None => match self.connect(secured.as_ref(), attempt).await {
                Ok(stream) => Link {
                    stream,
                    requests: 0,
                    since: headwater_io::clock::now(),
                    reused: false,
                    kind: Kind { secured, local: self.options.local },
                    worker: worker.index,
                },
                Err(end) => return end,
            },
        };
        link.requests = link.requests.saturating_add(1);
        self.note(|state, now| state.connect_ms = Some(now));
        attempt.request_sent = true;
        if tunnels {
            return self.open_tunnel(link);
        }
        match self.exchange(&mut link.stream, attempt).await {
            Ok(Step::Upgraded(early)) => End::Upgraded(Box::new(link), early),
            Ok(step) => self.relay(link, step, owner).await,
            Err(end) => {
                // An answer that is dropped may have been complete.
                self.keep(link, owner);
                end
            }
        }
    }

    /// Tells the client of a tunnel that the other end is there.
    fn open_tunnel(&self, link: Link) -> End {
        self.set_status(200);
        self.r.headers_out.borrow_mut().status = 200;
        match self.r.send_header().and_then(|()| self.r.push_end()) {
            Ok(()) => End::Upgraded(Box::new(link), Vec::new()),
            Err(error) => End::Outcome(error.outcome()),
        }
    }

    /// Gives a connection back to the pool when it may carry another request, else closes it.
    pub(super) fn keep(&self, link: Link, owner: usize) {
        let clean = self.rest.is_empty() && self.held.is_empty() && !self.answered_early;
        if let Some(picked) = self.picked.as_ref().filter(|_| clean && self.protocol.reusable()) {
            let workers = self.r.exchange.generation.main.settings.worker_processes.count();
            self.group.pool.put(self.group, &picked.peer, link, owner, workers);
        }
    }

    async fn connect(&self, secured: Option<&Arc<Identity>>, attempt: Attempt) -> Result<Stream, End> {
        let Some(picked) = &self.picked else { return Err(End::Failed(Failure::NoLive, attempt)) };
        let connect = Stream::connect(&picked.peer.addr, &self.options);
        match with_timeout(&self.timer, self.conf.connect_timeout, connect).await {
            Ok(Ok(stream)) => match secured {
                None => Ok(stream),
                // Boxed, so that the future of a plain request has no room for a session.
                Some(identity) => Box::pin(self.secure(stream, identity, picked, attempt)).await,
            },
            Ok(Err(error)) => match SetupError::of(&error) {
                Some(setup) => {
                    self.setup_failed(setup);
                    self.set_status(500);
                    Err(End::Outcome(Outcome::Status(500)))
                }
                None => {
                    self.connect_failed(&picked.peer, &error);
                    Err(End::Failed(Failure::Error, attempt))
                }
            },
            Err(_) => {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                Err(End::Failed(Failure::Timeout, attempt))
            }
        }
    }

    fn setup_failed(&self, setup: &SetupError) {
        let text = os_error(&setup.error);
        match self.conf.bind.as_ref().filter(|_| setup.call == "bind") {
            Some(bind) => {
                let address = bind.value(self.r);
                let address = String::from_utf8_lossy(&address);
                self.log(Level::Crit, format_args!("bind({address}) failed {text}"));
            }
            None => self.log(Level::Alert, format_args!("{setup} {text}")),
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

    pub(super) fn set_status(&self, status: u16) {
        if let Some(state) = self.r.upstream.borrow_mut().current() {
            state.status = status;
        }
    }
}
