//! Variables of the client connection: addresses, ports, counters, the PROXY protocol, the kernel's TCP figures.
//!
//! nginx's counterpart: the connection part of `ngx_http_variables.c`.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use headwater_io::addr::Addr;
use headwater_io::sockopt::TcpInfo;
use headwater_wire::proxy_protocol::{Endpoint, ProxyHeader};

use crate::request::Request;

/// Whole milliseconds of a duration.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Appends milliseconds as seconds with three decimals, `0.012`.
pub fn seconds(ms: u64, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{}.{:03}", ms / 1000, ms % 1000);
}

fn write_port(port: u16, out: &mut Vec<u8>) -> bool {
    if port != 0 {
        let _ = write!(out, "{port}");
    }
    true
}

pub(super) fn remote_addr(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    r.peer().write_ip(out);
    true
}

pub(super) fn remote_port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    write_port(r.peer().port(), out)
}

pub(super) fn binary_remote_addr(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match r.peer() {
        Addr::Inet(addr) => match addr.ip() {
            IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        },
        unix @ Addr::Unix(_) => unix.write_ip(out),
    }
    true
}

pub(super) fn server_addr(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    r.connection().local().write_ip(out);
    true
}

pub(super) fn server_port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    write_port(r.connection().local().port(), out)
}

pub(super) fn server_name(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(r.srv().name.as_bytes());
    true
}

pub(super) fn scheme(_: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(b"http");
    true
}

pub(super) fn https(_: &Request, _: &[u8], _: &mut Vec<u8>) -> bool {
    true
}

pub(super) fn number(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", r.connection().number);
    true
}

pub(super) fn requests(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let _ = write!(out, "{}", r.connection().requests.get());
    true
}

pub(super) fn time(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    seconds(millis(headwater_io::clock::now().saturating_duration_since(r.connection().start)), out);
    true
}

pub(super) fn pipe(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(if r.connection().came_early.get() { b'p' } else { b'.' });
    true
}

fn proxy_header(r: &Request) -> Option<&ProxyHeader> {
    r.connection().proxy_protocol.get()
}

fn address(end: Option<&Endpoint>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(end.map_or(&[], |end| end.address.as_slice()));
    end.is_some()
}

fn port(end: Option<&Endpoint>, out: &mut Vec<u8>) -> bool {
    end.is_some_and(|end| write_port(end.port, out))
}

pub(super) fn proxy_addr(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    address(proxy_header(r).map(|header| &header.source), out)
}

pub(super) fn proxy_port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    port(proxy_header(r).map(|header| &header.source), out)
}

pub(super) fn proxy_server_addr(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    address(proxy_header(r).map(|header| &header.destination), out)
}

pub(super) fn proxy_server_port(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    port(proxy_header(r).map(|header| &header.destination), out)
}

pub(super) fn proxy_tlv(r: &Request, name: &[u8], out: &mut Vec<u8>) -> bool {
    match proxy_header(r).and_then(|header| header.tlv(name)) {
        Some(value) => {
            out.extend_from_slice(&value);
            true
        }
        None => false,
    }
}

fn tcpinfo(r: &Request, out: &mut Vec<u8>, field: fn(&TcpInfo) -> u32) -> bool {
    match r.connection().stream.borrow().tcp_info() {
        Some(info) => {
            let _ = write!(out, "{}", field(&info));
            true
        }
        None => false,
    }
}

pub(super) fn tcpinfo_rtt(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    tcpinfo(r, out, |info| info.rtt_us)
}

pub(super) fn tcpinfo_rttvar(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    tcpinfo(r, out, |info| info.rttvar_us)
}

pub(super) fn tcpinfo_snd_cwnd(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    tcpinfo(r, out, |info| info.snd_cwnd)
}

pub(super) fn tcpinfo_rcv_space(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    tcpinfo(r, out, |info| info.rcv_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_three_decimals() {
        let mut out = Vec::new();
        seconds(0, &mut out);
        out.push(b' ');
        seconds(12_034, &mut out);
        assert_eq!(out, b"0.000 12.034");
    }
}
