//! Subrequests: one client request split into cooperating internal ones.
//!
//! Called by modules: [`Request::subrequest`] makes one; [`Subrequest::fetch`] runs it and gives its response, [`Subrequest::include`] puts its response
//! into the parent's at this place, [`Subrequest::background`] lets it run on its own. A subrequest is an ordinary request with its own URI, location and
//! phases; it shares the client's headers and the variables. nginx's counterpart: `ngx_http_subrequest`, whose flags are the methods here.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use headwater_wire::method::Method;
use tokio::sync::Notify;

use super::Request;
use crate::filters::Chunk;
use crate::flow::connection::log_request;
use crate::flow::error_log::Level;
use crate::flow::output::{Output, SendError};
use crate::flow::phases::{self, Finish};
use crate::flow::pinned::pinned;
use crate::flow::postpone::{EndFamily, Family};
use crate::flow::worker::CatchPanic;

/// How deep subrequests nest (nginx: `NGX_HTTP_MAX_SUBREQUESTS`, which leaves room for one more).
pub const MAX_NESTING: u8 = 51;

/// The status that closes the connection without a word.
const CLOSE: u16 = 444;
/// The status for the log of a request whose subrequest panicked.
const PANICKED: u16 = 500;

/// Why a subrequest has no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubrequestError {
    /// It could not start: its parent is over already.
    NotStarted,
    /// It could not start: subrequests nest deeper than [`MAX_NESTING`].
    TooDeep,
    /// The client is gone.
    ClientGone,
    /// Its response is larger than `subrequest_output_buffer_size`, or than the limit it was given.
    TooLarge,
    /// It broke off; the status is the one for the log.
    Failed(u16),
}

impl fmt::Display for SubrequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("the request is over"),
            Self::TooDeep => f.write_str("subrequests nest too deep"),
            Self::ClientGone => f.write_str("the client is gone"),
            Self::TooLarge => f.write_str("the response is too large"),
            Self::Failed(status) => write!(f, "the subrequest failed with {status}"),
        }
    }
}

impl std::error::Error for SubrequestError {}

/// The whole response of a subrequest.
pub struct Response {
    /// The subrequest: its head is in `headers_out`, and variables show what it knows.
    pub request: Rc<Request>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.request.headers_out.borrow().status()
    }
}

/// Called once when a subrequest is over, however it ended (nginx: `post_subrequest`). The request is the subrequest; its parent is `r.parent`.
pub type Handler = Box<dyn FnOnce(&Request, Result<u16, SubrequestError>)>;

/// A subrequest about to start.
pub struct Subrequest {
    parent: Option<Rc<Request>>,
    uri: Bytes,
    args: Bytes,
    method: Method,
    clone: bool,
    header_only: bool,
    passes_body: bool,
    limit: Option<usize>,
    stub: Option<Bytes>,
    handler: Option<Handler>,
}

/// A subrequest that runs in a task of its own.
pub struct Child {
    request: Rc<Request>,
    over: Rc<Over>,
}

/// How a subrequest ended, for those who wait for that.
#[derive(Default)]
struct Over {
    outcome: Cell<Option<Result<u16, SubrequestError>>>,
    told: Notify,
}

/// The body of a subrequest that is kept in memory.
pub struct MemorySink {
    bytes: RefCell<BytesMut>,
    limit: usize,
    /// Whether what goes beyond the limit is no mistake: the beginning is kept.
    truncates: bool,
    /// Whether more came than the limit allows.
    pub(crate) overflow: Cell<bool>,
}

impl MemorySink {
    /// Keeps the beginning of a body; what makes it longer ends it.
    pub(crate) fn beginning(limit: usize) -> Self {
        Self { bytes: RefCell::default(), limit, truncates: true, overflow: Cell::new(false) }
    }

    /// The bytes that came.
    pub(crate) fn take(&self) -> Bytes {
        self.bytes.take().freeze()
    }

