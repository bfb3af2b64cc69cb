//! Health checks: requests that nobody sent, by which peers are found unhealthy before clients find them so.
//!
//! `modules::health_check` declares checks; one worker makes those of a configuration ([`keep`]) for as long as it is the present one. A check is a request of the location's
//! own: the content handler builds it and the engine sends it, to one peer, without a client. `conditions` judges the answer, the group keeps the verdict. nginx's counterpart:
//! `ngx_http_upstream_hc_module` of its commercial version.

pub mod conditions;
mod request;

pub(crate) use request::is_uri;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;
use headwater_io::timer::sleep;
use tokio::task::{JoinHandle, spawn_local};

use super::peers::random::random;
use super::peers::{Group, Keepalive, Peer, Planned, Standing};
use crate::config::{Generation, LocId};
use crate::flow::error_log::Level;
use crate::flow::worker::{CatchPanic, Worker};
use conditions::Conditions;
use request::Client;

/// Longest time until a check notices that the group's peers have changed.
const LOOK: Duration = Duration::from_secs(1);

/// How a peer is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By a request in the location's protocol, whose answer is looked at.
    Http,
    /// By a connection.
    Tcp,
}

/// A `health_check`.
#[derive(Debug)]
pub struct Check {
    /// The group.
    pub group: Arc<Group>,
    /// The location whose settings count.
    pub location: LocId,
    /// How the group knows it.
    pub planned: Planned,
    /// Its name in the log.
    pub name: Box<str>,
    /// How peers are checked.
    pub kind: Kind,
    /// Time between two checks of a peer.
    pub interval: Duration,
    /// By how much at most it is longer, by chance.
    pub jitter: Duration,
    /// Checks in a row that must fail until the peer is unhealthy.
    pub fails: u32,
    /// Checks in a row that must pass until it is healthy again.
    pub passes: u32,
    /// The URI asked for.
    pub uri: Box<[u8]>,
    /// What the answer must be like.
    pub conditions: Arc<Conditions>,
    /// The port to connect to instead of the peer's.
    pub port: Option<u16>,
    /// How long one connection serves checks; zero: each check has its own.
    pub keepalive_time: Duration,
}

/// What makes a request a check: the engine asks this peer, whatever the location says, and changes nothing about the answer.
pub struct Probe {
    /// The check's name, the peer's, the group's.
    name: Box<str>,
    peer: Arc<str>,
    upstream: Arc<str>,
    /// The peer alone.
    pub(super) group: Arc<Group>,
    /// What the engine was doing when it ended.
    pub(super) stage: Cell<&'static str>,
}

impl Probe {
    /// What the error log says instead of a client.
    pub(crate) fn log_context(&self) -> String {
        format!(", health check \"{}\" of peer {} in upstream \"{}\"", self.name, self.peer, self.upstream)
    }
}

/// Tasks that end with it.
pub(crate) struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Makes this worker's part of a configuration's checks for as long as the result lives.
pub(crate) fn keep(worker: &Rc<Worker>) -> Tasks {
    let generation = worker.generation();
    let workers = generation.main.settings.worker_processes.count().max(1);
    let mine = |at: &usize| at % workers == worker.index;
    let checks = 0..generation.checks.len();
    Tasks(
        checks
            .filter(mine)
            .map(|at| spawn_local(check_group(worker.clone(), generation.clone(), at)))
            .collect(),
    )
}

/// Keeps a task for each peer that the group has.
async fn check_group(worker: Rc<Worker>, generation: Rc<Generation>, at: usize) {
    let Some(check) = generation.checks.get(at) else { return };
    let mut running: Vec<(Arc<Peer>, Tasks)> = Vec::new();
    loop {
        let peers = check.group.peers_to_check();
        running.retain(|(peer, tasks)| {
            peers.iter().any(|other| other.is_same(peer)) && !tasks.0.iter().any(JoinHandle::is_finished)
        });
        for peer in peers {
            if !running.iter().any(|(other, _)| other.is_same(&peer)) {
                let task = check_peer(worker.clone(), generation.clone(), check.clone(), peer.clone());
                running.push((peer, Tasks(vec![spawn_local(task)])));
            }
        }
        sleep(LOOK.min(check.interval)).await;
    }
}

