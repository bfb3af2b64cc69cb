//! `hash`: the peer by a text, plain (as Cache::Memcached does) or `consistent` (ketama, as Cache::Memcached::Fast does).
//!
//! nginx's counterpart: `ngx_http_upstream_hash_module.c`.

use std::sync::Arc;

use crc32fast::Hasher;

use super::Peer;
use super::round_robin::View;

/// How many hashes are tried before round robin decides.
pub(super) const MAX_TRIES: u32 = 20;

/// Points of a peer on the ring for each unit of weight.
const POINTS: usize = 160;

/// How far a request's search has got.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) key: Vec<u8>,
    pub(super) hash: u32,
    pub(super) tries: u32,
    rehash: u32,
    /// The list of peers on whose ring `hash` is a place.
    ring: Option<u64>,
}

impl Choice {
    pub(super) fn new(key: Vec<u8>, hash: u32) -> Self {
        Self { key, hash, ..Self::default() }
    }

    fn step(&mut self) -> bool {
        self.tries = self.tries.saturating_add(1);
        self.tries <= MAX_TRIES
    }
}

/// Chooses by the next hash; `None` when too many of them led to peers that cannot be used.
pub(super) fn pick(view: &mut View<'_>, choice: &mut Choice) -> Option<usize> {
    if choice.tries > MAX_TRIES || view.side.len() < 2 || choice.key.is_empty() {
        return None;
    }
    loop {
        let mut crc = Hasher::new();
        if choice.rehash > 0 {
            crc.update(itoa::Buffer::new().format(choice.rehash).as_bytes());
        }
        crc.update(&choice.key);
        choice.hash = choice.hash.wrapping_add(crc.finalize() >> 16 & 0x7fff);
        choice.rehash = choice.rehash.saturating_add(1);
        let index = view.side.at_weight(u64::from(choice.hash).checked_rem(view.side.total_weight())?)?;
        if view.is_usable(index) {
            return view.take(index);
        }
        if !choice.step() {
            return None;
        }
    }
}

/// The ring of `consistent`: hashes in order, each with a peer whose `server` it stands for.
#[derive(Debug)]
pub(super) struct Ring {
    points: Vec<(u32, Box<str>)>,
}

impl Ring {
    /// Puts every peer's `server`, as written, on the ring.
    pub(super) fn new<'p>(peers: impl IntoIterator<Item = &'p Arc<Peer>>) -> Self {
        let mut points = Vec::new();
        for peer in peers {
            let (host, port) = split(&peer.server);
            let mut base = Hasher::new();
            base.update(host.as_bytes());
            base.update(&[0]);
            base.update(port.as_bytes());
            let mut previous = 0_u32;
            let count = usize::try_from(peer.weight).unwrap_or(0).saturating_mul(POINTS);
            for _ in 0..count {
                let mut crc = base.clone();
                crc.update(&previous.to_le_bytes());
                previous = crc.finalize();
                points.push((previous, peer.server.clone()));
            }
        }
        points.sort_by_key(|(hash, _)| *hash);
        points.dedup_by_key(|(hash, _)| *hash);
        Self { points }
    }

    /// Where a key lies on the ring.
    fn start(&self, key: &[u8]) -> u32 {
        let hash = crc32fast::hash(key);
        u32::try_from(self.points.partition_point(|(point, _)| *point < hash)).unwrap_or(0)
    }

    /// Chooses along the ring of the list with this number; `None` when too many points in a row belong to peers that cannot be used.
    pub(super) fn pick(&self, view: &mut View<'_>, choice: &mut Choice, list: u64) -> Option<usize> {
        if choice.tries > MAX_TRIES || choice.key.is_empty() {
            return None;
        }
        if choice.ring != Some(list) {
            choice.ring = Some(list);
            choice.hash = self.start(&choice.key);
        }
        loop {
            let at = (choice.hash as usize).checked_rem(self.points.len())?;
            let (_, server) = self.points.get(at)?;
            // A name may have several addresses: they take turns.
            if let Some(index) = view.pick_among(|peer| peer.server == *server) {
                return Some(index);
            }
            choice.hash = choice.hash.wrapping_add(1);
            if !choice.step() {
                return None;
            }
        }
    }
}

/// Host and port of a `server` as written.
fn split(server: &str) -> (&str, &str) {
    if server.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("unix:")) {
        return (server.get(5..).unwrap_or_default(), "");
    }
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (server, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::peers::tests::peer;

    #[test]
    fn split_takes_digits_behind_the_last_colon() {
        assert_eq!(split("a.com:80"), ("a.com", "80"));
        assert_eq!(split("a.com"), ("a.com", ""));
        assert_eq!(split("unix:/a:1"), ("/a:1", ""));
        assert_eq!(split("[::1]"), ("[::1]", ""));
        assert_eq!(split("[::1]:8"), ("[::1]", "8"));
    }

    #[test]
    fn ring_points_of_a_peer_that_goes_are_all_that_changes() {
        let peers = |names: &[&str]| names.iter().map(|name| Arc::new(peer(name, 1))).collect::<Vec<_>>();
        let (three, two) = (Ring::new(&peers(&["a:1", "b:1", "c:1"])), Ring::new(&peers(&["a:1", "b:1"])));
        let left: Vec<_> = three.points.iter().filter(|(_, server)| **server != *"c:1").cloned().collect();
        assert_eq!(left, two.points);
    }
}
