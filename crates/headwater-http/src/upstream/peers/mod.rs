//! Groups of back ends and the choice of a peer: one file per balancing method.
//!
//! Built by `modules::upstream` (named groups) and `modules::proxy` (implicit ones); asked by `engine`. The state of peers is shared by all workers.
//! nginx's counterpart: `ngx_http_upstream_round_robin.c`.

mod hash;
mod ip_hash;
mod least_conn;
mod random;
mod round_robin;

use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;

use super::pool::Pool;
use crate::request::Request;
use crate::script::Complex;
use hash::{Choice, Ring};
use round_robin::Set;

/// One address of a group.
#[derive(Debug)]
pub struct Peer {
    /// Where to connect.
    pub addr: Addr,
    /// The address as logs show it.
    pub name: Arc<str>,
    /// The `server` as written.
    pub server: Box<str>,
    /// Relative share.
    pub weight: i64,
    /// Failures within `fail_timeout` that make it unavailable; 0: never.
    pub max_fails: u32,
    /// The window and the length of unavailability.
    pub fail_timeout: Duration,
    /// Connections at most; 0: no limit.
    pub max_conns: u32,
    /// Never used.
    pub down: bool,
}

/// Settings of a group besides its servers.
#[derive(Debug, Clone)]
pub struct Keepalive {
    /// Idle connections kept per worker; 0: none.
    pub connections: usize,
    /// Whether locations do not share them.
    pub local: bool,
    /// Requests of one connection.
    pub requests: u64,
    /// How long one connection serves requests.
    pub time: Duration,
    /// How long it stays idle.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self {
            connections: 32,
            local: true,
            requests: 1000,
            time: Duration::from_secs(3600),
            timeout: Duration::from_secs(60),
        }
    }
}

/// A group of back ends.
#[derive(Debug)]
pub struct Group {
    /// Its name, or `host:port` of an implicit one.
    pub name: Arc<str>,
    /// Whether it stands in the configuration, rather than following from a `*_pass`.
    pub declared: bool,
    /// Idle connections.
    pub pool: Pool,
    /// How idle connections are kept.
    pub keepalive: Keepalive,
    primary: Arc<Set>,
    backup: Arc<Set>,
    method: Method,
    ring: Option<Ring>,
}

/// How a peer is chosen.
#[derive(Debug, Clone, Default)]
pub enum Method {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// `least_conn`.
    LeastConn,
    /// `ip_hash`.
    IpHash,
    /// `hash`.
    Hash(Complex),
    /// `hash … consistent`.
    Consistent(Complex),
    /// `random`, of one or of two.
    Random {
        /// The one with fewer connections of two.
        two: bool,
    },
}

/// A peer chosen for an attempt. The connection to it counts until this goes.
#[derive(Debug)]
pub struct Picked {
    /// The peer.
    pub peer: Arc<Peer>,
    index: usize,
    /// Where the connection counts; none when nothing counts it.
    counted: Option<Arc<Set>>,
}

impl Drop for Picked {
    fn drop(&mut self) {
        if let Some(set) = &self.counted {
            set.free(self.index);
        }
    }
}

/// What one request knows of its attempts at a group.
#[derive(Debug, Default)]
pub struct Tried {
    primary: Vec<usize>,
    backup: Vec<usize>,
    choice: Choice,
    /// Attempts that are left.
    pub left: usize,
}

impl Tried {
    /// The bookkeeping of a request that has this many attempts left.
    #[must_use]
    pub fn with_left(left: usize) -> Self {
        Self { left, ..Self::default() }
    }
}

impl Group {
    /// A group of these peers.
    #[must_use]
    pub fn new(name: &str, primary: Vec<Peer>, backup: Vec<Peer>, keepalive: Keepalive) -> Self {
        Self {
            name: name.into(),
            declared: false,
            pool: Pool::default(),
            keepalive,
            primary: Arc::new(Set::new(primary)),
            backup: Arc::new(Set::new(backup)),
            method: Method::RoundRobin,
            ring: None,
        }
    }