/// Checks one peer again and again.
async fn check_peer(worker: Rc<Worker>, generation: Rc<Generation>, check: Arc<Check>, peer: Arc<Peer>) {
    let client = Client::new(worker, generation, &check, &peer);
    let mut streak = Streak::default();
    loop {
        sleep(chance(check.jitter)).await;
        if let Some(r) = client.request() {
            let outcome = CatchPanic(Box::pin(client.ask(&r))).await.unwrap_or_else(|text| {
                r.log(Level::Alert, format_args!("panic in a health check: {text}"));
                Err("checking")
            });
            let Some(before) = check.group.standing(&peer, &check.planned.key) else { return };
            let now = streak.note(outcome.is_ok(), before, &check);
            check.group.checked(&peer, &check.planned.key, outcome.is_ok(), now);
            if now != before {
                r.action.set(outcome.err().unwrap_or_default());
                match now {
                    Standing::Unhealthy => r.log(Level::Warn, format_args!("peer is unhealthy")),
                    _ => r.log(Level::Notice, format_args!("peer is healthy")),
                }
            }
        }
        sleep(check.interval).await;
    }
}

/// A time up to a limit.
fn chance(limit: Duration) -> Duration {
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random().checked_rem(limit.saturating_add(1)).unwrap_or(0))
}

/// Results in a row.
#[derive(Default)]
struct Streak {
    passes: u32,
    fails: u32,
}

impl Streak {
    /// What the check thinks of a peer after one more result.
    fn note(&mut self, passed: bool, before: Standing, check: &Check) -> Standing {
        if passed {
            *self = Self { passes: self.passes.saturating_add(1), fails: 0 };
            let enough = before == Standing::Checking || self.passes >= check.passes;
            return if enough { Standing::Healthy } else { before };
        }
        *self = Self { passes: 0, fails: self.fails.saturating_add(1) };
        if self.fails >= check.fails { Standing::Unhealthy } else { before }
    }
}

/// The group of one peer that a check asks.
fn lone_group(check: &Check, peer: &Peer) -> Arc<Group> {
    let addr = match (&peer.addr, check.port) {
        (Addr::Inet(addr), Some(port)) => Addr::Inet((addr.ip(), port).into()),
        (addr, _) => addr.clone(),
    };
    let keepalive = Keepalive {
        connections: usize::from(!check.keepalive_time.is_zero()),
        local: false,
        requests: u64::MAX,
        time: check.keepalive_time,
        timeout: check.keepalive_time,
    };
    Arc::new(Group::new(&check.group.name, vec![Peer::new(addr, &peer.server)], Vec::new(), keepalive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(passes: u32, fails: u32) -> Check {
        let planned = Planned { key: "key".into(), mandatory: false, persistent: false };
        Check {
            group: Arc::new(Group::new("g", Vec::new(), Vec::new(), Keepalive::default())),
            location: LocId(0),
            planned,
            name: "".into(),
            kind: Kind::Http,
            interval: Duration::from_secs(5),
            jitter: Duration::ZERO,
            fails,
            passes,
            uri: (*b"/").into(),
            conditions: Arc::new(Conditions::usual()),
            port: None,
            keepalive_time: Duration::ZERO,
        }
    }

    #[test]
    fn note_counts_results_in_a_row() {
        let check = check(2, 3);
        let mut streak = Streak::default();
        let mut now = Standing::Healthy;
        let mut states = Vec::new();
        for passed in [false, false, true, false, false, false, true, false, true, true, false] {
            now = streak.note(passed, now, &check);
            states.push(now == Standing::Healthy);
        }
        assert_eq!(states, [true, true, true, true, true, false, false, false, false, true, true]);
    }

    #[test]
    fn note_first_pass_ends_checking_and_failures_end_it_too() {
        let check = check(2, 2);
        assert_eq!(Streak::default().note(true, Standing::Checking, &check), Standing::Healthy);
        let mut streak = Streak::default();
        assert_eq!(streak.note(false, Standing::Checking, &check), Standing::Checking);
        assert_eq!(streak.note(false, Standing::Checking, &check), Standing::Unhealthy);
    }

    #[test]
    fn chance_stays_below_its_limit() {
        assert_eq!(chance(Duration::ZERO), Duration::ZERO);
        let limit = Duration::from_millis(7);
        assert!((0..200).all(|_| chance(limit) <= limit));
    }
}
