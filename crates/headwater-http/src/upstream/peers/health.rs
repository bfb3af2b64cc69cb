//! What health checks say of a peer: each check has its own opinion, and a peer is chosen when all of them think well of it.
//!
//! Kept in the peer's state (`state`), told by `upstream::health` through the group. nginx's counterpart: the states `unhealthy` and `checking` of its commercial version.

use std::sync::Arc;

/// What one check thinks of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is well.
    Healthy,
    /// It is not used before it has passed once (`mandatory`).
    Checking,
    /// It failed.
    Unhealthy,
}

/// A check as the group knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Tells it from others of the group, in this configuration and the next.
    pub key: Arc<str>,
    /// Whether peers are not used before they have passed.
    pub mandatory: bool,
    /// Whether peers that were well before a reload need not pass anew.
    pub persistent: bool,
}

/// Counters and the last result of a peer's checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckTotals {
    /// Checks made.
    pub checks: u64,
    /// Checks that failed.
    pub fails: u64,
    /// How often the peer became unhealthy.
    pub unhealthy: u64,
    /// Whether the last check passed; `None` before the first.
    pub last_passed: Option<bool>,
}

/// A peer's health.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    opinions: Vec<(Arc<str>, Standing)>,
    pub(super) totals: CheckTotals,
}

impl Health {
    /// Takes on the checks of a configuration; what those of the same keys have found stays.
    pub(super) fn plan(&mut self, planned: &[Planned]) {
        let first = |check: &Planned| if check.mandatory { Standing::Checking } else { Standing::Healthy };
        let next = |check: &Planned| match self.standing(&check.key) {
            Some(Standing::Unhealthy) => Standing::Unhealthy,
            Some(Standing::Healthy) if check.persistent => Standing::Healthy,
            _ => first(check),
        };
        self.opinions = planned.iter().map(|check| (check.key.clone(), next(check))).collect();
    }

    /// What a check thinks; `None` when there is no such check.
    pub(super) fn standing(&self, key: &str) -> Option<Standing> {
        self.opinions.iter().find(|(known, _)| **known == *key).map(|(_, standing)| *standing)
    }

    /// What all of them together think.
    pub(super) fn verdict(&self) -> Standing {
        self.opinions.iter().map(|(_, standing)| *standing).max().unwrap_or(Standing::Healthy)
    }

    /// Notes a result, and what the check thinks now.
    pub(super) fn note(&mut self, key: &str, passed: bool, now: Standing) {
        let before = self.verdict();
        let Some((_, standing)) = self.opinions.iter_mut().find(|(known, _)| **known == *key) else { return };
        *standing = now;
        let totals = &mut self.totals;
        totals.checks = totals.checks.saturating_add(1);
        totals.last_passed = Some(passed);
        if !passed {
            totals.fails = totals.fails.saturating_add(1);
        }
        if self.verdict() == Standing::Unhealthy && before != Standing::Unhealthy {
            self.totals.unhealthy = self.totals.unhealthy.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_io::addr::Addr;

    use super::*;
    use crate::upstream::peers::{Group, Keepalive, Key, Options, Peer, PeerStatus};

    fn check(key: &str, mandatory: bool, persistent: bool) -> Planned {
        Planned { key: key.into(), mandatory, persistent }
    }

    #[test]
    fn verdict_is_the_worst_of_all_opinions() {
        let mut health = Health::default();
        health.plan(&[check("a", false, false), check("b", true, false)]);
        assert_eq!(health.verdict(), Standing::Checking);
        health.note("b", true, Standing::Healthy);
        assert_eq!(health.verdict(), Standing::Healthy);
        health.note("a", false, Standing::Unhealthy);
        health.note("b", true, Standing::Healthy);
        assert_eq!(health.verdict(), Standing::Unhealthy);
        let expected = CheckTotals { checks: 3, fails: 1, unhealthy: 1, last_passed: Some(true) };
        assert_eq!(health.totals, expected);
        health.note("unknown", false, Standing::Unhealthy);
        assert_eq!(health.totals, expected);
    }

    #[test]
    fn plan_keeps_what_was_found_and_forgets_checks_that_are_gone() {
        let mut health = Health::default();
        health.plan(&[check("a", false, false), check("b", true, false), check("c", true, true)]);
        health.note("a", false, Standing::Unhealthy);
        health.note("b", true, Standing::Healthy);
        health.note("c", true, Standing::Healthy);
        health.plan(&[check("a", false, false), check("b", true, false), check("c", true, true)]);
        assert_eq!(health.standing("a"), Some(Standing::Unhealthy));
        assert_eq!(health.standing("b"), Some(Standing::Checking), "mandatory ones begin anew");
        assert_eq!(health.standing("c"), Some(Standing::Healthy), "unless they are persistent");
        health.plan(&[]);
        assert_eq!((health.verdict(), health.standing("a")), (Standing::Healthy, None));
    }

    #[test]
    fn group_chooses_peers_that_are_well_and_shows_the_others() {
        let peers =
            ["127.0.0.1:1", "127.0.0.1:2"].map(|addr| Peer::new(Addr::Inet(addr.parse().unwrap()), addr));
        let options = Options { zone: Some("health".into()), ..Options::default() };
        let group = Group::with_options("g", peers.to_vec(), Vec::new(), Keepalive::default(), options);
        group.plan_checks(vec![check("a", true, false)]);
        let pick = || group.pick(&mut group.start_with(Key::None)).map(|picked| picked.peer.name.to_string());
        let statuses = || group.snapshot().iter().map(|peer| peer.status).collect::<Vec<_>>();
        assert_eq!((pick(), statuses()), (None, vec![PeerStatus::Checking; 2]));
        group.checked(&peers[1], "a", true, Standing::Healthy);
        group.checked(&peers[0], "a", false, Standing::Unhealthy);
        assert!((0..4).all(|_| pick().as_deref() == Some("127.0.0.1:2")));
        assert_eq!(statuses(), [PeerStatus::Unhealthy, PeerStatus::Up]);
        let totals = group.snapshot()[0].health.unwrap();
        assert_eq!(
            (totals.checks, totals.fails, totals.unhealthy, totals.last_passed),
            (1, 1, 1, Some(false))
        );
        // A peer that is new begins where the checks do.
        let third = Peer::new(Addr::Inet("127.0.0.1:3".parse().unwrap()), "c");
        group.replace(vec![peers[0].clone(), third], Vec::new());
        assert_eq!((pick(), statuses()), (None, vec![PeerStatus::Unhealthy, PeerStatus::Checking]));
        group.plan_checks(Vec::new());
        assert!(pick().is_some());
    }

    #[test]
    fn only_peer_that_is_unhealthy_is_not_chosen() {
        let peer = Peer::new(Addr::Inet("127.0.0.1:1".parse().unwrap()), "a");
        let options = Options { zone: Some("health".into()), ..Options::default() };
        let group = Group::with_options("one", vec![peer.clone()], Vec::new(), Keepalive::default(), options);
        group.plan_checks(vec![check("a", false, false)]);
        assert!(group.pick(&mut group.start_with(Key::None)).is_some());
        group.checked(&peer, "a", false, Standing::Unhealthy);
        assert!(group.pick(&mut group.start_with(Key::None)).is_none());
    }
}
