//! A group of back ends: the choice of a peer for an attempt, what became of it, and the replacement of peers while requests run.
//!
//! Made by `modules::upstream` and `target`; asked by `engine`. The table of peers is behind one lock, taken once for a choice and once for its end; a group of one
//! peer of which nothing is counted takes none. nginx's counterpart: `ngx_http_upstream_round_robin.c`, `ngx_http_upstream_zone_module.c`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use headwater_io::addr::Addr;
use headwater_io::clock::now_ms;

use super::hash::{self, Choice};
use super::health::{Planned, Standing};
use super::least_time::{LeastTime, Until};
use super::random::{self, Draw};
use super::round_robin::View;
use super::snapshot::{self, PeerSnapshot};
use super::sticky::Sticky;
use super::table::{List, Needs, Side, Table};
use super::tried::Tried;
use super::{Keepalive, Method, Peer, ip_hash, least_conn, least_time};
use crate::request::Request;
use crate::upstream::pool::Pool;
use crate::upstream::target::port_of;

/// A group of back ends.
#[derive(Debug)]
pub struct Group {
    /// Its name, or `host:port` of an implicit one.
    pub name: Arc<str>,
    /// Whether it stands in the configuration, rather than following from a `*_pass`.
    pub declared: bool,
    /// The port of an implicit one whose name has none.
    pub default_port: Option<u16>,
    /// Idle connections.
    pub pool: Pool,
    /// How idle connections are kept.
    pub keepalive: Keepalive,
    options: Options,
    shared: Arc<Shared>,
    /// Peers of a group whose state the generation before still uses, until this generation is the present one.
    pending: Mutex<Option<(Vec<Peer>, Vec<Peer>)>>,
}

/// How a group chooses, and whether its state outlives the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// The balancing method.
    pub method: Method,
    /// How requests are bound to peers.
    pub sticky: Option<Sticky>,
    /// The name of `zone`.
    pub zone: Option<Box<str>>,
}

