//! What changes about a peer: failures and their window, weights, connections, response times, counters.
//!
//! Kept in the group's table (`table`), read and changed by the methods through `round_robin::View`. Failures are counted in whole seconds, as nginx
//! does it. nginx's counterpart: the second half of `ngx_http_upstream_rr_peer_t`.

use std::time::Duration;

use super::Peer;
use super::group::Report;
use super::health::{Health, Planned, Standing};

/// Units of one weight in `current_weight`: a peer in `slow_start` has a fraction of its weight.
pub(super) const SCALE: i64 = 1000;

/// The state of one peer.
#[derive(Debug, Default, Clone)]
pub(super) struct PeerState {
    /// Whether the present list names the peer; else the state waits for the last connection to go.
    pub(super) listed: bool,
    /// Of smooth weighted round robin, in 1/`SCALE`.
    pub(super) current_weight: i64,
    effective_weight: i64,
    fails: u32,
    /// When it failed last, and when it was tried or failed last, seconds.
    accessed: u64,
    checked: u64,
    /// When it became available after it was not, milliseconds; while `slow_start` lasts.
    slow_since: Option<u64>,
    pub(super) connections: u32,
    /// Until the head of an answer, and until its end.
    pub(super) header: Times,
    pub(super) response: Times,
    pub(super) totals: Totals,
    /// What health checks think; nothing where there are none.
    pub(super) health: Option<Box<Health>>,
    /// Whether they think that it is not to be used.
    barred: bool,
}

/// Response times, for `least_time`.
#[derive(Debug, Default, Clone)]
pub(super) struct Times {
    /// Moving average, microseconds; 0 until the first answer.
    average: u64,
    /// Unfinished requests, and the sum of the times they began at, milliseconds.
    unfinished: u32,
    began: u64,
}

impl Times {
    /// Notes that a request begins.
    pub(super) fn begin(&mut self, now: u64) {
        self.unfinished = self.unfinished.saturating_add(1);
        self.began = self.began.saturating_add(now);
    }

    /// Notes that a request that began then needs no more time; an answer that counts took so many milliseconds.
    pub(super) fn end(&mut self, began: u64, took: Option<u64>) {
        self.unfinished = self.unfinished.saturating_sub(1);
        self.began = self.began.saturating_sub(began);
        let Some(took) = took else { return };
        let sample = took.saturating_mul(1000).max(1);
        self.average = match self.average {
            0 => sample,
            average => (average.saturating_mul(7).saturating_add(sample) / 8).max(1),
        };
    }

    /// The time that an answer takes, microseconds, one millisecond at least. With `inflight`, requests that wait for longer than the average count too.
    pub(super) fn expected(&self, now: u64, inflight: bool) -> u64 {
        let mut expected = self.average.max(1000);
        if inflight && self.unfinished > 0 {
            let unfinished = u64::from(self.unfinished);
            let waited = now.saturating_mul(unfinished).saturating_sub(self.began) / unfinished;
            expected = expected.max(waited.saturating_mul(1000));
        }
        expected
    }

    /// The average in milliseconds; `None` before the first answer.
    pub(super) fn average_ms(&self) -> Option<f64> {
        (self.average > 0).then(|| self.average as f64 / 1000.0)
    }
}

/// Counters that only go up.
#[derive(Debug, Default, Clone)]
pub(super) struct Totals {
    pub(super) requests: u64,
    /// By the first digit of the status, from 1.
    pub(super) responses: [u64; 5],
    pub(super) fails: u64,
    pub(super) unavailable: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// When it was chosen last, milliseconds.
    pub(super) selected: Option<u64>,
}

impl PeerState {
    pub(super) fn new(peer: &Peer, planned: &[Planned]) -> Self {
        let mut state = Self { listed: true, effective_weight: peer.weight, ..Self::default() };
        state.plan(planned);
        state
    }

    /// Takes on the health checks of a configuration.
    pub(super) fn plan(&mut self, planned: &[Planned]) {
        if self.health.is_none() && planned.is_empty() {
            return;
        }
        let health = self.health.get_or_insert_default();
        health.plan(planned);
        self.barred = health.verdict() != Standing::Healthy;
    }

