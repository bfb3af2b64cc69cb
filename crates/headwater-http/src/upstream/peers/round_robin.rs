//! Smooth weighted round robin, which every other method falls back to, and the view of a group that all methods have.
//!
//! nginx's counterpart: `ngx_http_upstream_get_round_robin_peer`.

use super::Peer;
use super::state::PeerState;
use super::table::Side;
use super::tried::TriedSet;

/// Primary or backup peers as one choice sees them.
pub(super) struct View<'a> {
    pub(super) side: &'a Side,
    pub(super) slots: &'a mut [PeerState],
    pub(super) tried: &'a TriedSet,
    /// Milliseconds of `clock::now_ms`.
    pub(super) now: u64,
}

impl View<'_> {
    /// A peer with its state.
    pub(super) fn get(&self, index: usize) -> Option<(&Peer, &PeerState)> {
        let (peer, slot) = self.side.get(index)?;
        Some((peer, self.slots.get(slot)?))
    }

    /// Whether a peer that nothing but the method leads to can be asked now and was not asked for this request.
    pub(super) fn is_usable(&self, index: usize) -> bool {
        self.side.get(index).is_some_and(|(peer, _)| !peer.drain) && self.is_live(index)
    }

    /// Whether a peer can be asked now by a request that is bound to it.
    fn is_live(&self, index: usize) -> bool {
        let Some((peer, slot)) = self.side.get(index) else { return false };
        let Some(state) = self.slots.get(slot) else { return false };
        !peer.down
            && !self.tried.contains(slot)
            && !state.is_barred()
            && !state.is_failing(peer, self.now)
            && !state.is_full(peer)
    }

    /// Notes that a connection to a peer is about to be used.
    pub(super) fn take(&mut self, index: usize) -> Option<usize> {
        let (peer, slot) = self.side.get(index)?;
        self.slots.get_mut(slot)?.take(peer, self.now);
        Some(index)
    }

    /// Adds a peer's share of one round; gives the share and the peer's present weight.
    pub(super) fn advance(&mut self, index: usize) -> (i64, i64) {
        let Some((peer, slot)) = self.side.get(index) else { return (0, 0) };
        let Some(state) = self.slots.get_mut(slot) else { return (0, 0) };
        (state.advance(peer, self.now), state.current_weight)
    }

    /// Ends a round in which a peer was chosen.
    pub(super) fn charge(&mut self, index: usize, total: i64) -> Option<usize> {
        let (_, slot) = self.side.get(index)?;
        let state = self.slots.get_mut(slot)?;
        state.current_weight = state.current_weight.saturating_sub(total);
        self.take(index)
    }

    /// Chooses.
    pub(super) fn pick(&mut self) -> Option<usize> {
        self.pick_among(|_| true)
    }

    /// Chooses among some peers.
    pub(super) fn pick_among(&mut self, wanted: impl Fn(&Peer) -> bool) -> Option<usize> {
        let mut total = 0_i64;
        let mut best: Option<(usize, i64)> = None;
        for index in 0..self.side.len() {
            if !self.is_usable(index) || !self.side.get(index).is_some_and(|(peer, _)| wanted(peer)) {
                continue;
            }
            let (share, weight) = self.advance(index);
            total = total.saturating_add(share);
            if best.is_none_or(|(_, other)| weight > other) {
                best = Some((index, weight));
            }
        }
        self.charge(best?.0, total)
    }

    /// Takes a peer with this route, which may be one that drains. It counts as a round, so that unbound requests go to others.
    pub(super) fn pick_bound(&mut self, route: &[u8]) -> Option<usize> {
        let bound = |view: &Self, index| view.side.route(index).is_some_and(|own| own.as_bytes() == route);
        if !(0..self.side.len()).any(|index| bound(self, index) && self.is_live(index)) {
            return None;
        }
        let mut total = 0_i64;
        let mut best: Option<(usize, i64)> = None;
        for index in 0..self.side.len() {
            let bound = bound(self, index);
            if !(self.is_usable(index) || bound && self.is_live(index)) {
                continue;
            }
            let (share, weight) = self.advance(index);
            total = total.saturating_add(share);
            if bound && best.is_none_or(|(_, other)| weight > other) {
                best = Some((index, weight));
            }
        }
        self.charge(best?.0, total)
    }

    /// Takes a group's only peer, whatever its failures.
    pub(super) fn pick_single(&mut self, bound: bool) -> Option<usize> {
        let (peer, state) = self.get(0)?;
        let open = !peer.down && !state.is_barred() && (bound || !peer.drain) && !state.is_full(peer);
        if open { self.take(0) } else { None }
    }
}
