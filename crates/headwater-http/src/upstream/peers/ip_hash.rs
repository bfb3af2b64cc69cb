//! `ip_hash`: the peer by the client's address; of IPv4 the first three bytes count.
//!
//! nginx's counterpart: `ngx_http_upstream_ip_hash_module.c`.

use std::net::IpAddr;

use headwater_io::addr::Addr;

use super::hash::{Choice, MAX_TRIES};
use super::round_robin::Set;

/// The bytes of an address that count.
pub(super) fn key(addr: &Addr) -> Vec<u8> {
    match addr.ip() {
        Some(IpAddr::V4(ip)) => ip.octets().get(..3).unwrap_or_default().to_vec(),
        Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
        None => vec![0; 3],
    }
}

/// Chooses by the next hash; `None` when too many of them led to peers that cannot be used.
pub(super) fn pick(set: &Set, choice: &mut Choice, tried: &[usize], now: u64) -> Option<usize> {
    if choice.tries > MAX_TRIES || set.peers.len() < 2 {
        return None;
    }
    let mut states = set.state();
    let mut hash = u64::from(choice.hash);
    loop {
        for byte in &choice.key {
            hash = hash.wrapping_mul(113).wrapping_add(u64::from(*byte)) % 6271;
        }
        let index = set.at_weight(hash.checked_rem(set.total_weight)?)?;
        if set.is_usable(&states, index, tried, now) {
            choice.hash = u32::try_from(hash).unwrap_or(0);
            return set.take(&mut states, index, now);
        }
        choice.tries = choice.tries.saturating_add(1);
        if choice.tries > MAX_TRIES {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::peers::tests::peer;

    #[test]
    fn pick_same_network_same_peer_until_it_fails() {
        let set = Set::new(vec![peer("a", 1), peer("b", 1), peer("c", 2)]);
        let first = |key: &[u8], tried: &[usize]| {
            pick(&set, &mut Choice::new(key.to_vec(), 89), tried, 0).expect("live")
        };
        // 89, then times 113 plus each byte, modulo 6271.
        assert_eq!(first(&[127, 0, 0], &[]), first(&[127, 0, 0], &[]));
        let index = first(&[10, 0, 0], &[]);
        assert_ne!(first(&[10, 0, 0], &[index]), index);
    }
}
