//! Address tables of `geo`: networks or ranges while they are read, sorted boundaries afterwards.
//!
//! Networks nest or are apart, so the longest prefix becomes a flat list of boundaries, found by bisection. nginx's counterpart: its radix
//! trees and `ngx_http_geo_add_range`.

use std::collections::{BTreeMap, HashMap};

use crate::modules::cidr::{Cidr, mask4, mask6};

/// Values, each kept once; index 0 is the empty value.
#[derive(Default)]
pub(super) struct Values {
    texts: Vec<Box<[u8]>>,
    known: HashMap<Box<[u8]>, u32>,
}

impl Values {
    /// The index of a value.
    pub(super) fn index(&mut self, text: &[u8]) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        self.texts.push(text.into());
        let index = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.known.insert(text.into(), index);
        index
    }

    /// The value of an index.
    pub(super) fn get(&self, index: u32) -> &[u8] {
        let at = usize::try_from(index).unwrap_or(usize::MAX).checked_sub(1);
        at.and_then(|at| self.texts.get(at)).map_or(&[], |text| text)
    }

    /// Drops what only reading needs.
    pub(super) fn finish(self) -> Self {
        Self { texts: self.texts, known: HashMap::new() }
    }
}

/// Sorted boundaries: from each on, up to the next, addresses have its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table<T> {
    boundaries: Vec<(T, u32)>,
}

impl<T: Ord + Copy> Table<T> {
    /// The value index of an address.
    pub(super) fn find(&self, address: T) -> u32 {
        let after = self.boundaries.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).and_then(|at| self.boundaries.get(at)).map_or(0, |(_, value)| *value)
    }

    /// Adds a boundary behind the others; one at the same place is replaced, one without change left out.
    fn push(&mut self, start: T, value: u32) {
        if self.boundaries.last().is_some_and(|(last, _)| *last == start) {
            self.boundaries.pop();
        }
        let before = self.boundaries.last().map_or(0, |(_, value)| *value);
        if before != value {
            self.boundaries.push((start, value));
        }
    }
}

/// Networks while they are read.
#[derive(Default)]
pub(super) struct Networks {
    v4: HashMap<(u32, u8), u32>,
    v6: HashMap<(u128, u8), u32>,
}

impl Networks {
    /// Sets a network's value; gives the one it had.
    pub(super) fn insert(&mut self, network: Cidr, value: u32) -> Option<u32> {
        match network {
            Cidr::V4(address, length) => self.v4.insert((address, length), value),
            Cidr::V6(address, length) => self.v6.insert((address, length), value),
            Cidr::Unix => None,
        }
    }

    /// Removes a network; `false` when it was not there.
    pub(super) fn remove(&mut self, network: Cidr) -> bool {
        match network {
            Cidr::V4(address, length) => self.v4.remove(&(address, length)).is_some(),
            Cidr::V6(address, length) => self.v6.remove(&(address, length)).is_some(),
            Cidr::Unix => false,
        }
    }

    /// The tables for IPv4 and IPv6.
    pub(super) fn finish(self) -> (Table<u32>, Table<u128>) {
        let v4 = flatten(self.v4, |start, length| start | !mask4(length), |end| end.checked_add(1));
        let v6 = flatten(self.v6, |start, length| start | !mask6(length), |end| end.checked_add(1));
        (v4, v6)
    }
}

fn flatten<T: Ord + Copy>(
    networks: HashMap<(T, u8), u32>,
    end_of: fn(T, u8) -> T,
    after: fn(T) -> Option<T>,
) -> Table<T> {
    let mut sorted: Vec<((T, u8), u32)> = networks.into_iter().collect();
    // An outer network comes before those inside it: it starts no later, and with the same start its prefix is shorter.
    sorted.sort_unstable_by_key(|(network, _)| *network);
    let mut table = Table { boundaries: Vec::with_capacity(sorted.len()) };
    let mut open: Vec<(T, u32)> = Vec::new();
    for ((start, length), value) in sorted {
        close(&mut table, &mut open, Some(start), after);
        table.push(start, value);
        open.push((end_of(start, length), value));
    }
    close(&mut table, &mut open, None, after);
    table.boundaries.shrink_to_fit();
    table
}

/// Ends the open networks that end before an address.
fn close<T: Ord + Copy>(
    table: &mut Table<T>,
    open: &mut Vec<(T, u32)>,
    before: Option<T>,
    after: fn(T) -> Option<T>,
) {
    while let Some((end, _)) = open.last().copied() {
        if before.is_some_and(|start| start <= end) {
            break;
        }
        open.pop();
        let outer = open.last().map_or(0, |(_, value)| *value);
        if let Some(next) = after(end) {
            table.push(next, outer);
        }
    }
}

/// Ranges while they are read, cut at multiples of 65536 as nginx does: what overlaps is told by the cut pieces.
#[derive(Default)]
pub(super) struct Ranges {
    /// The value of addresses in no range.
    pub(super) default: Option<u32>,
    pieces: BTreeMap<u32, (u32, u32)>,
}

/// The pieces of a range.
fn pieces(start: u32, end: u32) -> impl Iterator<Item = (u32, u32)> {
    ((start >> 16)..=(end >> 16)).map(move |high| {
        let base = high << 16;
        (start.max(base), end.min(base | 0xffff))
    })
}

