//! What a lookup gives: addresses, services, or an error with nginx's number and words.
//!
//! Made by `core` and handed out by the driver. nginx's counterpart: the public half of `ngx_resolver.h`, `ngx_resolver_export`,
//! `ngx_resolver_strerror`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::name::DomainName;

/// Why a name has no addresses. The numbers are those of the protocol (RFC 1035, 4.1.1) and of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// The server did not understand the question.
    FormatError,
    /// The server failed.
    ServerFailure,
    /// There is no such name, or it has no address.
    NotFound,
    /// The server does not do this.
    Unimplemented,
    /// The server does not want to.
    Refused,
    /// Nobody answered in time.
    TimedOut,
}

impl ResolveError {
    /// The error that a response code means; `None` for success and for codes without a meaning here.
    pub(super) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::FormatError,
            2 => Self::ServerFailure,
            3 => Self::NotFound,
            4 => Self::Unimplemented,
            5 => Self::Refused,
            _ => return None,
        })
    }

    /// nginx's words for a response code.
    pub(super) fn words(code: u8) -> &'static str {
        Self::from_code(code).map_or("Unknown error", |error| error.parts().1)
    }

    fn parts(self) -> (u8, &'static str) {
        match self {
            Self::FormatError => (1, "Format error"),
            Self::ServerFailure => (2, "Server failure"),
            Self::NotFound => (3, "Host not found"),
            Self::Unimplemented => (4, "Unimplemented"),
            Self::Refused => (5, "Operation refused"),
            Self::TimedOut => (110, "Operation timed out"),
        }
    }
}

impl fmt::Display for ResolveError {
    /// As logs show it: `3: Host not found`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, words) = self.parts();
        write!(f, "{number}: {words}")
    }
}

impl std::error::Error for ResolveError {}

/// Addresses of a name, in the order in which to try them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// How many seconds they hold from now on.
    pub valid: u64,
}

/// One server of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceTarget {
    /// Where it is.
    pub address: SocketAddr,
    /// The name it has in the service's record.
    pub name: Box<str>,
    /// The lower the better.
    pub priority: u16,
    /// The share among those of one priority, at least 1.
    pub weight: u16,
}

/// The servers of a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Services {
    /// At least one, ordered by priority.
    pub targets: Vec<ServiceTarget>,
    /// How many seconds they hold from now on.
    pub valid: u64,
}

/// A service record (RFC 2782).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    /// `None`: the service is decidedly not there (a target of `.`).
    pub(super) target: Option<DomainName>,
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    Addresses(Addresses),
    Services { records: Vec<ServiceRecord>, valid: u64 },
}

/// What a waiter is told.
pub(super) type Outcome = Result<Reply, ResolveError>;

/// Both families' addresses as one list. With random numbers the families and the whole start at random places, so that the load
/// spreads; without, the order is that of the answers, IPv4 first.
pub(super) fn merge(v4: &[Ipv4Addr], v6: &[Ipv6Addr], random: Option<[u32; 3]>) -> Vec<IpAddr> {
    let at = |value: u32, length: usize| (value as usize).checked_rem(length).unwrap_or(0);
    let [all, first, second] = random.unwrap_or_default();
    let mut four = v4.to_vec();
    four.rotate_left(at(first, v4.len()));
    let mut six = v6.to_vec();
    six.rotate_left(at(second, v6.len()));
    let mut out: Vec<IpAddr> =
        four.into_iter().map(IpAddr::from).chain(six.into_iter().map(IpAddr::from)).collect();
    let start = at(all, out.len());
    out.rotate_right(start);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_without_random_keeps_the_order_and_with_it_rotates() {
        let v4 = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let v6 = [Ipv6Addr::LOCALHOST];
        let text = |list: Vec<IpAddr>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(text(merge(&v4, &v6, None)), "10.0.0.1 10.0.0.2 ::1");
        assert_eq!(text(merge(&v4, &v6, Some([1, 1, 0]))), "::1 10.0.0.2 10.0.0.1");
        assert_eq!(merge(&[], &[], Some([1, 2, 3])), Vec::<IpAddr>::new());
    }

    #[test]
    fn errors_have_nginx_words() {
        assert_eq!(ResolveError::NotFound.to_string(), "3: Host not found");
        assert_eq!(ResolveError::TimedOut.to_string(), "110: Operation timed out");
        assert_eq!(ResolveError::words(9), "Unknown error");
    }
}
