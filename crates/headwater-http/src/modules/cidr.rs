//! Networks in CIDR notation and addresses from headers, as `allow`, `geo` and `set_real_ip_from` read them.
//!
//! nginx's counterpart: `ngx_ptocidr`, `ngx_cidr_match`, `ngx_parse_addr_port`, `ngx_http_get_forwarded_addr`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use headwater_io::addr::Addr;

/// A network, with its address bits beyond the mask cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cidr {
    /// IPv4: address and length of the prefix, at most 32.
    V4(u32, u8),
    /// IPv6: address and length of the prefix, at most 128.
    V6(u128, u8),
    /// All Unix-domain sockets.
    Unix,
}

/// An IPv4 prefix's mask.
#[must_use]
pub fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

/// An IPv6 prefix's mask.
#[must_use]
pub fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

impl Cidr {
    /// Reads `address` or `address/length`; the flag says that the address has bits beyond the mask.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<(Self, bool)> {
        let mut halves = text.splitn(2, |byte| *byte == b'/');
        let address = halves.next()?;
        let length = match halves.next() {
            Some(digits) => {
                Some(headwater_conf::value::parse_number(digits).and_then(|n| u8::try_from(n).ok())?)
            }
            None => None,
        };
        match parse_ip(address)? {
            // nginx's own sign for "no address".
            IpAddr::V4(ip) if ip == Ipv4Addr::BROADCAST => None,
            IpAddr::V4(ip) => {
                let length = length.unwrap_or(32);
                let masked = ip.to_bits() & mask4(length);
                (length <= 32).then_some((Self::V4(masked, length), masked != ip.to_bits()))
            }
            IpAddr::V6(ip) => {
                let length = length.unwrap_or(128);
                let masked = ip.to_bits() & mask6(length);
                (length <= 128).then_some((Self::V6(masked, length), masked != ip.to_bits()))
            }
        }
    }

    /// Whether an address lies inside. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, addr: &Addr) -> bool {
        match (self, Place::of(addr)) {
            (Self::V4(network, length), Place::V4(ip)) => ip & mask4(*length) == *network,
            (Self::V6(network, length), Place::V6(ip)) => ip & mask6(*length) == *network,
            (Self::Unix, Place::Unix) => true,
            _ => false,
        }
    }
}

/// An address as rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// IPv4, or IPv4 mapped into IPv6.
    V4(u32),
    /// IPv6.
    V6(u128),
    /// A Unix-domain socket.
    Unix,
}

impl Place {
    /// Where an address lies.
    #[must_use]
    pub fn of(addr: &Addr) -> Self {
        match addr.ip() {
            None => Self::Unix,
            Some(IpAddr::V4(ip)) => Self::V4(ip.to_bits()),
            Some(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
                Some(ip) => Self::V4(ip.to_bits()),
                None => Self::V6(ip.to_bits()),
            },
        }
    }
}

/// Reads an address without port. Octets of IPv4 may have leading zeros.
#[must_use]
pub fn parse_ip(text: &[u8]) -> Option<IpAddr> {
    if text.contains(&b':') {
        return std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    parse_v4(text).map(IpAddr::V4)
}

/// Reads an IPv4 address.
#[must_use]
pub fn parse_v4(text: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split(|byte| *byte == b'.');
    for octet in &mut octets {
        *octet = headwater_conf::value::parse_number(parts.next()?).and_then(|n| u8::try_from(n).ok())?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// Reads an address that may have a port: `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]`, `[::1]:80`.
#[must_use]
pub fn parse_addr_port(text: &[u8]) -> Option<Addr> {
    let (ip, port) = if let Some(rest) = text.strip_prefix(b"[") {
        let end = rest.iter().position(|byte| *byte == b']')?;
        let (ip, after) = rest.split_at(end);
        let port = after.get(1..).unwrap_or_default();
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(b":")?) };
        (std::str::from_utf8(ip).ok()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)?, port)
    } else if let Some(ip) = parse_ip(text) {
        (ip, None)
    } else {
        let mut halves = text.splitn(2, |byte| *byte == b':');
        (parse_v4(halves.next()?).map(IpAddr::V4)?, Some(halves.next()?))
    };
    let port = match port {
        Some(digits) => {
            let port = headwater_conf::value::parse_number(digits).and_then(|n| u16::try_from(n).ok())?;
            Some(port).filter(|port| *port != 0)?
        }
        None => 0,
    };
    Some(Addr::Inet(SocketAddr::new(ip, port)))
}

