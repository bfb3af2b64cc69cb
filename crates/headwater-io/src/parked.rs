//! Idle keepalive client connections, kept outside of the runtime.
//!
//! A connection that waits for its next request is a descriptor in an epoll set, an entry of some 20 bytes and the
//! caller's payload; it has no task, no timer and no reactor registration. The accept side parks connections here and
//! runs one loop over [`Parked::next`] per worker. nginx counterpart: `ngx_reusable_connection` and the keepalive
//! handler, with the connection's read event and timer.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

use crate::clock;
use crate::stream::{Stream, StreamKind};
use crate::sys;
use crate::timer::Timer;

#[path = "parked_slab.rs"]
mod slab;

use slab::{Entry, Slab};

/// Deadlines are rounded up to multiples of this many milliseconds.
pub const GRANULARITY_MS: u64 = 1 << GRANULARITY_SHIFT;
const GRANULARITY_SHIFT: u32 = 7;

/// Events taken from the kernel at once.
const BATCH: usize = 64;

/// What became of a parked connection.
#[derive(Debug)]
pub enum Event<T> {
    /// There is something to read: a request, the end of the stream or an error. The stream is registered again.
    Readable(Stream, T),
    /// Its deadline has passed. The descriptor is non-blocking and in no reactor.
    Expired(OwnedFd, StreamKind, T),
    /// There was something to read, but the reactor did not take the connection back; it is closed.
    Lost(io::Error, T),
}

/// One worker's set of parked connections.
#[derive(Debug)]
pub struct Parked<T> {
    epoll: AsyncFd<OwnedFd>,
    timer: Timer,
    state: RefCell<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    slab: Slab<T>,
    /// First slot of the list of each deadline.
    buckets: BTreeMap<u32, u32>,
    /// Connections that left the set and have not been handed out.
    leaving: VecDeque<(Why, Entry<T>)>,
}

#[derive(Clone, Copy, Debug)]
enum Why {
    Readable,
    Expired,
}

