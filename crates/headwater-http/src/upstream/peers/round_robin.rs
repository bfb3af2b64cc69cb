//! Peers with their state, and smooth weighted round robin, which every other method falls back to.
//!
//! nginx's counterpart: `ngx_http_upstream_round_robin.c`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Peer;

/// What changes about a peer.
#[derive(Debug, Default, Clone)]
pub(super) struct PeerState {
    pub(super) current_weight: i64,
    effective_weight: i64,
    fails: u32,
    /// Milliseconds of `clock::now_ms`.
    accessed: u64,
    checked: u64,
    pub(super) connections: u32,
}

impl PeerState {
    /// Adds the share of one round and gives it.
    pub(super) fn advance(&mut self, peer: &Peer) -> i64 {
        let share = self.effective_weight;
        self.current_weight = self.current_weight.saturating_add(share);
        if self.effective_weight < peer.weight {
            self.effective_weight = self.effective_weight.saturating_add(1);
        }
        share
    }

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

/// Primary or backup peers with their state.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) peers: Vec<Arc<Peer>>,
    pub(super) total_weight: u64,
    state: Mutex<Vec<PeerState>>,
}

impl Set {
    pub(super) fn new(peers: Vec<Peer>) -> Self {
        let state = peers
            .iter()
            .map(|peer| PeerState { effective_weight: peer.weight, ..PeerState::default() })
            .collect();
        let total_weight = peers.iter().map(|peer| peer.weight.unsigned_abs()).sum();
        Self { peers: peers.into_iter().map(Arc::new).collect(), total_weight, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Vec<PeerState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn available(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.down).count()
    }

    /// Whether a peer can be asked now and was not asked for this request.
    pub(super) fn is_usable(&self, states: &[PeerState], index: usize, tried: &[usize], now: u64) -> bool {
        match (self.peers.get(index), states.get(index)) {
            (Some(peer), Some(state)) => {
                !peer.down && !tried.contains(&index) && !state.is_unavailable(peer, now)
            }
            _ => false,
        }
    }

    /// Notes that a connection to a peer is about to be used.
    pub(super) fn take(&self, states: &mut [PeerState], index: usize, now: u64) -> Option<usize> {
        let (peer, state) = (self.peers.get(index)?, states.get_mut(index)?);
        if now.saturating_sub(state.checked) > millis(peer.fail_timeout) {
            state.checked = now;
        }
        state.connections = state.connections.saturating_add(1);
        Some(index)
    }

    /// The peer to which a point on the line of weights belongs.
    pub(super) fn at_weight(&self, point: u64) -> Option<usize> {
        let mut left = i64::try_from(point).ok()?;
        self.peers.iter().position(|peer| {
            if left < peer.weight {
                return true;
            }
            left = left.saturating_sub(peer.weight);
            false
        })
    }

    /// Chooses by round robin.
    pub(super) fn pick(&self, tried: &[usize], now: u64) -> Option<usize> {
        self.pick_among(tried, now, |_| true)
    }

    /// Chooses by round robin among some peers.
    pub(super) fn pick_among(
        &self,
        tried: &[usize],
        now: u64,
        wanted: impl Fn(&Peer) -> bool,
    ) -> Option<usize> {
        let mut states = self.state();
        let mut total = 0_i64;
        let mut best: Option<(usize, i64)> = None;
        for (index, peer) in self.peers.iter().enumerate() {
            if !self.is_usable(&states, index, tried, now) || !wanted(peer) {
                continue;
            }
            let Some(state) = states.get_mut(index) else { continue };
            total = total.saturating_add(state.advance(peer));
            if best.is_none_or(|(_, weight)| state.current_weight > weight) {
                best = Some((index, state.current_weight));
            }
        }
        let (index, _) = best?;
        let state = states.get_mut(index)?;
        state.current_weight = state.current_weight.saturating_sub(total);
        self.take(&mut states, index, now)
    }

    /// Notes how an attempt went.
    pub(super) fn note(&self, index: usize, failed: bool) {
        let now = headwater_io::clock::now_ms();
        let mut states = self.state();
        let (Some(peer), Some(state)) = (self.peers.get(index), states.get_mut(index)) else { return };
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

    /// Notes that a connection is not used any more.
    pub(super) fn free(&self, index: usize) {
        if let Some(state) = self.state().get_mut(index) {
            state.connections = state.connections.saturating_sub(1);
        }
    }
}
