//! `least_time`: the peer with the least average response time and the fewest connections for its weight; round robin among equals.
//!
//! nginx's documentation names what counts, not how: here a peer's load is the time an answer of it takes × (1 + connections / weight), so that of idle peers the
//! fastest is chosen, and weights say how many connections make a peer as slow as another. nginx's counterpart: `least_time` of nginx 1.31.

use std::cmp::Ordering;

use super::least_conn;
use super::round_robin::View;
use super::state::SCALE;

/// The time that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until the head of the answer is there.
    Header,
    /// Until the answer is complete.
    LastByte,
}

/// The arguments of `least_time`.
#[derive(Debug, Clone, Copy)]
pub struct LeastTime {
    /// The time that counts.
    pub until: Until,
    /// Whether unfinished requests count by the time they wait already.
    pub inflight: bool,
}

/// Chooses.
pub(super) fn pick(view: &mut View<'_>, by: LeastTime) -> Option<usize> {
    least_conn::pick_least(view, |view, one, other| order(view, one, other, by))
}

/// Which of two peers has less load.
pub(super) fn order(view: &View<'_>, one: usize, other: usize, by: LeastTime) -> Option<Ordering> {
    let load = |index: usize, against: usize| {
        let ((peer, state), (other, others)) = (view.get(index)?, view.get(against)?);
        let times = match by.until {
            Until::Header => &state.header,
            Until::LastByte => &state.response,
        };
        let time = u128::from(times.expected(view.now, by.inflight));
        let weight = state.weight(peer, view.now).unsigned_abs();
        let busy = u128::from(state.connections) * u128::from(SCALE.unsigned_abs());
        let busy = busy.saturating_add(u128::from(weight));
        let by = u128::from(others.weight(other, view.now).unsigned_abs());
        Some(time.saturating_mul(busy).saturating_mul(by))
    };
    let by_load = load(one, other)?.cmp(&load(other, one)?);
    if by_load == Ordering::Equal { least_conn::order(view, one, other) } else { Some(by_load) }
}
