//! A group's peers as one list that is replaced as a whole, and the table of their states, which outlives lists.
//!
//! Both are behind one lock (`group::Shared`). A peer that a new list names again keeps its place in the table; the place of one that is gone is free when its last
//! connection ended. nginx's counterpart: `ngx_http_upstream_rr_peers_t`, `ngx_http_upstream_zone_module.c`.

use std::collections::HashMap;
use std::sync::Arc;

use headwater_io::addr::Addr;
use md5::{Digest as _, Md5};

use super::Peer;
use super::group::Report;
use super::hash::Ring;
use super::health::{Planned, Standing};
use super::state::PeerState;

/// A peer and its place in the table.
#[derive(Debug)]
struct Member {
    peer: Arc<Peer>,
    slot: usize,
}

/// Primary or backup peers.
#[derive(Debug, Default)]
pub(super) struct Side {
    members: Vec<Member>,
    /// What `sticky` calls the peers; empty without it.
    routes: Vec<Arc<str>>,
    total_weight: u64,
}

impl Side {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// A peer and its place in the table.
    pub(super) fn get(&self, index: usize) -> Option<(&Arc<Peer>, usize)> {
        self.members.get(index).map(|member| (&member.peer, member.slot))
    }

    /// What `sticky` calls a peer.
    pub(super) fn route(&self, index: usize) -> Option<&Arc<str>> {
        self.routes.get(index)
    }

    pub(super) fn total_weight(&self) -> u64 {
        self.total_weight
    }

    /// The peer to which a point on the line of weights belongs.
    pub(super) fn at_weight(&self, point: u64) -> Option<usize> {
        let mut left = i64::try_from(point).ok()?;
        self.members.iter().position(|member| {
            if left < member.peer.weight {
                return true;
            }
            left = left.saturating_sub(member.peer.weight);
            false
        })
    }

    fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.members.iter().map(|member| &member.peer)
    }
}

/// The peers of a group at one time.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) primary: Side,
    pub(super) backup: Side,
    /// The ring of `hash … consistent`.
    pub(super) ring: Option<Ring>,
    /// Counts the lists of a group.
    pub(super) number: u64,
}

impl List {
    /// Whether there is only one peer, whose failures do not count.
    pub(super) fn is_single(&self) -> bool {
        self.primary.len() == 1 && self.backup.len() == 0
    }

    /// How many attempts a request has: as many as there are peers that are not down.
    pub(super) fn attempts(&self) -> usize {
        self.primary.peers().chain(self.backup.peers()).filter(|peer| !peer.down).count().max(1)
    }
}

/// What lists need besides peers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) ring: bool,
    pub(super) routes: bool,
}

/// The present list and the states of all peers that are in it or still have connections.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) list: List,
    pub(super) slots: Vec<PeerState>,
    free: Vec<usize>,
    /// The health checks that peers go through.
    planned: Vec<Planned>,
}

impl Table {
    /// Replaces the list. A peer with the address and `server` text of one in the old list keeps that one's state.
    pub(super) fn replace(&mut self, primary: Vec<Peer>, backup: Vec<Peer>, needs: Needs) {
        let old = std::mem::take(&mut self.list);
        let mut known: HashMap<(&Addr, &str), Vec<&Member>> = HashMap::new();
        for member in old.backup.members.iter().rev().chain(old.primary.members.iter().rev()) {
            known.entry((&member.peer.addr, &member.peer.server)).or_default().push(member);
        }
        let mut slots = Vec::new();
        for peer in primary.iter().chain(&backup) {
            let old = known.get_mut(&(&peer.addr, &*peer.server)).and_then(Vec::pop);
            slots.push(self.settle_in(peer, old));
        }
        for gone in known.values().flatten() {
            self.leave(gone.slot);
        }
        let (first, second) = slots.split_at(primary.len());
        let primary = side(primary, first, needs);
        let ring = needs.ring.then(|| Ring::new(primary.peers()));
        let backup = side(backup, second, needs);
        self.list = List { primary, backup, ring, number: old.number.wrapping_add(1) };
    }

    /// Sets the health checks that all peers go through.
    pub(super) fn plan(&mut self, planned: Vec<Planned>) {
        for member in self.list.primary.members.iter().chain(&self.list.backup.members) {
            if let Some(state) = self.slots.get_mut(member.slot) {
                state.plan(&planned);
            }
        }
        self.planned = planned;
    }

    /// What a health check thinks of a peer.
    pub(super) fn standing(&self, peer: &Peer, key: &str) -> Option<Standing> {
        let List { primary, backup, .. } = &self.list;
        let member =
            primary.members.iter().chain(&backup.members).find(|member| member.peer.is_same(peer))?;
        self.slots.get(member.slot)?.health.as_ref()?.standing(key)
    }

    /// Notes the result of a health check for a peer, which the list may name several times.
    pub(super) fn checked(&mut self, peer: &Peer, key: &str, passed: bool, standing: Standing) {
        let now = headwater_io::clock::now_ms();
        let List { primary, backup, .. } = &self.list;
        let members = primary.members.iter().chain(&backup.members);
        for member in members.filter(|member| member.peer.is_same(peer)) {
            if let Some(state) = self.slots.get_mut(member.slot) {
                state.checked(&member.peer, key, passed, standing, now);
            }
        }
    }

    /// The place of a peer: that of the old one it continues, or a new one.
    fn settle_in(&mut self, peer: &Peer, old: Option<&Member>) -> usize {
        if let Some(old) = old {
            if let Some(state) = self.slots.get_mut(old.slot) {
                state.adopt(&old.peer, peer);
            }
            return old.slot;
        }
        let state = PeerState::new(peer, &self.planned);
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.slots.get_mut(slot)
        {
            *place = state;
            return slot;
        }
        self.slots.push(state);
        self.slots.len().saturating_sub(1)
    }

    fn leave(&mut self, slot: usize) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        state.listed = false;
        if state.connections == 0 {
            self.free.push(slot);
        }
    }

    /// Notes that a connection is not used any more and, when there is a report, how the attempt went; whether the peer is left alone from now on.
    pub(super) fn give_back(
        &mut self,
        (slot, peer): (usize, &Peer),
        (began, headed): (u64, bool),
        report: Option<&Report>,
    ) -> bool {
        let single = self.list.is_single();
        let Some(state) = self.slots.get_mut(slot) else { return false };
        state.connections = state.connections.saturating_sub(1);
        let answered = report.filter(|report| !report.failed);
        if !headed {
            state.header.end(began, answered.and_then(|report| report.header_ms));
        }
        state.response.end(began, answered.and_then(|report| report.response_ms));
        if !state.listed {
            if state.connections == 0 {
                self.free.push(slot);
            }
            return false;
        }
        let now = headwater_io::clock::now_ms();
        report.is_some_and(|report| state.note(peer, report, single, now))
    }
}

fn side(peers: Vec<Peer>, slots: &[usize], needs: Needs) -> Side {
    let total_weight = peers.iter().map(|peer| peer.weight.unsigned_abs()).sum();
    let routes = if needs.routes { peers.iter().map(route).collect() } else { Vec::new() };
    let members = peers
        .into_iter()
        .zip(slots)
        .map(|(peer, slot)| Member { peer: Arc::new(peer), slot: *slot })
        .collect();
    Side { members, routes, total_weight }
}

/// What `sticky` calls a peer: its `route=`, or the MD5 of its address in hexadecimal.
fn route(peer: &Peer) -> Arc<str> {
    if let Some(route) = &peer.route {
        return route.clone();
    }
    let text: String = Md5::digest(peer.name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    text.into()
}
