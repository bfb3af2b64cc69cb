//! The order of output of a request and its subrequests: document order, whatever ends first.
//!
//! Called by `flow::output` for each chunk once a request has subrequests, and by `request::subrequest` when one starts or ends. One request of a
//! family is *active*: its chunks go on to the client. The others keep theirs, and back-pressure (`Request::queued`) makes them wait. nginx's
//! counterpart: `ngx_http_postpone_filter_module.c`, where the active request is `c->data`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::out_queue::FileRange;
use super::output::{Output, SendError};
use crate::filters::{Chunk, End};
use crate::request::Request;

/// How many subrequests of one request run at the same time; further ones start in their order. The active one always runs.
const AT_ONCE: usize = 64;

/// A chunk that is kept.
#[derive(Debug)]
enum Kept {
    Bytes(Bytes),
    File(FileRange),
    Empty,
}

/// What a request has in its output beyond what went on already.
enum Item {
    Data(Kept, End),
    Child(Rc<Request>),
}

/// The output of one request that waits for its turn.
#[derive(Default)]
pub(crate) struct Postponed {
    items: VecDeque<Item>,
    bytes: u64,
}

/// What a request and its subrequests need of each other; made with the first subrequest.
pub(crate) struct Family {
    /// Kept alive here: a subrequest that was over before its turn belongs to nobody else. [`Family::abort`] lets go of it.
    active: RefCell<Option<Rc<Request>>>,
    /// Subrequests that are not over, those in the background left out.
    running: Cell<usize>,
    /// Those of them that have begun.
    begun: Cell<usize>,
    /// Those that have not, in order.
    waiting: RefCell<VecDeque<Rc<Request>>>,
    tasks: RefCell<Vec<AbortHandle>>,
    /// Told whenever the turn passes on, something was written, or a subrequest ends.
    pub(crate) changed: Notify,
    failed: Cell<Option<u16>>,
}

impl Family {
    /// A family of one: the request whose response it is is active.
    pub(crate) fn new(root: &Rc<Request>) -> Self {
        Self {
            active: RefCell::new(Some(root.clone())),
            running: Cell::new(0),
            begun: Cell::new(0),
            waiting: RefCell::default(),
            tasks: RefCell::default(),
            changed: Notify::new(),
            failed: Cell::new(None),
        }
    }

    /// Whether it is this request's turn.
    pub(crate) fn is_active(&self, r: &Request) -> bool {
        self.active.borrow().as_deref().is_some_and(|active| std::ptr::eq(active, r))
    }

    /// The status with which all of it must end, when a subrequest cannot be completed.
    pub(crate) fn failed(&self) -> Option<u16> {
        self.failed.get()
    }

    /// Ends all of it: the client learns from the closed connection that its response is not whole.
    pub(crate) fn fail(&self, status: u16) {
        self.failed.set(Some(status));
        self.changed.notify_waiters();
    }

    /// Gives a subrequest its place in its parent's output.
    pub(crate) fn place(&self, child: &Rc<Request>) {
        let Some(parent) = &child.parent else { return };
        parent.postponed.borrow_mut().items.push_back(Item::Child(child.clone()));
        if self.is_active(parent) {
            // What the parent said before has gone on already, unless another child is before this one.
            let _ = self.pass_on();
        }
    }