/// What a group has in common with the group of the same name and zone in other generations.
#[derive(Debug, Default)]
pub(super) struct Shared {
    table: Mutex<Table>,
    /// The only peer of a group of which nothing is counted.
    alone: ArcSwapOption<Peer>,
    attempts: AtomicUsize,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of a zone and a group, and the group's state.
type Zone = (Box<str>, Arc<str>, Weak<Shared>);

/// The states of groups with a zone, for the next configuration.
static ZONES: Mutex<Vec<Zone>> = Mutex::new(Vec::new());

/// A peer chosen for an attempt. The connection to it counts until this goes.
#[derive(Debug)]
pub struct Picked {
    /// The peer.
    pub peer: Arc<Peer>,
    slot: usize,
    /// What `sticky` calls it.
    route: Option<Arc<str>>,
    /// When it was chosen, milliseconds.
    began: u64,
    /// Whether the time until the head was taken already.
    headed: bool,
    /// Where the connection counts; none when nothing counts it.
    shared: Option<Arc<Shared>>,
}

impl Picked {
    fn give_back(&mut self, report: Option<&Report>) -> bool {
        let Some(shared) = self.shared.take() else { return false };
        shared.table().give_back((self.slot, &self.peer), (self.began, self.headed), report)
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Whether the peer is to blame.
    pub failed: bool,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// Milliseconds until the head of the answer.
    pub header_ms: Option<u64>,
    /// Milliseconds until its end.
    pub response_ms: Option<u64>,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// What a choice depends on besides the peers.
#[derive(Debug, Clone, Default)]
pub enum Key {
    /// Nothing.
    #[default]
    None,
    /// The text of `hash`.
    Text(Vec<u8>),
    /// The client's address.
    Addr(Addr),
}

impl Group {
    /// Whether a `*_pass` of this name leads here. Without a port in it, the usual one of its protocol has to be that which the group was made with:
    /// `http://a` and `https://a` are two back ends.
    #[must_use]
    pub fn is_passed_as(&self, name: &str, default_port: Option<u16>) -> bool {
        let any_port = self.declared || name.starts_with("unix:") || port_of(name).is_some();
        self.name.eq_ignore_ascii_case(name) && (any_port || self.default_port == default_port)
    }

    /// A group of these peers that goes round robin.
    #[must_use]
    pub fn new(name: &str, primary: Vec<Peer>, backup: Vec<Peer>, keepalive: Keepalive) -> Self {
        Self::with_options(name, primary, backup, keepalive, Options::default())
    }

    /// A group of these peers. With a zone that a group of this name has already, it goes on with that group's state from [`Group::activate`] on.
    #[must_use]
    pub fn with_options(
        name: &str,
        primary: Vec<Peer>,
        backup: Vec<Peer>,
        keepalive: Keepalive,
        options: Options,
    ) -> Self {
        let kept = options.zone.as_deref().and_then(|zone| kept(zone, name));
        let group = Self {
            name: name.into(),
            declared: false,
            default_port: None,
            pool: Pool::default(),
            keepalive,
            shared: kept.clone().unwrap_or_default(),
            options,
            pending: Mutex::new(None),
        };
        if kept.is_some() {
            *group.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some((primary, backup));
        } else {
            group.replace(primary, backup);
        }
        group
    }

    /// Says which peers the group begins with, should it go on with the state of another group.
    pub fn prepare(&self, primary: Vec<Peer>, backup: Vec<Peer>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.is_some() {
            *pending = Some((primary, backup));
        }
    }

    /// The primary peers and the backups that one `server … resolve` has brought.
    #[must_use]
    pub fn found_by(&self, key: &str) -> (Vec<Peer>, Vec<Peer>) {
        let table = self.shared.table();
        let of = |side: &Side| {
            let peers = (0..side.len()).filter_map(|index| side.get(index)).map(|(peer, _)| peer);
            peers.filter(|peer| peer.found_by.as_deref() == Some(key)).map(|peer| Peer::clone(peer)).collect()
        };
        (of(&table.list.primary), of(&table.list.backup))
    }

    /// Puts the group into use, once nothing can go wrong with its configuration any more: what the configuration says of its peers replaces what the generation before said.
    /// Requests of that generation see the new peers, too.
    pub fn activate(&self) {
        if let Some((primary, backup)) = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.replace(primary, backup);
        }
        let Some(zone) = &self.options.zone else { return };
        let mut zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
        zones.retain(|(known, name, shared)| {
            shared.strong_count() > 0 && !(*known == *zone && *name == self.name)
        });
        zones.push((zone.clone(), self.name.clone(), Arc::downgrade(&self.shared)));
    }

    /// Replaces the peers while requests run. A peer with the same address and `server` text as one before keeps its state: failures, weight, connections, times and
    /// counters. Idle connections to peers that are gone are closed, others end with their requests. An empty list of primary peers leaves the backups to choose from.
    pub fn replace(&self, primary: Vec<Peer>, backup: Vec<Peer>) {
        let needs = Needs {
            ring: matches!(self.options.method, Method::Consistent(_)),
            routes: self.options.sticky.is_some(),
        };
        let addrs: HashSet<Addr> = primary.iter().chain(&backup).map(|peer| peer.addr.clone()).collect();
        let (alone, attempts) = {
            let mut table = self.shared.table();
            table.replace(primary, backup, needs);
            (self.alone(&table.list), table.list.attempts())
        };
        self.shared.attempts.store(attempts, Ordering::Relaxed);
        self.shared.alone.store(alone);
        self.pool.close_others(|peer| addrs.contains(&peer.addr));
    }

    /// The group's only peer, if nothing about it needs to be counted.
    fn alone(&self, list: &List) -> Option<Arc<Peer>> {
        let counts = self.options.zone.is_some() || self.options.sticky.is_some();
        let (peer, _) = list.primary.get(0).filter(|_| list.is_single() && !counts)?;
        (peer.max_conns == 0 && !peer.drain).then(|| peer.clone())
    }

    /// How many attempts a request has: as many as there are peers.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::Relaxed)
    }