    /// Takes a chunk of the body.
    pub(crate) fn push(&self, r: &Request, chunk: &Chunk<'_>) -> Result<(), SendError> {
        let room = self.limit.saturating_sub(self.bytes.borrow().len());
        if chunk.len() > room as u64 {
            if self.truncates {
                self.overflow.set(true);
                let _ = chunk.read(|bytes| {
                    let room = self.limit.saturating_sub(self.bytes.borrow().len()).min(bytes.len());
                    self.bytes.borrow_mut().extend_from_slice(bytes.get(..room).unwrap_or_default());
                    Ok(())
                });
                return Err(SendError::Broken);
            }
            let length = chunk.len().saturating_add(self.bytes.borrow().len() as u64);
            r.log(Level::Error, format_args!("too big subrequest response: {length}"));
            self.overflow.set(true);
            return Err(SendError::Broken);
        }
        chunk.read(|bytes| {
            self.bytes.borrow_mut().extend_from_slice(bytes);
            Ok(())
        })
    }
}

impl Request {
    /// A subrequest of this request for a URI, which is not escaped and has no arguments.
    #[must_use]
    pub fn subrequest(&self, uri: impl Into<Bytes>) -> Subrequest {
        Subrequest {
            parent: self.owner(),
            uri: uri.into(),
            args: Bytes::new(),
            method: Method::Get,
            clone: false,
            header_only: false,
            passes_body: true,
            limit: None,
            stub: None,
            handler: None,
        }
    }

    /// What this request and its subrequests share, when there are any.
    pub(crate) fn family(&self) -> Option<&Family> {
        self.output_root().family.get().map(|family| &**family)
    }

    fn make_family(&self) -> Option<&Family> {
        let root = self.output_root();
        if root.family.get().is_none() {
            let _ = root.family.set(Box::new(Family::new(&root.owner()?)));
        }
        self.family()
    }
}

impl Subrequest {
    /// The query string, without `?`.
    #[must_use]
    pub fn args(mut self, args: impl Into<Bytes>) -> Self {
        self.args = args.into();
        self
    }

    /// Another method than GET.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Goes on in the parent's location with the parent's method, rather than finding a location (nginx: `NGX_HTTP_SUBREQUEST_CLONE`).
    #[must_use]
    pub fn clone_request(mut self) -> Self {
        self.clone = true;
        self
    }

    /// Only the head is of interest: the body is dropped.
    #[must_use]
    pub fn header_only(mut self) -> Self {
        self.header_only = true;
        self
    }

