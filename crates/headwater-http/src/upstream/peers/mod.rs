//! Groups of back ends and the choice of a peer: one file per balancing method.
//!
//! Built by `modules::upstream` (named groups) and `modules::proxy` (implicit ones); asked by `engine`. The state of peers is shared by all workers.
//! nginx's counterpart: `ngx_http_upstream_round_robin.c`.

mod group;
mod hash;
mod health;
mod ip_hash;
mod least_conn;
pub mod least_time;
pub mod random;
mod round_robin;
mod snapshot;
mod state;
pub mod sticky;
mod table;
mod tried;

use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;

pub use group::{Group, Key, Options, Picked, Report};
pub use health::{CheckTotals, Planned, Standing};
use least_time::LeastTime;
use random::Draw;
pub use snapshot::{PeerSnapshot, PeerStatus};
pub use tried::Tried;

use crate::script::Complex;

/// One address of a group.
#[derive(Debug, Clone)]
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
    /// Used for requests that are bound to it, only.
    pub drain: bool,
    /// Its name for `sticky`; `None`: made from the address.
    pub route: Option<Arc<str>>,
    /// The `server … resolve` it comes from; see `upstream::names`.
    pub found_by: Option<Arc<str>>,
    /// How long its weight grows from nothing after it was unavailable; zero: it has all of it at once.
    pub slow_start: Duration,
}

impl Peer {
    /// A peer with the defaults of `server`.
    #[must_use]
    pub fn new(addr: Addr, server: &str) -> Self {
        Self {
            name: addr.to_string().into(),
            addr,
            server: server.into(),
            weight: 1,
            max_fails: 1,
            fail_timeout: Duration::from_secs(10),
            max_conns: 0,
            down: false,
            drain: false,
            route: None,
            found_by: None,
            slow_start: Duration::ZERO,
        }
    }

    /// Whether it is the same peer, in another list.
    #[must_use]
    pub fn is_same(&self, other: &Peer) -> bool {
        self.addr == other.addr && self.server == other.server
    }
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
    /// `least_time`.
    LeastTime(LeastTime),
    /// `random`.
    Random(Draw),
}

impl Method {
    /// Whether a peer's weight may change while it recovers.
    #[must_use]
    pub fn knows_slow_start(&self) -> bool {
        matches!(self, Method::RoundRobin | Method::LeastConn | Method::LeastTime(_))
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

    /// A group by the name in a `*_pass`, whose usual port is this one.
    #[must_use]
    pub fn find_passed(&self, name: &str, default_port: Option<u16>) -> Option<Arc<Group>> {
        self.groups.iter().find(|group| group.is_passed_as(name, default_port)).cloned()
    }

    /// All groups.
    #[must_use]
    pub fn finish(self) -> Vec<Arc<Group>> {
        self.groups
    }
}

#[cfg(test)]
mod tests;
