//! Lazy timers: arming again for later costs one store.
//!
//! Every connection owns a few of these. A worker keeps one ordered queue with at most one entry per timer and one
//! task that sleeps until the first entry. An entry that comes due while its timer has moved on is put back at the
//! true deadline; one whose timer was disarmed is dropped. Resolution is one millisecond.
//! nginx counterpart: `ngx_event_timer.c`, whose 300 ms lazy delay serves the same end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock;

/// Marks a timer without deadline, and a timer without queue entry.
const NEVER: u64 = u64::MAX;

/// One deadline that can be moved, removed and waited for; clones are handles on the same one.
///
/// It belongs to one worker. One task at a time can wait for it: the last to call [`Timer::poll_expired`].
#[derive(Clone, Default)]
pub struct Timer(Rc<Inner>);

struct Inner {
    /// When to fire, in [`clock::now_ms`] time.
    deadline: Cell<u64>,
    /// The time of this timer's queue entry.
    queued: Cell<u64>,
    /// Whether the deadline has passed and was noticed.
    fired: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Default for Inner {
    fn default() -> Inner {
        Inner {
            deadline: Cell::new(NEVER),
            queued: Cell::new(NEVER),
            fired: Cell::new(false),
            waker: Cell::new(None),
        }
    }
}

impl Timer {
    /// A timer that is not armed. Costs one small allocation.
    #[must_use]
    pub fn new() -> Timer {
        Timer::default()
    }

    /// Sets the deadline to `after` from now, whether or not the timer was armed before.
    ///
    /// # Panics
    /// When the worker's queue was empty and this is called outside of a `LocalSet`, which has to run the queue's task.
    pub fn arm(&self, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(NEVER);
        self.arm_at(clock::now_ns().saturating_add(after).div_ceil(1_000_000));
    }

    /// Sets the deadline in [`clock::now_ms`] time.
    ///
    /// # Panics
    /// As [`Timer::arm`].
    pub fn arm_at(&self, deadline: u64) {
        let deadline = deadline.min(NEVER - 1);
        self.0.deadline.set(deadline);
        self.0.fired.set(false);
        if deadline < self.0.queued.get() {
            enqueue(&self.0, deadline);
        }
    }

    /// Takes the deadline away; a fired timer is no longer expired.
    pub fn disarm(&self) {
        self.0.deadline.set(NEVER);
        self.0.fired.set(false);
    }

    /// Takes the deadline away and forgets who waited: for a timer that is kept for somebody else.
    pub fn retire(&self) {
        self.disarm();
        drop(self.0.waker.take());
    }

    /// Whether there is a deadline, passed or not.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.0.deadline.get() != NEVER
    }

    /// The deadline in [`clock::now_ms`] time.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        Some(self.0.deadline.get()).filter(|deadline| *deadline != NEVER)
    }

    /// Ready once the deadline has passed, until the timer is armed again or disarmed.
    ///
    /// Pending on a timer that is not armed; the task is woken when it is armed later and then expires.
    pub fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.fired.get() {
            return Poll::Ready(());
        }
        let waker = match self.0.waker.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.0.waker.set(Some(waker));
        Poll::Pending
    }

    /// Waits until the deadline has passed.
    pub async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await;
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("deadline", &self.deadline())
            .field("fired", &self.0.fired.get())
            .finish()
    }
}

/// The time of [`with_timeout`] has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timed out")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// Runs `future`, giving up `limit` after it first had to wait. A future that is ready at once never touches the timer.
///
/// The timer is disarmed afterwards, also when the returned future is dropped.
///
/// # Errors
/// [`Elapsed`] when the time has passed; the future is dropped then.
///
/// # Panics
/// As [`Timer::arm`].
pub async fn with_timeout<F: Future>(
    timer: &Timer,
    limit: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut armed = None;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let armed = armed.get_or_insert_with(|| {
            timer.arm(limit);
            Armed(timer)
        });
        armed.0.poll_expired(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// Disarms the timer it holds.
struct Armed<'a>(&'a Timer);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.disarm();
    }
}

/// Waits for `time`.
///
/// # Panics
/// As [`Timer::arm`].
pub async fn sleep(time: Duration) {
    let timer = Timer::new();
    timer.arm(time);
    timer.expired().await;
}

/// The worker's queue.
#[derive(Default)]
struct Queue {
    /// Ordered by time; the address of the timer makes keys unique, and cannot be reused while the entry's `Weak`
    /// holds the allocation.
    entries: BTreeMap<(u64, usize), Weak<Inner>>,
    driver: Driver,
}

/// What the queue's task is doing.
#[derive(Default)]
enum Driver {
    /// There is no task.
    #[default]
    Absent,
    /// It was spawned or woken and has not run since.
    Starting,
    /// It sleeps until the time given.
    Sleeping(u64, Waker),
}