    /// Notes the result of a health check; a peer that is used again from now on starts slowly.
    pub(super) fn checked(&mut self, peer: &Peer, key: &str, passed: bool, standing: Standing, now: u64) {
        let Some(health) = &mut self.health else { return };
        health.note(key, passed, standing);
        let barred = health.verdict() != Standing::Healthy;
        if std::mem::replace(&mut self.barred, barred) && !barred && !peer.slow_start.is_zero() {
            self.slow_since = Some(now);
        }
    }

    /// Whether health checks keep it from being used.
    pub(super) fn is_barred(&self) -> bool {
        self.barred
    }

    /// Goes on under settings that may have changed.
    pub(super) fn adopt(&mut self, old: &Peer, new: &Peer) {
        self.effective_weight =
            if old.weight == new.weight { self.effective_weight.min(new.weight) } else { new.weight };
    }

    /// Adds the share of one round of round robin and gives it.
    pub(super) fn advance(&mut self, peer: &Peer, now: u64) -> i64 {
        self.begin_recovery(peer, now);
        let share = self.effective_weight.saturating_mul(self.warmth(peer, now));
        self.current_weight = self.current_weight.saturating_add(share);
        if self.effective_weight < peer.weight {
            self.effective_weight = self.effective_weight.saturating_add(1);
        }
        share
    }

    /// Starts `slow_start` when the time of unavailability is over.
    fn begin_recovery(&mut self, peer: &Peer, now: u64) {
        if !peer.slow_start.is_zero() && self.slow_since.is_none() && self.has_failed(peer) {
            self.slow_since = Some(now);
        }
    }

    /// How much of its weight a peer has by `slow_start`, of `SCALE`.
    fn warmth(&self, peer: &Peer, now: u64) -> i64 {
        let length = millis(peer.slow_start);
        match self.slow_since {
            Some(since) if now.saturating_sub(since) < length => {
                let elapsed = now.saturating_sub(since).saturating_mul(SCALE.unsigned_abs());
                i64::try_from(elapsed.checked_div(length).unwrap_or(0)).unwrap_or(SCALE)
            }
            None if length > 0 && self.has_failed(peer) => 0,
            _ => SCALE,
        }
    }

    /// The weight for comparisons of load, in 1/`SCALE`, 1 at least.
    pub(super) fn weight(&self, peer: &Peer, now: u64) -> i64 {
        peer.weight.saturating_mul(self.warmth(peer, now)).max(1)
    }

    /// Whether it failed too often; it may be tried again when the window is over.
    fn has_failed(&self, peer: &Peer) -> bool {
        peer.max_fails > 0 && self.fails >= peer.max_fails
    }

    /// Whether it failed too often within the window.
    pub(super) fn is_failing(&self, peer: &Peer, now: u64) -> bool {
        self.has_failed(peer) && (now / 1000).saturating_sub(self.checked) <= peer.fail_timeout.as_secs()
    }

    /// Whether it has as many connections as `max_conns` allows.
    pub(super) fn is_full(&self, peer: &Peer) -> bool {
        peer.max_conns > 0 && self.connections >= peer.max_conns
    }

    /// Notes that a connection is about to be used.
    pub(super) fn take(&mut self, peer: &Peer, now: u64) {
        self.begin_recovery(peer, now);
        if (now / 1000).saturating_sub(self.checked) > peer.fail_timeout.as_secs() {
            self.checked = now / 1000;
        }
        self.connections = self.connections.saturating_add(1);
        self.header.begin(now);
        self.response.begin(now);
        self.totals.requests = self.totals.requests.saturating_add(1);
        self.totals.selected = Some(now);
    }

    /// Notes how an attempt went; whether the peer is left alone from now on. A group's only peer is never left alone.
    pub(super) fn note(&mut self, peer: &Peer, report: &Report, single: bool, now: u64) -> bool {
        self.count(report);
        if single {
            self.fails = 0;
            return false;
        }
        if !report.failed {
            if self.accessed < self.checked {
                self.fails = 0;
            }
            return false;
        }
        self.fails = self.fails.saturating_add(1);
        self.accessed = now / 1000;
        self.checked = now / 1000;
        if peer.max_fails == 0 {
            return false;
        }
        let loss = peer.weight.checked_div(i64::from(peer.max_fails)).unwrap_or(0);
        self.effective_weight = self.effective_weight.saturating_sub(loss).max(0);
        let disabled = self.has_failed(peer);
        if disabled {
            self.slow_since = None;
            self.totals.unavailable = self.totals.unavailable.saturating_add(1);
        }
        disabled
    }

