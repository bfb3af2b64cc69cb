//! Idle connections to the back ends of a group, shared by all workers.
//!
//! A connection is registered with the worker that made it; that worker takes it back without a system call, another one moves it to its own
//! reactor. nginx's counterpart: `ngx_http_upstream_keepalive_module.c`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headwater_io::stream::Stream;

use super::peers::{Group, Peer};
use super::tls::Identity;
use crate::flow::worker::Worker;

/// How often idle connections are looked over.
const SWEEP: Duration = Duration::from_millis(500);

/// What connections to one peer may differ in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kind {
    /// How it is secured; nothing for a plain one.
    pub secured: Option<Arc<Identity>>,
    /// The local address it was asked to have.
    pub local: Option<SocketAddr>,
}

/// A connection to a back end.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: Stream,
    /// Requests it has carried.
    pub requests: u64,
    /// When it was made.
    pub since: Instant,
    /// Whether it comes from the pool, so that the back end may have closed it meanwhile.
    pub reused: bool,
    /// What it is besides a connection to its peer.
    pub kind: Kind,
    /// The worker whose reactor knows it.
    pub worker: usize,
}

#[derive(Debug)]
struct Idle {
    peer: Arc<Peer>,
    link: Link,
    until: Instant,
    /// The location it belongs to when locations do not share.
    owner: usize,
}

/// The idle connections of a group.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    retired: AtomicBool,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection to a peer that is of this kind, one of this worker's if there is one.
    pub fn take(&self, peer: &Arc<Peer>, worker: usize, owner: usize, kind: &Kind) -> Option<Link> {
        loop {
            let idle = {
                let mut all = self.idle();
                if all.is_empty() {
                    return None;
                }
                let same = |idle: &Idle| Arc::ptr_eq(&idle.peer, peer) || idle.peer.addr == peer.addr;
                let fits = |idle: &Idle| same(idle) && idle.owner == owner && idle.link.kind == *kind;
                let own = all.iter().rposition(|idle| fits(idle) && idle.link.worker == worker);
                let at = own.or_else(|| all.iter().rposition(fits))?;
                all.remove(at)?
            };
            let mut link = idle.link;
            // A connection with unread bytes, or one that was closed, is never handed out.
            if idle.until <= headwater_io::clock::now() || !link.stream.looks_idle() {
                continue;
            }
            if link.worker != worker {
                let Ok(stream) = link.stream.rehome() else { continue };
                link.stream = stream;
                link.worker = worker;
                if !link.stream.looks_idle() {
                    continue;
                }
            }
            link.reused = true;
            return Some(link);
        }
    }

    /// Keeps a connection whose response is complete; the oldest one goes when there are too many.
    pub fn put(&self, group: &Group, peer: &Arc<Peer>, mut link: Link, owner: usize, workers: usize) {
        let keep = &group.keepalive;
        let old = keep.connections == 0
            || self.retired.load(Ordering::Relaxed)
            || link.requests >= keep.requests
            || headwater_io::clock::now().saturating_duration_since(link.since) >= keep.time
            || !link.stream.looks_idle();
        if old {
            return;
        }
        let until = headwater_io::clock::now() + keep.timeout;
        let limit = keep.connections.saturating_mul(workers.max(1));
        let removed = {
            let mut all = self.idle();
            all.push_back(Idle { peer: peer.clone(), link, until, owner });
            if all.len() > limit { all.pop_front() } else { None }
        };
        drop(removed);
    }

    /// Closes all idle connections and takes no more: the configuration the group belongs to is no longer the present one.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        let gone = std::mem::take(&mut *self.idle());
        drop(gone);
    }

    /// Closes the idle connections to peers that are none of the group any more.
    pub fn close_others(&self, is_peer: impl Fn(&Peer) -> bool) {
        let gone: VecDeque<Idle>;
        let mut all = self.idle();
        (*all, gone) = std::mem::take(&mut *all).into_iter().partition(|idle| is_peer(&idle.peer));
        drop(all);
        drop(gone);
    }

    /// Closes this worker's connections that timed out, were closed by the back end, or say something unasked.
    fn sweep(&self, worker: usize, now: Instant) {
        let mut gone = Vec::new();
        let mut all = self.idle();
        let mut index = 0;
        while let Some(idle) = all.get_mut(index) {
            if idle.link.worker == worker && (idle.until <= now || !idle.link.stream.looks_idle()) {
                gone.extend(all.remove(index));
            } else {
                index = index.saturating_add(1);
            }
        }
        drop(all);
    }
}

/// Looks over the idle connections of all groups, and what else is kept for further use, from time to time.
pub async fn janitor(worker: Rc<Worker>) {
    loop {
        headwater_io::timer::sleep(SWEEP).await;
        worker.release_memory();
        headwater_io::splice::close_unused();
        let now = headwater_io::clock::now();
        for group in &worker.generation().upstreams {
            group.pool.sweep(worker.index, now);
        }
    }
}