thread_local! {
    static QUEUE: RefCell<Queue> = RefCell::default();
}

impl Drop for Inner {
    fn drop(&mut self) {
        let queued = self.queued.get();
        if queued == NEVER {
            return;
        }
        let key = (queued, std::ptr::from_ref(self) as usize);
        // The entry's memory goes now, not at its time. During the end of the thread the queue may be gone already.
        let _ = QUEUE.try_with(|queue| queue.try_borrow_mut().map(|mut queue| queue.entries.remove(&key)));
    }
}

/// Puts a timer into the queue, replacing the entry it may have, and makes sure the task wakes in time.
fn enqueue(timer: &Rc<Inner>, deadline: u64) {
    let address = Rc::as_ptr(timer) as usize;
    let old = timer.queued.replace(deadline);
    let action = QUEUE.try_with(|queue| {
        let mut queue = queue.borrow_mut();
        if old != NEVER {
            queue.entries.remove(&(old, address));
        }
        queue.entries.insert((deadline, address), Rc::downgrade(timer));
        match std::mem::take(&mut queue.driver) {
            Driver::Sleeping(until, waker) if deadline < until => {
                queue.driver = Driver::Starting;
                Action::Wake(waker)
            }
            Driver::Absent => Action::Spawn,
            other => {
                queue.driver = other;
                Action::Nothing
            }
        }
    });
    match action {
        Ok(Action::Wake(waker)) => waker.wake(),
        Ok(Action::Spawn) => spawn_driver(),
        Ok(Action::Nothing) | Err(_) => {}
    }
}

/// What has to follow an insertion, once the queue is no longer borrowed.
enum Action {
    Nothing,
    Wake(Waker),
    Spawn,
}

/// Starts the queue's task; it ends when the queue is empty.
fn spawn_driver() {
    set_driver(Driver::Starting);
    let guard = DriverGuard;
    tokio::task::spawn_local(async move {
        let _guard = guard;
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        poll_fn(|cx| {
            loop {
                let Some(next) = run_due() else {
                    return Poll::Ready(());
                };
                let wait = Duration::from_millis(next.saturating_sub(clock::now_ms()));
                sleep.as_mut().reset(tokio::time::Instant::now() + wait);
                if sleep.as_mut().poll(cx).is_pending() {
                    set_driver(Driver::Sleeping(next, cx.waker().clone()));
                    return Poll::Pending;
                }
            }
        })
        .await;
    });
}

/// Notes that the task is gone, when it ends as when its runtime is dropped; the next insertion starts another.
struct DriverGuard;

impl Drop for DriverGuard {
    fn drop(&mut self) {
        set_driver(Driver::Absent);
    }
}

fn set_driver(driver: Driver) {
    // The old state goes when the queue is no longer borrowed: it may hold a waker, whose drop is foreign code.
    // Nothing is left to drive when the thread is ending.
    let _old = QUEUE.try_with(|queue| std::mem::replace(&mut queue.borrow_mut().driver, driver));
}

/// Fires or moves every entry that is due; returns the time of the next one.
fn run_due() -> Option<u64> {
    let now = clock::now_ms();
    loop {
        let entry = QUEUE.try_with(|queue| {
            let mut queue = queue.borrow_mut();
            match queue.entries.first_key_value() {
                Some(((time, _), _)) if *time <= now => Err(queue.entries.pop_first()),
                other => Ok(other.map(|((time, _), _)| *time)),
            }
        });
        match entry {
            Ok(Err(Some((_, timer)))) => {
                if let Some(timer) = timer.upgrade() {
                    come_due(&timer, now);
                }
            }
            Ok(Ok(next)) => return next,
            Ok(Err(None)) | Err(_) => return None,
        }
    }
}

/// An entry of this timer has come due and left the queue: fires the timer if its deadline has passed, else queues it
/// again when it has one.
fn come_due(timer: &Rc<Inner>, now: u64) {
    timer.queued.set(NEVER);
    let deadline = timer.deadline.get();
    if deadline <= now {
        timer.fired.set(true);
        if let Some(waker) = timer.waker.take() {
            waker.wake();
        }
    } else if deadline != NEVER {
        timer.queued.set(deadline);
        let _ = QUEUE.try_with(|queue| {
            queue.borrow_mut().entries.insert((deadline, Rc::as_ptr(timer) as usize), Rc::downgrade(timer))
        });
    }
}

/// Entries in this worker's queue.
#[cfg(test)]
fn queue_len() -> usize {
    QUEUE.with(|queue| queue.borrow().entries.len())
}

#[cfg(test)]
#[path = "timer_tests.rs"]
mod tests;
