//! What one request knows of its attempts at a group.
//!
//! Made by `Group::start`, kept by `engine`. nginx's counterpart: `ngx_http_upstream_rr_peer_data_t` with its `tried` bits.

use super::hash::Choice;

/// The peers that were asked, by their places in the group's table.
#[derive(Debug, Default)]
pub(super) struct TriedSet {
    /// Places below 64: groups are seldom larger, and nothing is allocated for these.
    low: u64,
    high: Vec<usize>,
}

impl TriedSet {
    pub(super) fn contains(&self, slot: usize) -> bool {
        if slot < 64 { self.low >> slot & 1 == 1 } else { self.high.contains(&slot) }
    }

    pub(super) fn insert(&mut self, slot: usize) {
        if slot < 64 {
            self.low |= 1 << slot;
        } else if !self.high.contains(&slot) {
            self.high.push(slot);
        }
    }
}

/// What one request knows of its attempts at a group.
#[derive(Debug, Default)]
pub struct Tried {
    pub(super) set: TriedSet,
    /// Whether the primary peers are used up.
    pub(super) on_backup: bool,
    pub(super) choice: Choice,
    /// What `sticky` knows of the request.
    pub(super) binding: super::sticky::Binding,
    /// Attempts that are left.
    pub left: usize,
}

impl Tried {
    /// The bookkeeping of a request that has this many attempts left.
    #[must_use]
    pub fn with_left(left: usize) -> Self {
        Self { left, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tried_set_holds_low_and_high_places() {
        let mut set = TriedSet::default();
        for slot in [0, 63, 64, 1000, 64] {
            set.insert(slot);
        }
        let held: Vec<usize> = (0..1100).filter(|slot| set.contains(*slot)).collect();
        assert_eq!(held, [0, 63, 64, 1000]);
    }
}
