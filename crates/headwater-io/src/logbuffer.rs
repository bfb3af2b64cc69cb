//! Batching of log lines: one write per turn of the event loop, or `buffer=`, `flush=` and `gzip=` of `access_log`.
//!
//! Each worker has one [`LogBuffer`] per log; the log room appends a line per request.
//! nginx counterpart: `ngx_http_log_handler`, `ngx_http_log_flush` and `ngx_http_log_gzip`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::logfile::LogFile;
use crate::timer::Timer;

/// Lines of one turn are written early when they exceed this many bytes.
const TURN_LIMIT: usize = 64 * 1024;

/// When a buffered log is written: the parameters of `access_log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferOptions {
    /// `buffer=`: bytes to collect before writing.
    pub size: usize,
    /// `flush=`: the longest time a line may wait.
    pub flush: Option<Duration>,
    /// `gzip=`: the compression level, 1–9; each write is a gzip member of its own.
    pub gzip: Option<u32>,
}

/// One worker's end of a log file. Dropping the last clone writes what is left.
#[derive(Clone)]
pub struct LogBuffer(Rc<Inner>);

struct Inner {
    file: Arc<LogFile>,
    options: Option<BufferOptions>,
    lines: RefCell<Vec<u8>>,
    timer: Timer,
    task: Cell<Task>,
    /// The first error of a write that nobody waited for.
    error: Cell<Option<io::Error>>,
}

/// What the flushing task does.
#[derive(Debug, Default)]
enum Task {
    /// There is none.
    #[default]
    Absent,
    /// It has been spawned or woken and will run this turn.
    Running,
    /// It waits.
    Idle(Waker),
}

impl LogBuffer {
    /// Lines are written once per turn of the worker's loop, or as `options` say.
    #[must_use]
    pub fn new(file: Arc<LogFile>, options: Option<BufferOptions>) -> LogBuffer {
        LogBuffer(Rc::new(Inner {
            file,
            options,
            lines: RefCell::default(),
            timer: Timer::new(),
            task: Cell::default(),
            error: Cell::default(),
        }))
    }

    /// The file behind.
    #[must_use]
    pub fn file(&self) -> &Arc<LogFile> {
        &self.0.file
    }

    /// Adds a line, which must end in a line feed.
    ///
    /// # Panics
    /// The first call, and one that starts a `flush=` interval, must happen inside a `LocalSet`.
    pub fn append(&self, line: &[u8]) {
        self.append_with(|lines| lines.extend_from_slice(line));
    }

    /// Adds a line by letting `f` append it to the pending ones.
    ///
    /// # Panics
    /// As [`LogBuffer::append`]; also when `f` itself uses this log.
    pub fn append_with(&self, f: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.0.lines.borrow_mut();
        let before = lines.len();
        f(&mut lines);
        let limit = self.0.options.map_or(TURN_LIMIT, |options| options.size);
        if lines.len() > limit {
            // nginx writes what was collected before the line that does not fit, then starts with that line.
            let keep = if lines.len() - before > limit { lines.len() } else { before };
            self.0.write(&lines[..keep]);
            lines.drain(..keep);
        }
        if lines.is_empty() {
            return;
        }
        drop(lines);
        match self.0.options {
            None => self.wake_task(),
            Some(BufferOptions { flush: Some(flush), .. }) if !self.0.timer.is_armed() => {
                self.0.timer.arm(flush);
                self.start_task();
            }
            Some(_) => {}
        }
    }

    /// Writes what is pending now.
    ///
    /// # Errors
    /// That of this write, or of an earlier one that nobody has seen yet.
    pub fn flush(&self) -> io::Result<()> {
        self.0.flush();
        self.0.error.take().map_or(Ok(()), Err)
    }

    /// The first error of a write that nobody has seen yet.
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        self.0.error.take()
    }

    /// Lets the task run after everything that is ready now: it is put at the end of the `LocalSet`'s queue.
    fn wake_task(&self) {
        match self.0.task.replace(Task::Running) {
            Task::Idle(waker) => waker.wake(),
            Task::Running => {}
            Task::Absent => self.spawn_task(),
        }
    }

    /// Makes sure that there is a task to wait for the timer.
    fn start_task(&self) {
        match self.0.task.take() {
            Task::Absent => {
                self.0.task.set(Task::Running);
                self.spawn_task();
            }
            other => self.0.task.set(other),
        }
    }

    fn spawn_task(&self) {
        let guard = TaskGuard(Rc::downgrade(&self.0));
        tokio::task::spawn_local(async move {
            // The task's first run may come before other ready tasks have appended; from then on it is woken last.
            poll_fn(|cx| {
                let Some(inner) = guard.0.upgrade() else {
                    return Poll::Ready(());
                };
                if inner.options.is_none() || inner.timer.poll_expired(cx).is_ready() {
                    inner.flush();
                    // Registers for the next interval.
                    let _ = inner.timer.poll_expired(cx);
                }
                inner.task.set(Task::Idle(cx.waker().clone()));
                Poll::Pending
            })
            .await;
        });
    }
}

impl fmt::Debug for LogBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogBuffer")
            .field("file", &self.0.file)
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Writes and forgets the pending lines.
    fn flush(&self) {
        self.timer.disarm();
        let mut lines = std::mem::take(&mut *self.lines.borrow_mut());
        if lines.is_empty() {
            return;
        }
        self.write(&lines);
        lines.clear();
        if lines.capacity() <= TURN_LIMIT * 2 {
            *self.lines.borrow_mut() = lines;
        }
    }

    /// Writes bytes, compressed if so configured; keeps the first error for [`LogBuffer::flush`].
    fn write(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let result = match self.options.and_then(|options| options.gzip) {
            None => self.file.write(bytes),
            Some(level) => gzip(bytes, level).and_then(|member| self.file.write(&member)),
        };
        if let Err(error) = result {
            let first = self.error.take().unwrap_or(error);
            self.error.set(Some(first));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.flush();
        if let Task::Idle(waker) = self.task.take() {
            // Lets the task see that its log is gone, and end.
            waker.wake();
        }
    }
}

/// Notes that the task is gone, when it ends as when its runtime is dropped.
struct TaskGuard(Weak<Inner>);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.task.set(Task::Absent);
        }
    }
}

/// One gzip member.
fn gzip(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder =
        GzEncoder::new(Vec::with_capacity(bytes.len() / 4 + 64), Compression::new(level.clamp(1, 9)));
    encoder.write_all(bytes)?;
    encoder.finish()
}
