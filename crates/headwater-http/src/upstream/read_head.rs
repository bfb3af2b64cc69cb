//! Reading a response head and deciding what becomes of the response.
//!
//! Called by `engine` once the request has left, or as soon as the back end speaks. nginx's counterpart: `ngx_http_upstream_process_header`,
//! `ngx_http_upstream_test_next`, `ngx_http_upstream_intercept_errors`, `ngx_http_upstream_send_response`.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use headwater_io::scratch::with_scratch;
use headwater_io::stream::Stream;
use headwater_io::timer::with_timeout;

use super::engine::{End, Engine};
use super::head::{Verdict, process};
use super::peers::Tried;
use super::protocol::{Header, url};
use super::relay::Step;
use super::retry::{self, Attempt, Failure};
use super::send::Sent;
use crate::flow::error_log::Level;
use crate::flow::phases::{Outcome, Redirect};
impl Engine<'_> {
    /// Sends the request and reads the response head, which may come before all of the request has left: an answer ends the sending.
    pub(super) async fn exchange(&mut self, stream: &mut Stream, attempt: Attempt) -> Result<Step, End> {
        let mut out = self.outgoing(stream);
        let mut buffer = Vec::new();
        self.answered_early = false;
        self.r.action.set("sending request to upstream");
        while let Sent::Readable = self.send(stream, &mut out, attempt).await? {
            let read = poll_fn(|cx| Poll::Ready(self.poll_head(cx, stream, &mut buffer, attempt))).await;
            if let Poll::Ready(read) = read
                && let Some(step) = self.head_read(read, attempt)
            {
                self.answered_early = true;
                return step;
            }
        }
        self.r.action.set("reading response header from upstream");
        self.read_head(stream, &mut buffer, attempt).await
    }

    /// Reads until the head is complete; body bytes that came with it are passed on at once.
    async fn read_head(
        &mut self,
        stream: &mut Stream,
        buffer: &mut Vec<u8>,
        attempt: Attempt,
    ) -> Result<Step, End> {
        let timer = self.timer.clone();
        let limit = self.conf.read_timeout;
        loop {
            let read = poll_fn(|cx| self.poll_head(cx, stream, buffer, attempt));
            let Ok(read) = with_timeout(&timer, limit, read).await else {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                return Err(End::Failed(Failure::Timeout, attempt));
            };
            if let Some(step) = self.head_read(read, attempt) {
                return step;
            }
        }
    }

    /// Reads once and looks at what came; `None` means that the head is not complete.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        buffer: &mut Vec<u8>,
        attempt: Attempt,
    ) -> Poll<io::Result<Option<Result<Step, End>>>> {
        with_scratch(|scratch| {
            let length = ready!(stream.poll_read(cx, scratch))?;
            let bytes = scratch.get(..length).unwrap_or_default();
            Poll::Ready(Ok(self.head_bytes(bytes, buffer, attempt)))
        })
    }

    fn head_read(
        &self,
        read: io::Result<Option<Result<Step, End>>>,
        attempt: Attempt,
    ) -> Option<Result<Step, End>> {
        read.unwrap_or_else(|error| {
            self.log_broken("SSL_read", "recv", &error);
            Some(Err(End::Failed(Failure::Error, attempt)))
        })
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
        if self.probing {
            return self.accept_for_check(rest);
        }
        if retry::is_named(self.conf, status) {
            let failure = Failure::Status(status);
            // A response that could be dropped is passed on when there is nobody else to ask.
            if self.may_drop(attempt, failure) {
                return Err(End::Failed(failure, attempt));
            }
        }
        if status == 101 && self.head.upgrade && !r.is_main() {
            return self.invalid("upstream sent 101 to a subrequest", attempt);
        }
        if status == 101 && self.head.upgrade {
            return self.upgrade(rest);
        }
        if status < 200 {
            // The client takes it for an interim response; nothing may be taken for the final one.
            r.close_after();
        }
        if status == 404 && self.conf.intercept_404 {
            return Err(End::Outcome(Outcome::Status(status)));
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
        if r.loc().filters_log_upstream {
            *r.upstream_url.borrow_mut() =
                Some(url(r, self.protocol.scheme(), self.protocol.uri(&self.request)));
        }
        let sent = r.send_header();
        *r.upstream_url.borrow_mut() = None;
        if let Err(error) = sent {
            return Err(End::Outcome(error.outcome()));
        }
        self.protocol.input_filter_init(r, &self.head);
        let buffered = self.buffers_response();
        self.begin_store(buffered);
        if buffered {
            r.action.set("reading upstream");
        }
        // Without buffering, what came with the head still belongs to that in nginx's log.
        let step = self.body_bytes(rest);
        r.action.set("reading upstream");
        Ok(step)
    }

    /// Takes the answer to a health check as it is: nobody is to be told of it.
    fn accept_for_check(&mut self, rest: &[u8]) -> Result<Step, End> {
        let r = self.r;
        r.headers_out.borrow_mut().status = self.head.status;
        r.upstream.borrow_mut().headers = Some(self.head.headers.clone());
        r.header_sent.set(true);
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
        r.close_after();
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
}