    /// The client's request body is none of its business.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.passes_body = false;
        self
    }

    /// The largest body that [`Subrequest::fetch`] takes, bytes; `subrequest_output_buffer_size` unless this is called.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What to say instead of an error, or of nothing.
    #[must_use]
    pub fn stub(mut self, text: impl Into<Bytes>) -> Self {
        self.stub = Some(text.into());
        self
    }

    /// Has a function called when the subrequest is over, however it ended.
    #[must_use]
    pub fn on_done(mut self, handler: impl FnOnce(&Request, Result<u16, SubrequestError>) + 'static) -> Self {
        self.handler = Some(Box::new(handler));
        self
    }

    /// Runs it and gives its response, kept in memory (nginx: `NGX_HTTP_SUBREQUEST_IN_MEMORY` and `_WAITED`). Any number can be waited for at once, joined or raced;
    /// one that is dropped is cancelled.
    ///
    /// # Errors
    /// Why there is no response. A response with an error status is a response.
    pub async fn fetch(self) -> Result<Response, SubrequestError> {
        // Who waits for the client in a task of its own is the client's own request.
        let watches = self.parent.as_ref().is_some_and(|parent| parent.is_main());
        self.run_in_memory(watches).await
    }

    /// As [`Subrequest::fetch`], in a task of its own, for those who cannot wait. The function is called once; the parent's response does not end before.
    ///
    /// # Errors
    /// When it cannot start; the function is not called then.
    pub fn collect(
        self,
        done: impl FnOnce(Result<Response, SubrequestError>) + 'static,
    ) -> Result<(), SubrequestError> {
        let parent = self.parent.clone().ok_or(SubrequestError::NotStarted)?;
        self.may_nest(&parent)?;
        let family = parent.make_family().ok_or(SubrequestError::NotStarted)?;
        let mut collected = Collected { parent: parent.clone(), done: Some(done) };
        let task = async move {
            let run = CatchPanic(pinned(|| self.run_in_memory(false)));
            let outcome = run.await.unwrap_or_else(|text| Err(panicked(&collected.parent, &text)));
            collected.finish(outcome);
        };
        family.enter_free(tokio::task::spawn_local(task).abort_handle());
        Ok(())
    }

    async fn run_in_memory(mut self, watches: bool) -> Result<Response, SubrequestError> {
        let parent = self.parent.clone().ok_or(SubrequestError::NotStarted)?;
        let limit = self.limit.unwrap_or(*parent.loc().core.subrequest_output_buffer_size);
        let sink = Rc::new(MemorySink {
            bytes: RefCell::default(),
            limit,
            truncates: false,
            overflow: Cell::new(false),
        });
        let mut handler = self.handler.take();
        let child = self.child(Output::Memory(sink.clone()))?;
        let _family = EndFamily(&child);
        let run = pinned(|| run_whole(&child, self.clone));
        let finish = match watches {
            true => {
                let connection = parent.connection().clone();
                tokio::select! {
                    biased;
                    finish = run => finish,
                    () = connection.closed() => Finish::Close(499),
                }
            }
            false => run.await,
        };
        let outcome = match finish {
            _ if sink.overflow.get() => Err(SubrequestError::TooLarge),
            finish => outcome_of(&child, finish),
        };
        child.done.set(true);
        end(&child, outcome, &mut handler);
        outcome?;
        Ok(Response { request: child.clone(), body: sink.take() })
    }

    /// Puts its response at this place of the parent's, which goes on meanwhile: what the parent and further subrequests say comes behind it.
    ///
    /// # Errors
    /// When it cannot start.
    pub fn include(self) -> Result<Child, SubrequestError> {
        let parent = self.parent.clone().ok_or(SubrequestError::NotStarted)?;
        let family = parent.make_family().ok_or(SubrequestError::NotStarted)?;
        let (mut this, over) = (self, Rc::new(Over::default()));
        let child = this.child(Output::Part)?;
        let task = run_in_task(child.clone(), this.clone, this.handler.take(), over.clone());
        let task = tokio::task::spawn_local(task).abort_handle();
        family.enter(&child, task);
        family.place(&child);
        Ok(Child { request: child, over })
    }

    /// Lets it run on its own, after the response, too; its response goes nowhere (nginx: `NGX_HTTP_SUBREQUEST_BACKGROUND`).
    ///
    /// # Errors
    /// When it cannot start.
    pub fn background(mut self) -> Result<(), SubrequestError> {
        let mut handler = self.handler.take();
        let child = self.child(Output::Discard)?;
        let clone = self.clone;
        tokio::task::spawn_local(async move {
            let _family = EndFamily(&child);
            let run = CatchPanic(pinned(|| run_whole(&child, clone)));
            let outcome = match run.await {
                Ok(finish) => outcome_of(&child, finish),
                Err(text) => Err(panicked(&child, &text)),
            };
            child.done.set(true);
            end(&child, outcome, &mut handler);
        });
        Ok(())
    }

    fn child(&self, output: Output) -> Result<Rc<Request>, SubrequestError> {
        let parent = self.parent.clone().ok_or(SubrequestError::NotStarted)?;
        self.may_nest(&parent)?;
        let method = if self.clone { parent.method.get() } else { self.method };
        let child = Request::child(&parent, method, self.uri.clone(), self.args.clone(), output);
        child.header_only.set(self.header_only || method == Method::Head);
        child.passes_body.set(self.passes_body);
        *child.stub.borrow_mut() = self.stub.clone();
        if self.clone {
            child.location.set(parent.location.get());
            child.location_found.set(true);
            child.valid_unparsed_uri.set(parent.valid_unparsed_uri.get());
        }
        Ok(child)
    }
}

impl Subrequest {
    fn may_nest(&self, parent: &Request) -> Result<(), SubrequestError> {
        if parent.nesting_left.get() > 0 {
            return Ok(());
        }
        let uri = String::from_utf8_lossy(&self.uri).into_owned();
        parent.log(Level::Error, format_args!("subrequests cycle while processing \"{uri}\""));
        Err(SubrequestError::TooDeep)
    }
}

