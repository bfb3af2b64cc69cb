//! Groups of back ends and the choice of a peer: smooth weighted round robin with failures and backups.
//!
//! Built by `modules::upstream` (named groups) and `modules::proxy` (implicit ones); asked by `engine`. The state of peers is shared by all workers.
//! nginx's counterpart: `ngx_http_upstream_round_robin.c`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_io::addr::Addr;

use super::pool::Pool;

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

#[derive(Debug, Default, Clone)]
struct PeerState {
    current_weight: i64,
    effective_weight: i64,
    fails: u32,
    /// Milliseconds of `clock::now_ms`.
    accessed: u64,
    checked: u64,
    connections: u32,
}

/// Primary or backup peers with their state.
#[derive(Debug)]
struct Set {
    peers: Vec<Arc<Peer>>,
    state: Mutex<Vec<PeerState>>,
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
    primary: Set,
    backup: Set,
}

/// A peer chosen for an attempt.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The peer.
    pub peer: Arc<Peer>,
    index: usize,
    backup: bool,
}

/// What one request knows of its attempts at a group.
#[derive(Debug, Default)]
pub struct Tried {
    primary: Vec<usize>,
    backup: Vec<usize>,
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

impl Set {
    fn new(peers: Vec<Peer>) -> Self {
        let state = peers
            .iter()
            .map(|peer| PeerState { effective_weight: peer.weight, ..PeerState::default() })
            .collect();
        Self { peers: peers.into_iter().map(Arc::new).collect(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, Vec<PeerState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn available(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.down).count()
    }

    fn pick(&self, tried: &[usize], now: u64) -> Option<usize> {
        let mut states = self.state();
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (index, (peer, state)) in self.peers.iter().zip(states.iter_mut()).enumerate() {
            if peer.down || tried.contains(&index) || state.is_unavailable(peer, now) {
                continue;
            }
            state.current_weight = state.current_weight.saturating_add(state.effective_weight);
            total += state.effective_weight;
            if state.effective_weight < peer.weight {
                state.effective_weight += 1;
            }
            if best.is_none_or(|(_, weight)| state.current_weight > weight) {
                best = Some((index, state.current_weight));
            }
        }
        let (index, _) = best?;
        let state = states.get_mut(index)?;
        let fail_timeout = self.peers.get(index).map_or(0, |peer| millis(peer.fail_timeout));
        state.current_weight = state.current_weight.saturating_sub(total);
        if now.saturating_sub(state.checked) > fail_timeout {
            state.checked = now;
        }
        state.connections = state.connections.saturating_add(1);
        Some(index)
    }

    fn release(&self, index: usize, failed: bool, single: bool) {
        let now = headwater_io::clock::now_ms();
        let mut states = self.state();
        let (Some(peer), Some(state)) = (self.peers.get(index), states.get_mut(index)) else { return };
        state.connections = state.connections.saturating_sub(1);
        if single {
            return;
        }
        if failed {
            state.fails = state.fails.saturating_add(1);
            state.accessed = now;
            state.checked = now;
            if peer.max_fails > 0 {
                state.effective_weight =
                    state.effective_weight.saturating_sub(peer.weight / i64::from(peer.max_fails)).max(0);
            }
        } else if state.accessed < state.checked {
            state.fails = 0;
        }
    }
}

impl PeerState {
    fn is_unavailable(&self, peer: &Peer, now: u64) -> bool {
        let failing = peer.max_fails > 0
            && self.fails >= peer.max_fails
            && now.saturating_sub(self.checked) <= millis(peer.fail_timeout);
        let full = peer.max_conns > 0 && self.connections >= peer.max_conns;
        failing || full
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
            primary: Set::new(primary),
            backup: Set::new(backup),
        }
    }

    /// The bookkeeping of a new request: as many attempts as there are peers.
    #[must_use]
    pub fn start(&self) -> Tried {
        let left = self.primary.available().saturating_add(self.backup.available());
        Tried { primary: Vec::new(), backup: Vec::new(), left: left.max(1) }
    }

    /// Whether there is only one peer, whose failures do not count.
    fn is_single(&self) -> bool {
        self.primary.peers.len() == 1 && self.backup.peers.is_empty()
    }

    /// Chooses a peer; `None` when none is live.
    pub fn pick(&self, tried: &mut Tried) -> Option<Picked> {
        let now = headwater_io::clock::now_ms();
        if self.is_single() {
            let peer = self.primary.peers.first()?;
            if peer.down {
                return None;
            }
            if peer.max_conns > 0 {
                self.primary.pick(&[], now)?;
            }
            return Some(Picked { peer: peer.clone(), index: 0, backup: false });
        }
        let picked = |set: &Set, tried: &mut Vec<usize>, backup| {
            let index = set.pick(tried, now)?;
            tried.push(index);
            Some(Picked { peer: set.peers.get(index)?.clone(), index, backup })
        };
        picked(&self.primary, &mut tried.primary, false)
            .or_else(|| picked(&self.backup, &mut tried.backup, true))
    }

    /// Gives a peer back after an attempt.
    pub fn release(&self, picked: &Picked, tried: &mut Tried, failed: bool) {
        let single = self.is_single();
        if !single || picked.peer.max_conns > 0 {
            let set = if picked.backup { &self.backup } else { &self.primary };
            set.release(picked.index, failed, single);
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
mod tests {
    use super::*;

    fn peer(name: &str, weight: i64) -> Peer {
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
            let mut tried = group.start();
            let picked = group.pick(&mut tried).expect("live");
            group.release(&picked, &mut tried, false);
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
        let mut tried = group.start();
        assert_eq!(tried.left, 3);
        for _ in 0..2 {
            let picked = group.pick(&mut tried).expect("live");
            group.release(&picked, &mut tried, true);
        }
        assert_eq!(group.pick(&mut tried).map(|picked| picked.peer.name.to_string()), Some("c".into()));
        assert_eq!(picks(&group, 2), "cc");
    }
}