    /// The name of the group's `zone`.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.options.zone.as_deref()
    }

    /// The bookkeeping of a new request.
    #[must_use]
    pub fn start(&self, r: &Request) -> Tried {
        let key = match &self.options.method {
            Method::IpHash => Key::Addr(r.peer().clone()),
            Method::Hash(key) | Method::Consistent(key) => Key::Text(key.value(r).into_owned()),
            _ => Key::None,
        };
        let mut tried = self.start_with(key);
        if let Some(sticky) = &self.options.sticky {
            tried.binding = sticky.look_up(r);
        }
        tried
    }

    /// The bookkeeping of a choice that no request stands behind.
    #[must_use]
    pub fn start_with(&self, key: Key) -> Tried {
        let choice = match key {
            Key::None => Choice::default(),
            Key::Text(text) => Choice::new(text, 0),
            Key::Addr(addr) => Choice::new(ip_hash::key(&addr), ip_hash::SEED),
        };
        Tried { choice, ..Tried::with_left(self.attempts()) }
    }

    /// Chooses a peer; `None` when none is live.
    pub fn pick(&self, tried: &mut Tried) -> Option<Picked> {
        if let Some(peer) = self.shared.alone.load_full() {
            let picked = Picked { peer, slot: 0, route: None, began: 0, headed: false, shared: None };
            return (!picked.peer.down).then_some(picked);
        }
        let now = now_ms();
        let mut table = self.shared.table();
        let Table { list, slots, .. } = &mut *table;
        let (side, index) = self.choose(list, slots, tried, now)?;
        let (peer, slot) = side.get(index)?;
        let picked = Picked {
            peer: peer.clone(),
            slot,
            route: side.route(index).cloned(),
            began: now,
            headed: false,
            shared: Some(self.shared.clone()),
        };
        drop(table);
        tried.set.insert(slot);
        Some(picked)
    }