    /// Notes that a subrequest's task runs; it may begin when `begins` says so.
    pub(crate) fn enter(&self, child: &Rc<Request>, task: AbortHandle) {
        self.running.set(self.running.get().saturating_add(1));
        let mut tasks = self.tasks.borrow_mut();
        if tasks.len() == tasks.capacity() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task);
        drop(tasks);
        self.waiting.borrow_mut().push_back(child.clone());
        self.let_begin();
    }

    /// Notes a task whose subrequest has no place in the output: it runs at once.
    pub(crate) fn enter_free(&self, task: AbortHandle) {
        self.running.set(self.running.get().saturating_add(1));
        self.tasks.borrow_mut().push(task);
    }

    /// Notes that such a task is over.
    pub(crate) fn leave_free(&self) {
        self.running.set(self.running.get().saturating_sub(1));
        self.changed.notify_waiters();
    }

    /// Lets as many subrequests begin as may run.
    fn let_begin(&self) {
        while self.begun.get() < AT_ONCE {
            let Some(next) = self.waiting.borrow_mut().pop_front() else { return };
            self.begin(&next);
        }
    }

    fn begin(&self, child: &Request) {
        if !child.begun.replace(true) {
            self.begun.set(self.begun.get().saturating_add(1));
            child.may_begin.notify_one();
        }
    }

    /// Notes that a subrequest's task is over, however it ended.
    pub(crate) fn leave(&self, child: &Request) {
        self.running.set(self.running.get().saturating_sub(1));
        if child.begun.get() {
            self.begun.set(self.begun.get().saturating_sub(1));
        }
        self.let_begin();
        self.changed.notify_waiters();
    }

    /// Whether every subrequest is over and nothing waits for its turn.
    pub(crate) fn is_over(&self, root: &Request) -> bool {
        self.running.get() == 0 && root.held.get() == 0 && root.postponed.borrow().items.is_empty()
    }

    /// Waits until every subrequest is over; gives the status with which all of it must end, if it must.
    pub(crate) async fn over(&self, root: &Request) -> Option<u16> {
        loop {
            let changed = self.changed.notified();
            if self.failed().is_some() || self.is_over(root) {
                return self.failed();
            }
            changed.await;
        }
    }

    /// Takes a chunk of a request.
    pub(crate) fn push(&self, r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        if self.failed.get().is_some() {
            return Err(SendError::Broken);
        }
        if self.is_active(r) && r.postponed.borrow().items.is_empty() {
            return go_on(r, chunk, end);
        }
        let kept = match chunk {
            Chunk::Slice(slice) => Kept::Bytes(Bytes::copy_from_slice(slice)),
            Chunk::Bytes(bytes) => Kept::Bytes(bytes),
            Chunk::File(range) => Kept::File(range),
            Chunk::Empty if end == End::More => return Ok(()),
            Chunk::Empty => Kept::Empty,
        };
        let mut postponed = r.postponed.borrow_mut();
        postponed.bytes = postponed.bytes.saturating_add(kept.len());
        postponed.items.push_back(Item::Data(kept, end));
        Ok(())
    }

    /// A subrequest's output is complete: the turn passes on.
    pub(crate) fn complete(&self, child: &Request) -> Result<(), SendError> {
        child.done.set(true);
        let passed = if self.is_active(child) { self.pass_on() } else { Ok(()) };
        self.changed.notify_waiters();
        passed
    }

    /// Lets everything go on whose turn it is: what the active request kept, then its children, then what comes behind it.
    fn pass_on(&self) -> Result<(), SendError> {
        loop {
            let Some(active) = self.active.borrow().clone() else { return Ok(()) };
            let item = active.postponed.borrow_mut().items.pop_front();
            match item {
                Some(Item::Data(kept, end)) => {
                    let mut postponed = active.postponed.borrow_mut();
                    postponed.bytes = postponed.bytes.saturating_sub(kept.len());
                    drop(postponed);
                    go_on(&active, kept.chunk(), end)?;
                }
                Some(Item::Child(child)) => {
                    self.begin(&child);
                    drop(self.active.replace(Some(child)));
                    // Its place is kept until it is over; it is found again as its parent.
                    self.changed.notify_waiters();
                }
                None => match &active.parent {
                    Some(parent) if active.done.get() && matches!(active.output, Output::Part) => {
                        drop(self.active.replace(Some(parent.clone())));
                    }
                    _ => return Ok(()),
                },
            }
        }
    }

    /// Ends what still runs and lets go of what was kept.
    pub(crate) fn abort(&self, root: &Request) {
        for task in self.tasks.take() {
            task.abort();
        }
        self.waiting.borrow_mut().clear();
        self.active.take();
        root.postponed.take().clear();
    }
}

impl Postponed {
    /// Bytes that wait, those of files included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Lets go of everything below: requests and their parents hold each other until then.
    fn clear(self) {
        let mut levels = vec![self];
        while let Some(level) = levels.pop() {
            for item in level.items {
                if let Item::Child(child) = item {
                    levels.push(child.postponed.take());
                }
            }
        }
    }
}

impl Kept {
    fn len(&self) -> u64 {
        match self {
            Kept::Bytes(bytes) => bytes.len() as u64,
            Kept::File(range) => range.len,
            Kept::Empty => 0,
        }
    }

    fn chunk(self) -> Chunk<'static> {
        match self {
            Kept::Bytes(bytes) => Chunk::Bytes(bytes),
            Kept::File(range) => Chunk::File(range),
            Kept::Empty => Chunk::Empty,
        }
    }
}

/// Ends the subrequests that are left when the request whose response it is ends, or is dropped.
pub(crate) struct EndFamily<'a>(pub(crate) &'a Rc<Request>);

impl Drop for EndFamily<'_> {
    fn drop(&mut self) {
        if let Some(family) = self.0.family.get() {
            family.abort(self.0);
        }
    }
}

/// Hands a chunk whose turn it is to what lies behind: the request whose response it is ends it, a subrequest only its part of it.
fn go_on(r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
    let root = r.output_root();
    if std::ptr::eq(r, root) {
        return root.output.deliver(root, chunk, end);
    }
    let end = if end == End::Last { End::More } else { end };
    if chunk.is_empty() && end == End::More {
        return Ok(());
    }
    root.output.deliver(root, chunk, end)
}
