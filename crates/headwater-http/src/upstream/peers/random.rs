//! `random`: a peer by chance and weight, or of two such the one with fewer connections.
//!
//! nginx's counterpart: `ngx_http_upstream_random_module.c`.

use std::hash::{BuildHasher as _, RandomState};

use super::hash::{Choice, MAX_TRIES};
use super::round_robin::Set;

/// Chooses; `None` when too many draws led to peers that cannot be used.
pub(super) fn pick(set: &Set, choice: &mut Choice, tried: &[usize], now: u64, two: bool) -> Option<usize> {
    if choice.tries > MAX_TRIES || set.peers.len() < 2 {
        return None;
    }
    let mut states = set.state();
    let mut previous: Option<usize> = None;
    loop {
        let index = set.at_weight(draw().checked_rem(set.total_weight)?)?;
        if previous != Some(index) && set.is_usable(&states, index, tried, now) {
            let load = |one: usize, other: usize| -> Option<i64> {
                Some(i64::from(states.get(one)?.connections).saturating_mul(set.peers.get(other)?.weight))
            };
            let chosen = match previous {
                None if two => {
                    previous = Some(index);
                    None
                }
                Some(previous) if load(index, previous) > load(previous, index) => Some(previous),
                _ => Some(index),
            };
            if let Some(index) = chosen {
                return set.take(&mut states, index, now);
            }
        }
        // The first of two is no miss, but nginx counts it as a draw too.
        choice.tries = choice.tries.saturating_add(1);
        if choice.tries > MAX_TRIES {
            return None;
        }
    }
}

/// A random number. Each new state has keys of its own.
fn draw() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::peers::tests::peer;

    #[test]
    fn random_spreads_by_weight_and_two_takes_the_idle_one() {
        let set = Set::new(vec![peer("a", 1), peer("b", 3)]);
        let mut counts = [0_u32; 2];
        for _ in 0..400 {
            counts[pick(&set, &mut Choice::default(), &[], 0, false).expect("live")] += 1;
        }
        assert!(counts[0] > 40 && counts[1] > 200, "{counts:?}");
        let set = Set::new(vec![peer("a", 1), peer("b", 1)]);
        for _ in 0..5 {
            set.take(&mut set.state(), 0, 0);
        }
        assert_eq!(pick(&set, &mut Choice::default(), &[], 0, true), Some(1));
    }
}