/// The client's address behind trusted proxies: walks the headers' addresses from the last to the first while the one before is a
/// trusted proxy; without `recursive` one step. `None` when the peer is not trusted or sent nothing usable.
pub fn forwarded_addr<'h>(
    peer: &Addr,
    headers: impl DoubleEndedIterator<Item = &'h [u8]>,
    proxies: &[Cidr],
    recursive: bool,
) -> Option<Addr> {
    let mut found: Option<Addr> = None;
    for line in headers.rev() {
        for text in line.split(|byte| matches!(byte, b' ' | b',')).rev().filter(|text| !text.is_empty()) {
            let nearest = found.as_ref().unwrap_or(peer);
            if !proxies.iter().any(|proxy| proxy.contains(nearest)) {
                return found;
            }
            let Some(addr) = parse_addr_port(text) else { return found };
            found = Some(addr);
            if !recursive {
                return found;
            }
        }
        if !recursive {
            return found;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        parse_addr_port(text.as_bytes()).expect("an address")
    }

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text.as_bytes()).expect("a network").0
    }

    #[test]
    fn cidr_good_texts_are_masked() {
        assert_eq!(Cidr::parse(b"10.1.2.3/8"), Some((Cidr::V4(0x0a00_0000, 8), true)));
        assert_eq!(Cidr::parse(b"10.0.0.0/8"), Some((Cidr::V4(0x0a00_0000, 8), false)));
        assert_eq!(Cidr::parse(b"1.2.3.004"), Some((Cidr::V4(0x0102_0304, 32), false)));
        assert_eq!(Cidr::parse(b"0.0.0.0/0"), Some((Cidr::V4(0, 0), false)));
        assert_eq!(Cidr::parse(b"2001:db8::1/32"), Some((Cidr::V6(0x2001_0db8 << 96, 32), true)));
        assert_eq!(Cidr::parse(b"::/0"), Some((Cidr::V6(0, 0), false)));
    }

    #[test]
    fn cidr_bad_texts_are_refused() {
        for text in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "1.2.3.4/33",
            "1.2.3.4/",
            "::1/129",
            "a",
            "255.255.255.255",
            "1.2.3.4/x",
        ] {
            assert_eq!(Cidr::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn contains_mapped_addresses_count_as_ipv4() {
        assert!(cidr("10.0.0.0/8").contains(&addr("10.9.9.9:80")));
        assert!(cidr("10.0.0.0/8").contains(&addr("[::ffff:10.9.9.9]:80")));
        assert!(!cidr("::/0").contains(&addr("10.9.9.9")));
        assert!(cidr("::/0").contains(&addr("[::1]")));
        assert!(Cidr::Unix.contains(&Addr::unnamed_unix()));
        assert!(!cidr("0.0.0.0/0").contains(&Addr::unnamed_unix()));
    }

    #[test]
    fn forwarded_walks_while_proxies_are_trusted() {
        let proxies = [cidr("127.0.0.0/8"), cidr("10.0.0.0/8")];
        let lines: [&[u8]; 2] = [b"5.5.5.5, 1.1.1.1", b"2.2.2.2 ,10.0.0.1 "];
        let get = |peer: &str, recursive| {
            forwarded_addr(&addr(peer), lines.into_iter(), &proxies, recursive).map(|addr| addr.to_string())
        };
        assert_eq!(get("9.9.9.9", true), None);
        assert_eq!(get("127.0.0.1", false), Some("10.0.0.1:0".into()));
        assert_eq!(get("127.0.0.1", true), Some("2.2.2.2:0".into()));
        let junk: [&[u8]; 1] = [b"unknown"];
        assert_eq!(forwarded_addr(&addr("127.0.0.1"), junk.into_iter(), &proxies, true), None);
    }

    #[test]
    fn ports_are_read_and_checked() {
        assert_eq!(addr("[::1]:8080").port(), 8080);
        assert_eq!(addr("1.2.3.4:1").port(), 1);
        for text in ["1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "[::1", "[::1]x", "[1.2.3.4]", ""] {
            assert!(parse_addr_port(text.as_bytes()).is_none(), "{text}");
        }
    }
}
