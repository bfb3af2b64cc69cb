//! `least_conn`: the peer with the fewest connections for its weight; round robin among equals.
//!
//! [`pick_least`] serves `least_time` too. nginx's counterpart: `ngx_http_upstream_least_conn_module.c`.

use std::cmp::Ordering;

use super::round_robin::View;

/// Chooses.
pub(super) fn pick(view: &mut View<'_>) -> Option<usize> {
    pick_least(view, order)
}

/// Which of two peers has fewer connections for its weight.
pub(super) fn order(view: &View<'_>, one: usize, other: usize) -> Option<Ordering> {
    let ((first, a), (second, b)) = (view.get(one)?, view.get(other)?);
    let left = i128::from(a.connections) * i128::from(b.weight(second, view.now));
    let right = i128::from(b.connections) * i128::from(a.weight(first, view.now));
    Some(left.cmp(&right))
}

/// Chooses the least peer of an order; round robin among equals.
pub(super) fn pick_least(
    view: &mut View<'_>,
    order: impl Fn(&View<'_>, usize, usize) -> Option<Ordering>,
) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut many = false;
    for index in (0..view.side.len()).filter(|index| view.is_usable(*index)) {
        match best.map_or(Some(Ordering::Less), |best| order(view, index, best)) {
            Some(Ordering::Less) => {
                best = Some(index);
                many = false;
            }
            Some(Ordering::Equal) => many = true,
            Some(Ordering::Greater) | None => {}
        }
    }
    let mut best = best?;
    let mut total = 0_i64;
    if many {
        let mut most: Option<i64> = None;
        let first = best;
        for index in first..view.side.len() {
            if !view.is_usable(index) || order(view, index, best) != Some(Ordering::Equal) {
                continue;
            }
            let (share, weight) = view.advance(index);
            total = total.saturating_add(share);
            if most.is_none_or(|most| weight > most) {
                most = Some(weight);
                best = index;
            }
        }
    }
    view.charge(best, total)
}