    fn choose<'l>(
        &self,
        list: &'l List,
        slots: &mut [super::state::PeerState],
        tried: &mut Tried,
        now: u64,
    ) -> Option<(&'l Side, usize)> {
        let Tried { set, on_backup, choice, binding, .. } = tried;
        let wanted = binding.take_wanted();
        if list.is_single() {
            let side = &list.primary;
            let bound = wanted.is_some() && wanted == side.route(0).map(|route| route.as_bytes());
            let mut view = View { side, slots, tried: set, now };
            return view.pick_single(bound).map(|index| (side, index));
        }
        for side in [&list.primary, &list.backup] {
            let mut view = View { side, slots: &mut *slots, tried: set, now };
            if let Some(index) = wanted.and_then(|route| view.pick_bound(route)) {
                return Some((side, index));
            }
        }
        if !*on_backup {
            let mut view = View { side: &list.primary, slots: &mut *slots, tried: set, now };
            if let Some(index) = self.balance(&mut view, choice, list) {
                return Some((&list.primary, index));
            }
            *on_backup = list.backup.len() > 0;
        }
        let mut view = View { side: &list.backup, slots, tried: set, now };
        self.balance(&mut view, choice, list).map(|index| (&list.backup, index))
    }

    fn balance(&self, view: &mut View<'_>, choice: &mut Choice, list: &List) -> Option<usize> {
        let chosen = match &self.options.method {
            Method::RoundRobin => None,
            Method::LeastConn => return least_conn::pick(view),
            Method::LeastTime(by) => return least_time::pick(view, *by),
            Method::IpHash => ip_hash::pick(view, choice),
            Method::Hash(_) => hash::pick(view, choice),
            Method::Consistent(_) => list.ring.as_ref().and_then(|ring| ring.pick(view, choice, list.number)),
            Method::Random(draw) => random::pick(view, choice, *draw),
        };
        chosen.or_else(|| view.pick())
    }

    /// Notes that the head of the answer is there, before it goes to the client: a cookie may be added, a session learnt.
    pub fn head_arrived(&self, r: &Request, picked: &mut Picked, tried: &Tried, header_ms: Option<u64>) {
        let waits_for_heads = matches!(
            self.options.method,
            Method::LeastTime(LeastTime { until: Until::Header, .. })
                | Method::Random(Draw::LeastTime(Until::Header))
        );
        if let Some(shared) = picked.shared.as_ref().filter(|_| waits_for_heads) {
            if let Some(state) = shared.table().slots.get_mut(picked.slot) {
                state.header.end(picked.began, header_ms);
            }
            picked.headed = true;
        }
        if let (Some(sticky), Some(route)) = (&self.options.sticky, &picked.route) {
            sticky.head_arrived(r, route, &tried.binding);
        }
    }

    /// Notes that an answer is over: a session may be learnt.
    pub fn answered(&self, r: &Request, picked: &Picked, tried: &Tried) {
        if let (Some(sticky), Some(route)) = (&self.options.sticky, &picked.route) {
            sticky.answered(r, route, &tried.binding);
        }
    }

    /// Notes how an attempt went and gives the connection back; whether the peer failed so often that it is left alone from now on.
    pub fn finish(&self, mut picked: Picked, tried: &mut Tried, report: &Report) -> bool {
        tried.left = tried.left.saturating_sub(1);
        picked.give_back(Some(report))
    }

    /// Gives the connection of an attempt back that says nothing of the peer.
    pub fn leave(&self, picked: Picked, tried: &mut Tried) {
        tried.left = tried.left.saturating_sub(1);
        drop(picked);
    }

    /// Sets the health checks that the group's peers go through; what those of the same keys have found before stays.
    pub fn plan_checks(&self, planned: Vec<Planned>) {
        self.shared.table().plan(planned);
    }

    /// The peers that health checks look at, each once.
    #[must_use]
    pub fn peers_to_check(&self) -> Vec<Arc<Peer>> {
        let table = self.shared.table();
        let mut peers: Vec<Arc<Peer>> = Vec::new();
        for side in [&table.list.primary, &table.list.backup] {
            for (peer, _) in (0..side.len()).filter_map(|index| side.get(index)) {
                if !peer.down && !peers.iter().any(|known| known.is_same(peer)) {
                    peers.push(peer.clone());
                }
            }
        }
        peers
    }

    /// What a check thinks of a peer; `None` when either is not there any more.
    #[must_use]
    pub fn standing(&self, peer: &Peer, key: &str) -> Option<Standing> {
        self.shared.table().standing(peer, key)
    }

    /// Notes the result of a check, and what it thinks of the peer now.
    pub fn checked(&self, peer: &Peer, key: &str, passed: bool, standing: Standing) {
        self.shared.table().checked(peer, key, passed, standing);
    }

    /// The peers with their counters, primary ones first. Nothing is counted for the only peer of a group without `zone`, `sticky` and `max_conns`.
    #[must_use]
    pub fn snapshot(&self) -> Vec<PeerSnapshot> {
        let now = now_ms();
        let table = self.shared.table();
        let of = |side: &Side, backup: bool| {
            let one = |index| {
                let (peer, slot) = side.get(index)?;
                table.slots.get(slot).map(|state| snapshot::of(peer, state, slot, backup, now))
            };
            (0..side.len()).filter_map(one).collect::<Vec<_>>()
        };
        let mut peers = of(&table.list.primary, false);
        peers.extend(of(&table.list.backup, true));
        peers
    }
}

fn kept(zone: &str, name: &str) -> Option<Arc<Shared>> {
    let zones = ZONES.lock().unwrap_or_else(PoisonError::into_inner);
    let alike = zones.iter().rev().filter(|(known, group, _)| **known == *zone && **group == *name);
    alike.filter_map(|(_, _, shared)| shared.upgrade()).next()
}
