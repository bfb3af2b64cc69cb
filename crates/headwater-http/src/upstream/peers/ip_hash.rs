//! `ip_hash`: the peer by the client's address; of IPv4 the first three bytes count.
//!
//! nginx's counterpart: `ngx_http_upstream_ip_hash_module.c`.

use std::net::IpAddr;

use headwater_io::addr::Addr;

use super::hash::{Choice, MAX_TRIES};
use super::round_robin::View;

/// The hash before the first byte.
pub(super) const SEED: u32 = 89;

/// The bytes of an address that count.
pub(super) fn key(addr: &Addr) -> Vec<u8> {
    match addr.ip() {
        Some(IpAddr::V4(ip)) => ip.octets().get(..3).unwrap_or_default().to_vec(),
        Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
        None => vec![0; 3],
    }
}

/// Chooses by the next hash; `None` when too many of them led to peers that cannot be used.
pub(super) fn pick(view: &mut View<'_>, choice: &mut Choice) -> Option<usize> {
    if choice.tries > MAX_TRIES || view.side.len() < 2 {
        return None;
    }
    let mut hash = u64::from(choice.hash);
    loop {
        for byte in &choice.key {
            hash = hash.wrapping_mul(113).wrapping_add(u64::from(*byte)) % 6271;
        }
        let index = view.side.at_weight(hash.checked_rem(view.side.total_weight())?)?;
        if view.is_usable(index) {
            choice.hash = u32::try_from(hash).unwrap_or(0);
            return view.take(index);
        }
        choice.tries = choice.tries.saturating_add(1);
        if choice.tries > MAX_TRIES {
            return None;
        }
    }
}
