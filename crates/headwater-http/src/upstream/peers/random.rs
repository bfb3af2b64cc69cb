//! `random`: a peer by chance and weight, or of two such the better one.
//!
//! nginx's counterpart: `ngx_http_upstream_random_module.c`.

use std::cmp::Ordering;
use std::hash::{BuildHasher as _, RandomState};

use super::hash::{Choice, MAX_TRIES};
use super::least_time::{LeastTime, Until};
use super::round_robin::View;
use super::{least_conn, least_time};

/// How many are drawn, and which of two is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// One.
    One,
    /// `two least_conn`: the one with fewer connections for its weight.
    LeastConn,
    /// `two least_time`: the one with the least time and connections.
    LeastTime(Until),
}

/// Chooses; `None` when too many draws led to peers that cannot be used.
pub(super) fn pick(view: &mut View<'_>, choice: &mut Choice, draw: Draw) -> Option<usize> {
    if choice.tries > MAX_TRIES || view.side.len() < 2 {
        return None;
    }
    let mut previous: Option<usize> = None;
    loop {
        let index = view.side.at_weight(random().checked_rem(view.side.total_weight())?)?;
        if previous != Some(index) && view.is_usable(index) {
            let chosen = match previous {
                None if draw != Draw::One => {
                    previous = Some(index);
                    None
                }
                Some(previous) if is_worse(view, index, previous, draw) => Some(previous),
                _ => Some(index),
            };
            if let Some(index) = chosen {
                return view.take(index);
            }
        }
        // The first of two is no miss, but nginx counts it as a draw too.
        choice.tries = choice.tries.saturating_add(1);
        if choice.tries > MAX_TRIES {
            return None;
        }
    }
}

fn is_worse(view: &View<'_>, one: usize, other: usize, draw: Draw) -> bool {
    let order = match draw {
        Draw::LeastTime(until) => least_time::order(view, one, other, LeastTime { until, inflight: false }),
        Draw::One | Draw::LeastConn => least_conn::order(view, one, other),
    };
    order == Some(Ordering::Greater)
}

/// A random number. Each new state has keys of its own.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}