    fn count(&mut self, report: &Report) {
        let totals = &mut self.totals;
        if report.failed {
            totals.fails = totals.fails.saturating_add(1);
        }
        let class = usize::from(report.status / 100).checked_sub(1);
        if let Some(count) = class.and_then(|class| totals.responses.get_mut(class)) {
            *count = count.saturating_add(1);
        }
        totals.sent = totals.sent.saturating_add(report.sent);
        totals.received = totals.received.saturating_add(report.received);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::peers::tests::peer;

    const FAILED: Report =
        Report { failed: true, status: 0, header_ms: None, response_ms: None, sent: 0, received: 0 };
    const SERVED: Report = Report { failed: false, ..FAILED };

    #[test]
    fn note_failures_within_the_window_make_unavailable_and_success_after_it_forgives() {
        let peer = Peer { max_fails: 2, ..peer("a", 4) };
        let mut state = PeerState::new(&peer, &[]);
        state.take(&peer, 20_000);
        assert!(!state.note(&peer, &FAILED, false, 20_000));
        assert!(!state.is_failing(&peer, 20_000));
        assert!(state.note(&peer, &FAILED, false, 21_999));
        assert!(state.is_failing(&peer, 31_999), "10 whole seconds");
        assert!(!state.is_failing(&peer, 32_000));
        state.take(&peer, 32_000);
        assert!(state.is_failing(&peer, 32_500), "one request tries it");
        assert!(!state.note(&peer, &SERVED, false, 32_500));
        assert!(!state.is_failing(&peer, 32_500));
    }

    #[test]
    fn note_single_peer_is_never_left_alone() {
        let peer = peer("a", 1);
        let mut state = PeerState::new(&peer, &[]);
        assert!(!state.note(&peer, &FAILED, true, 1000));
        assert!(!state.is_failing(&peer, 1000));
        assert_eq!(state.totals.fails, 1);
    }

    #[test]
    fn weight_grows_from_nothing_while_slow_start_lasts() {
        let peer = Peer { slow_start: Duration::from_secs(10), ..peer("a", 2) };
        let mut state = PeerState::new(&peer, &[]);
        assert_eq!(state.weight(&peer, 0), 2000);
        assert!(state.note(&peer, &FAILED, false, 1000));
        assert_eq!(state.weight(&peer, 12_000), 1);
        assert_eq!(state.advance(&peer, 12_000), 0);
        assert_eq!(state.weight(&peer, 14_500), 500);
        state.take(&peer, 14_500);
        assert!(!state.note(&peer, &SERVED, false, 14_600));
        assert_eq!(state.weight(&peer, 17_000), 1000);
        assert_eq!(state.weight(&peer, 22_000), 2000);
    }

    #[test]
    fn times_average_moves_and_unfinished_requests_count_when_asked() {
        let mut times = Times::default();
        assert_eq!(times.expected(0, false), 1000);
        times.begin(100);
        times.end(100, Some(80));
        assert_eq!(times.expected(200, true), 80_000);
        times.begin(200);
        times.end(200, Some(160));
        assert_eq!(times.expected(200, false), 90_000);
        times.begin(1000);
        assert_eq!(times.expected(2000, true), 1_000_000);
        assert_eq!(times.expected(2000, false), 90_000);
        times.end(1000, None);
        assert_eq!(times.expected(2000, true), 90_000);
    }

    #[test]
    fn checked_peer_that_recovers_starts_slowly() {
        let planned = [Planned { key: "a".into(), mandatory: true, persistent: false }];
        let peer = Peer { slow_start: Duration::from_secs(10), ..peer("a", 2) };
        let mut state = PeerState::new(&peer, &planned);
        assert!(state.is_barred());
        state.checked(&peer, "a", true, Standing::Healthy, 5000);
        assert!(!state.is_barred());
        assert_eq!(state.weight(&peer, 5000), 1);
        assert_eq!(state.weight(&peer, 10_000), 1000);
        assert_eq!(state.weight(&peer, 15_000), 2000);
        state.plan(&[]);
        assert!(!state.is_barred());
    }
}
