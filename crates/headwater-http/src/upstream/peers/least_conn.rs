//! `least_conn`: the peer with the fewest connections for its weight; round robin among equals.
//!
//! nginx's counterpart: `ngx_http_upstream_least_conn_module.c`.

use super::round_robin::Set;

/// Chooses from primary or backup peers.
pub(super) fn pick(set: &Set, tried: &[usize], now: u64) -> Option<usize> {
    let mut states = set.state();
    let mut best: Option<usize> = None;
    let mut many = false;
    // Connections of one times the weight of the other, both ways round.
    let weigh = |states: &[super::round_robin::PeerState], one: usize, other: usize| -> Option<i64> {
        Some(i64::from(states.get(one)?.connections).saturating_mul(set.peers.get(other)?.weight))
    };
    for index in 0..set.peers.len() {
        if !set.is_usable(&states, index, tried, now) {
            continue;
        }
        let order = best.map(|best| weigh(&states, index, best).cmp(&weigh(&states, best, index)));
        match order {
            None | Some(std::cmp::Ordering::Less) => {
                best = Some(index);
                many = false;
            }
            Some(std::cmp::Ordering::Equal) => many = true,
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    let mut best = best?;
    let mut total = 0_i64;
    if many {
        for (index, peer) in set.peers.iter().enumerate().skip(best) {
            if weigh(&states, index, best) != weigh(&states, best, index)
                || !set.is_usable(&states, index, tried, now)
            {
                continue;
            }
            let Some(state) = states.get_mut(index) else { continue };
            total = total.saturating_add(state.advance(peer));
            let weight = state.current_weight;
            if states.get(best).is_some_and(|best| weight > best.current_weight) {
                best = index;
            }
        }
    }
    let state = states.get_mut(best)?;
    state.current_weight = state.current_weight.saturating_sub(total);
    set.take(&mut states, best, now)
}