/// Tells who collects a response that there is one, or that there will be none.
struct Collected<F: FnOnce(Result<Response, SubrequestError>)> {
    parent: Rc<Request>,
    done: Option<F>,
}

impl<F: FnOnce(Result<Response, SubrequestError>)> Collected<F> {
    fn finish(&mut self, outcome: Result<Response, SubrequestError>) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }
}

impl<F: FnOnce(Result<Response, SubrequestError>)> Drop for Collected<F> {
    fn drop(&mut self) {
        self.finish(Err(SubrequestError::ClientGone));
        if let Some(family) = self.parent.family() {
            family.leave_free();
        }
    }
}

impl Child {
    /// The subrequest.
    #[must_use]
    pub fn request(&self) -> &Rc<Request> {
        &self.request
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.over.outcome.get().is_some()
    }

    /// Waits until it is over; gives the status of its response. Its output has gone on by then (nginx: `NGX_HTTP_SUBREQUEST_WAITED`).
    ///
    /// # Errors
    /// How it failed.
    pub async fn done(&self) -> Result<u16, SubrequestError> {
        loop {
            let told = self.over.told.notified();
            if let Some(outcome) = self.over.outcome.get() {
                return outcome;
            }
            told.await;
        }
    }
}

/// Runs a subrequest whose response is its own, and those that have a part in it.
async fn run_whole(child: &Rc<Request>, clone: bool) -> Finish {
    let finish = phases::run_child(child, clone).await;
    match (child.family(), finish) {
        (Some(family), Finish::Done) => {
            child.done.set(true);
            match family.over(child).await {
                None => Finish::Done,
                Some(status) => Finish::Close(status),
            }
        }
        (_, finish) => finish,
    }
}

/// Tells everybody that a subrequest's task is over, also when it was aborted.
struct Leave {
    child: Rc<Request>,
    handler: Option<Handler>,
    over: Rc<Over>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.over.outcome.get().is_none() {
            self.finish(Err(SubrequestError::ClientGone));
        }
        if let Some(family) = self.child.family() {
            family.leave(&self.child);
        }
    }
}

impl Leave {
    fn finish(&mut self, outcome: Result<u16, SubrequestError>) {
        end(&self.child, outcome, &mut self.handler);
        self.over.outcome.set(Some(outcome));
        self.over.told.notify_waiters();
    }
}

/// A subrequest whose output goes to the client: waits until it may begin, runs, and passes the turn on.
async fn run_in_task(child: Rc<Request>, clone: bool, handler: Option<Handler>, over: Rc<Over>) {
    let mut leave = Leave { child: child.clone(), handler, over };
    child.may_begin.notified().await;
    let run = CatchPanic(pinned(|| phases::run_child(&child, clone)));
    let outcome = match run.await {
        Ok(finish) => outcome_of(&child, finish),
        Err(text) => Err(panicked(&child, &text)),
    };
    if let Some(family) = child.family() {
        // A part that breaks off is logged and ends there; the rest of the response follows, as in nginx.
        let fatal = match outcome {
            Err(SubrequestError::Failed(status @ (CLOSE | PANICKED))) => Some(status),
            Err(SubrequestError::ClientGone) => Some(499),
            _ => family.complete(&child).err().map(|_| 499),
        };
        if let Some(status) = fatal {
            family.fail(status);
        }
    }
    leave.finish(outcome);
}

fn panicked(child: &Request, text: &str) -> SubrequestError {
    child.log(Level::Alert, format_args!("panic in a subrequest: {text}"));
    SubrequestError::Failed(PANICKED)
}

fn outcome_of(child: &Request, finish: Finish) -> Result<u16, SubrequestError> {
    match finish {
        Finish::Done => Ok(child.headers_out.borrow().status()),
        Finish::Close(499) if child.connection().broken.get() => Err(SubrequestError::ClientGone),
        Finish::Close(status) => Err(SubrequestError::Failed(status)),
    }
}

/// What follows every subrequest: its line in the log, when asked for, and its parent's function.
fn end(child: &Request, outcome: Result<u16, SubrequestError>, handler: &mut Option<Handler>) {
    if child.loc().core.log_subrequest {
        log_request(child);
    }
    if let Some(handler) = handler.take() {
        handler(child, outcome);
    }
}