impl<T> Parked<T> {
    /// An empty set, registered with the current worker.
    ///
    /// # Errors
    /// What `epoll_create1(2)` and `epoll_ctl(2)` return; `Other` outside of a runtime.
    pub fn new() -> io::Result<Parked<T>> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Parked {
            epoll: sys::readable_fd(fd)?,
            timer: Timer::new(),
            state: RefCell::new(State {
                slab: Slab::new(),
                buckets: BTreeMap::new(),
                leaving: VecDeque::new(),
            }),
        })
    }

    /// Adds a connection, which stays until it becomes readable or `deadline` passes (up to [`GRANULARITY_MS`] late).
    ///
    /// Data that has arrived already makes it readable at once.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` returns; the connection is closed and the payload comes back.
    ///
    /// # Panics
    /// As [`Timer::arm`].
    pub fn park(&self, stream: Stream, deadline: Instant, payload: T) -> Result<(), (io::Error, T)> {
        let kind = stream.kind();
        let fd = match stream.into_std_fd() {
            Ok(fd) => fd,
            Err(error) => return Err((error, payload)),
        };
        let left =
            u64::try_from(deadline.saturating_duration_since(clock::now()).as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(clock::now_ns().saturating_add(left).div_ceil(1_000_000));
        let mut state = self.state.borrow_mut();
        let slot = state.slab.next_slot();
        let flags = EventFlags::IN | EventFlags::RDHUP;
        if let Err(error) =
            epoll::add(self.epoll.get_ref(), fd.as_fd(), EventData::new_u64(slot.into()), flags)
        {
            return Err((error.into(), payload));
        }
        state.slab.insert(Entry { fd, kind, bucket, previous: slab::NONE, next: slab::NONE, payload });
        state.link(slot, bucket);
        let is_first = state.buckets.first_key_value().is_some_and(|(first, _)| *first == bucket);
        drop(state);
        if is_first && self.timer.deadline().is_none_or(|armed| armed > bucket_ms(bucket)) {
            self.timer.arm_at(bucket_ms(bucket));
        }
        Ok(())
    }

    /// Waits for the next connection to leave the set. Only one task may wait at a time.
    ///
    /// # Errors
    /// What `epoll_wait(2)` returns. Failures of single connections are events, not errors.
    pub async fn next(&self) -> io::Result<Event<T>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Parked::next`] as a poll function.
    ///
    /// # Errors
    /// As [`Parked::next`].
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Event<T>>> {
        loop {
            if let Some((why, entry)) = self.state.borrow_mut().leaving.pop_front() {
                return Poll::Ready(Ok(hand_out(why, entry)));
            }
            if self.timer.poll_expired(cx).is_ready() {
                self.collect_expired();
                continue;
            }
            let mut guard = ready!(self.epoll.poll_read_ready(cx))?;
            if self.collect_readable()? < BATCH {
                // The set holds nothing ready any more; the next change makes the reactor report it again.
                guard.clear_ready();
            }
        }
    }

    /// Number of connections in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        let state = self.state.borrow();
        state.slab.len() + state.leaving.len()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out all connections, for a shutdown.
    pub fn drain(&self) -> Vec<(OwnedFd, StreamKind, T)> {
        let mut state = self.state.borrow_mut();
        state.buckets.clear();
        let leaving = std::mem::take(&mut state.leaving).into_iter().map(|(_, entry)| entry);
        let entries: Vec<_> = leaving.chain(state.slab.take_all()).collect();
        drop(state);
        self.timer.disarm();
        entries
            .into_iter()
            .map(|entry| {
                self.forget(&entry);
                (entry.fd, entry.kind, entry.payload)
            })
            .collect()
    }

    /// Takes out the connection whose deadline is nearest, to make room when descriptors run out.
    pub fn take_oldest(&self) -> Option<(OwnedFd, StreamKind, T)> {
        let mut state = self.state.borrow_mut();
        let (_, slot) = state.buckets.first_key_value().map(|(bucket, slot)| (*bucket, *slot))?;
        let entry = state.remove(slot)?;
        drop(state);
        self.forget(&entry);
        Some((entry.fd, entry.kind, entry.payload))
    }

    /// Moves what the kernel reports readable to the leaving queue; returns how many events there were.
    fn collect_readable(&self) -> io::Result<usize> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; BATCH];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = match epoll::wait(self.epoll.get_ref(), &mut events, Some(&at_once)) {
            Ok(events) => events,
            Err(rustix::io::Errno::INTR) => return Ok(BATCH),
            Err(error) => return Err(error.into()),
        };
        let mut state = self.state.borrow_mut();
        for event in events.iter() {
            if let Some(entry) = u32::try_from(event.data.u64()).ok().and_then(|slot| state.remove(slot)) {
                self.forget(&entry);
                state.leaving.push_back((Why::Readable, entry));
            }
        }
        Ok(events.len())
    }

    /// Moves what has expired to the leaving queue and arms the timer for the rest.
    fn collect_expired(&self) {
        let now = clock::now_ms();
        let mut state = self.state.borrow_mut();
        while let Some((bucket, slot)) =
            state.buckets.first_key_value().map(|(bucket, slot)| (*bucket, *slot))
        {
            if bucket_ms(bucket) > now {
                drop(state);
                self.timer.arm_at(bucket_ms(bucket));
                return;
            }
            match state.remove(slot) {
                Some(entry) => {
                    self.forget(&entry);
                    state.leaving.push_back((Why::Expired, entry));
                }
                None => {
                    state.buckets.remove(&bucket);
                }
            }
        }
        self.timer.disarm();
    }

    /// Takes a descriptor out of the epoll set.
    fn forget(&self, entry: &Entry<T>) {
        // It can only fail when the descriptor is not in the set, which is what is wanted.
        let _ = epoll::delete(self.epoll.get_ref(), entry.fd.as_fd());
    }
}

impl<T> State<T> {
    /// Puts a slot at the head of its deadline's list.
    fn link(&mut self, slot: u32, bucket: u32) {
        let Some(head) = self.buckets.insert(bucket, slot) else {
            return;
        };
        if let Some(entry) = self.slab.get_mut(slot) {
            entry.next = head;
        }
        if let Some(entry) = self.slab.get_mut(head) {
            entry.previous = slot;
        }
    }

    /// Takes an entry out of the slab and its list.
    fn remove(&mut self, slot: u32) -> Option<Entry<T>> {
        let entry = self.slab.remove(slot)?;
        if let Some(next) = self.slab.get_mut(entry.next) {
            next.previous = entry.previous;
        }
        if let Some(previous) = self.slab.get_mut(entry.previous) {
            previous.next = entry.next;
        } else if entry.next == slab::NONE {
            self.buckets.remove(&entry.bucket);
        } else {
            self.buckets.insert(entry.bucket, entry.next);
        }
        Some(entry)
    }
}

/// Makes the event for a connection that has left.
fn hand_out<T>(why: Why, entry: Entry<T>) -> Event<T> {
    match why {
        Why::Expired => Event::Expired(entry.fd, entry.kind, entry.payload),
        Why::Readable => match Stream::from_fd(entry.fd, entry.kind) {
            Ok(stream) => Event::Readable(stream, entry.payload),
            Err(error) => Event::Lost(error, entry.payload),
        },
    }
}

/// The bucket whose time is at or after `ms`. 32 bits last for 17 years of uptime; later ones expire then.
fn bucket_of(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(GRANULARITY_MS)).unwrap_or(u32::MAX)
}

/// The time at which a bucket expires.
fn bucket_ms(bucket: u32) -> u64 {
    u64::from(bucket) << GRANULARITY_SHIFT
}

/// Longest time a connection can be parked beyond its deadline.
pub const MAX_LATENESS: Duration = Duration::from_millis(GRANULARITY_MS);