    /// The same group with another way to choose.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.ring = matches!(method, Method::Consistent(_)).then(|| Ring::new(&self.primary.peers));
        self.method = method;
        self
    }

    /// How many attempts a request has: as many as there are peers.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.primary.available().saturating_add(self.backup.available()).max(1)
    }

    /// The bookkeeping of a new request.
    #[must_use]
    pub fn start(&self, r: &Request) -> Tried {
        let choice = match &self.method {
            Method::IpHash => Choice::new(ip_hash::key(r.peer()), 89),
            Method::Hash(key) => Choice::new(key.value(r).into_owned(), 0),
            Method::Consistent(key) => {
                let key = key.value(r).into_owned();
                let start = self.ring.as_ref().map_or(0, |ring| ring.start(&key));
                Choice::new(key, start)
            }
            Method::RoundRobin | Method::LeastConn | Method::Random { .. } => Choice::default(),
        };
        Tried { choice, ..Tried::with_left(self.attempts()) }
    }

    /// Whether there is only one peer, whose failures do not count.
    fn is_single(&self) -> bool {
        self.primary.peers.len() == 1 && self.backup.peers.is_empty()
    }

    /// Chooses a peer; `None` when none is live.
    pub fn pick(&self, tried: &mut Tried) -> Option<Picked> {
        let now = headwater_io::clock::now_ms();
        if self.is_single() {
            let peer = self.primary.peers.first().filter(|peer| !peer.down)?.clone();
            let counted = if peer.max_conns > 0 {
                self.primary.pick(&[], now)?;
                Some(self.primary.clone())
            } else {
                None
            };
            return Some(Picked { peer, index: 0, counted });
        }
        let Tried { primary, backup, choice, .. } = tried;
        let (set, index) = match self.pick_primary(primary, choice, now) {
            Some(index) => {
                primary.push(index);
                (&self.primary, index)
            }
            None => {
                let index = match self.method {
                    Method::LeastConn => least_conn::pick(&self.backup, backup, now),
                    _ => self.backup.pick(backup, now),
                }?;
                backup.push(index);
                (&self.backup, index)
            }
        };
        Some(Picked { peer: set.peers.get(index)?.clone(), index, counted: Some(set.clone()) })
    }

    fn pick_primary(&self, tried: &[usize], choice: &mut Choice, now: u64) -> Option<usize> {
        let set = &*self.primary;
        let chosen = match &self.method {
            Method::RoundRobin => None,
            Method::LeastConn => return least_conn::pick(set, tried, now),
            Method::IpHash => ip_hash::pick(set, choice, tried, now),
            Method::Hash(_) => hash::pick(set, choice, tried, now),
            Method::Consistent(_) => self.ring.as_ref().and_then(|ring| ring.pick(set, choice, tried, now)),
            Method::Random { two } => random::pick(set, choice, tried, now, *two),
        };
        chosen.or_else(|| set.pick(tried, now))
    }

    /// Notes how an attempt went.
    pub fn note(&self, picked: &Picked, tried: &mut Tried, failed: bool) {
        if let Some(set) = picked.counted.as_ref().filter(|_| !self.is_single()) {
            set.note(picked.index, failed);
        }
        tried.left = tried.left.saturating_sub(1);
    }
}

/// The groups of the configuration being loaded.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Arc<Group>>,
}

impl Groups {
    /// Adds a group.
    pub fn add(&mut self, group: Group) -> Arc<Group> {
        let group = Arc::new(group);
        self.groups.push(group.clone());
        group
    }

    /// A group by its name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.iter().find(|group| group.name.eq_ignore_ascii_case(name)).cloned()
    }

    /// All groups.
    #[must_use]
    pub fn finish(self) -> Vec<Arc<Group>> {
        self.groups
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(super) fn peer(name: &str, weight: i64) -> Peer {
        Peer {
            addr: Addr::unix(name),
            name: name.into(),
            server: name.into(),
            weight,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_conns: 0,
            down: false,
        }
    }

    fn picks(group: &Group, count: usize) -> String {
        let one = |_| {
            let mut tried = Tried::with_left(group.attempts());
            let picked = group.pick(&mut tried).expect("live");
            group.note(&picked, &mut tried, false);
            picked.peer.name.to_string()
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn weights_are_spread_smoothly() {
        let group =
            Group::new("g", vec![peer("a", 5), peer("b", 1), peer("c", 1)], vec![], Keepalive::default());
        assert_eq!(picks(&group, 14), "aabacaaaabacaa");
    }

    #[test]
    fn a_failed_peer_is_left_out_and_backups_step_in() {
        let group =
            Group::new("g", vec![peer("a", 1), peer("b", 1)], vec![peer("c", 1)], Keepalive::default());
        let mut tried = Tried::with_left(group.attempts());
        assert_eq!(tried.left, 3);
        for _ in 0..2 {
            let picked = group.pick(&mut tried).expect("live");
            group.note(&picked, &mut tried, true);
        }
        assert_eq!(group.pick(&mut tried).map(|picked| picked.peer.name.to_string()), Some("c".into()));
        assert_eq!(picks(&group, 2), "cc");
    }
}