impl Ranges {
    /// Adds a range; gives the values of pieces it replaced. A range inside another cuts it; one that overlaps another in any other
    /// way is an error that names the piece of the other.
    pub(super) fn insert(&mut self, start: u32, end: u32, value: u32) -> Result<Vec<u32>, (u32, u32)> {
        let mut replaced = Vec::new();
        for (start, end) in pieces(start, end) {
            let before =
                self.pieces.range(..=end).next_back().map(|(start, (end, value))| (*start, *end, *value));
            let Some((old_start, old_end, old)) = before.filter(|(_, old_end, _)| *old_end >= start) else {
                self.pieces.insert(start, (end, value));
                continue;
            };
            if (old_start, old_end) == (start, end) {
                replaced.push(old);
            } else if old_start <= start && end <= old_end {
                if old_start < start {
                    self.pieces.insert(old_start, (start.saturating_sub(1), old));
                }
                if end < old_end {
                    self.pieces.insert(end.saturating_add(1), (old_end, old));
                }
            } else {
                return Err((old_start, old_end));
            }
            self.pieces.insert(start, (end, value));
        }
        Ok(replaced)
    }

    /// Removes a range; `false` when a piece of it was not there.
    pub(super) fn remove(&mut self, start: u32, end: u32) -> bool {
        let mut all = true;
        for (start, end) in pieces(start, end) {
            if self.pieces.get(&start).is_some_and(|(old_end, _)| *old_end == end) {
                self.pieces.remove(&start);
            } else {
                all = false;
            }
        }
        all
    }

    /// The table.
    pub(super) fn finish(self) -> Table<u32> {
        let default = self.default.unwrap_or(0);
        let mut table = Table { boundaries: Vec::new() };
        table.push(0, default);
        for (start, (end, value)) in self.pieces {
            table.push(start, value);
            if let Some(next) = end.checked_add(1) {
                table.push(next, default);
            }
        }
        table.boundaries.shrink_to_fit();
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[(&str, u32)]) -> (Table<u32>, Table<u128>) {
        let mut networks = Networks::default();
        for (text, value) in list {
            networks.insert(Cidr::parse(text.as_bytes()).expect("a network").0, *value);
        }
        networks.finish()
    }

    #[test]
    fn networks_longest_prefix_wins() {
        let (v4, v6) = networks(&[
            ("0.0.0.0/0", 1),
            ("10.0.0.0/8", 2),
            ("10.0.0.0/24", 3),
            ("10.0.0.5", 4),
            ("10.255.255.255", 5),
            ("254.0.0.0/7", 6),
            ("2001:db8::/32", 7),
            ("::1", 8),
        ]);
        let find = |a: u8, b: u8, c: u8, d: u8| v4.find(u32::from_be_bytes([a, b, c, d]));
        assert_eq!(find(9, 255, 255, 255), 1);
        assert_eq!(find(10, 0, 0, 4), 3);
        assert_eq!(find(10, 0, 0, 5), 4);
        assert_eq!(find(10, 0, 0, 6), 3);
        assert_eq!(find(10, 0, 1, 0), 2);
        assert_eq!(find(10, 255, 255, 255), 5);
        assert_eq!(find(11, 0, 0, 0), 1);
        assert_eq!(find(255, 255, 255, 255), 6);
        assert_eq!(v6.find(0x2001_0db8 << 96), 7);
        assert_eq!((v6.find(0), v6.find(1), v6.find(2)), (0, 8, 0));
    }

    #[test]
    fn networks_agree_with_a_search_of_all() {
        let list: Vec<(u32, u8, u32)> = (0..200_u32)
            .map(|n| {
                let length = u8::try_from(n.wrapping_mul(7) % 33).unwrap_or(0);
                (n.wrapping_mul(0x9e37_79b1) & mask4(length), length, n)
            })
            .collect();
        let mut networks = Networks::default();
        for (address, length, value) in &list {
            networks.insert(Cidr::V4(*address, *length), *value);
        }
        let table = networks.finish().0;
        for address in (0..2000_u32).map(|n| n.wrapping_mul(0x85eb_ca6b)) {
            // Of networks given twice the later one counts.
            let best = list
                .iter()
                .filter(|(net, length, _)| address & mask4(*length) == *net)
                .max_by_key(|(_, length, n)| (*length, *n));
            assert_eq!(table.find(address), best.map_or(0, |(_, _, value)| *value));
        }
    }

    #[test]
    fn ranges_inside_others_cut_them() {
        let mut ranges = Ranges { default: Some(9), ..Ranges::default() };
        assert_eq!(ranges.insert(10, 20, 1), Ok(vec![]));
        assert_eq!(ranges.insert(12, 14, 2), Ok(vec![]));
        assert_eq!(ranges.insert(10, 11, 3), Ok(vec![1]));
        assert_eq!(ranges.insert(15, 20, 4), Ok(vec![1]));
        assert_eq!(ranges.insert(14, 16, 5), Err((15, 20)));
        assert_eq!(ranges.insert(30, 0x2_0005, 6), Ok(vec![]));
        assert!(ranges.remove(12, 14));
        assert!(!ranges.remove(12, 14));
        let table = ranges.finish();
        let found: Vec<u32> =
            [9, 10, 11, 12, 14, 15, 20, 21, 29, 30, 0x2_0005, 0x2_0006].map(|n| table.find(n)).into();
        assert_eq!(found, [9, 3, 3, 9, 9, 4, 4, 9, 9, 6, 6, 9]);
    }

    #[test]
    fn values_are_kept_once_and_the_empty_one_is_zero() {
        let mut values = Values::default();
        assert_eq!(
            (values.index(b""), values.index(b"a"), values.index(b"b"), values.index(b"a")),
            (0, 1, 2, 1)
        );
        assert_eq!((values.get(0), values.get(2), values.get(7)), (&b""[..], &b"b"[..], &b""[..]));
    }
}
