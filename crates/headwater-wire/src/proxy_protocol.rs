//! The PROXY protocol: reading versions 1 and 2, writing version 1.
//!
//! Called by the accept room for `listen … proxy_protocol`, by variables for the TLVs, by stream proxies for writing.
//! The format is HAProxy's `proxy-protocol.txt`. Unlike nginx, a header that arrives in pieces is waited for. nginx
//! counterpart: `ngx_proxy_protocol.c`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use memchr::memchr;

/// The longest header accepted, both versions; bytes.
pub const MAX_HEADER: usize = 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const PREFIX: &[u8; 6] = b"PROXY ";
/// Signature, version and command, family and transport, length.
const V2_FIXED: usize = 16;

/// One end of the proxied connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The address as text. Version 1 is passed on as sent: hexadecimal digits, `.` and `:`, not checked further.
    pub address: Vec<u8>,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The address, if the text is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        std::str::from_utf8(&self.address).ok()?.parse().ok()
    }

    fn of(address: IpAddr, port: u16) -> Self {
        Self { address: address.to_string().into_bytes(), port }
    }
}

/// Addresses and extensions of a header that names a TCP connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client's end.
    pub source: Endpoint,
    /// The end the client connected to.
    pub destination: Endpoint,
    /// The extensions of version 2 as sent; see [`ProxyHeader::tlv`].
    pub tlvs: Vec<u8>,
}

/// How far a header has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyProgress {
    /// More bytes are needed.
    Partial,
    /// The header is whole.
    Complete {
        /// Bytes of the header.
        len: usize,
        /// What it says; nothing for `UNKNOWN`, LOCAL, and families and transports other than TCP over IP.
        header: Option<ProxyHeader>,
    },
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// Neither version's form.
    Broken,
    /// Version 2's signature with another version number.
    UnknownVersion(u8),
    /// Longer than [`MAX_HEADER`].
    TooLarge,
}

impl fmt::Display for ProxyError {
    /// nginx's error-log text, without the bytes that follow it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken => f.write_str("broken header"),
            Self::UnknownVersion(version) => write!(f, "unknown PROXY protocol version: {version}"),
            Self::TooLarge => f.write_str("header is too large"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// Reads a header at the beginning of `buf`, which holds all bytes received so far.
///
/// # Errors
/// There is no valid header.
pub fn parse(buf: &[u8]) -> Result<ProxyProgress, ProxyError> {
    if begins(buf, SIGNATURE) {
        parse_v2(buf)
    } else if begins(buf, PREFIX) {
        parse_v1(buf)
    } else {
        Err(ProxyError::Broken)
    }
}

/// Whether `buf` begins with `mark`, as far as it goes.
fn begins(buf: &[u8], mark: &[u8]) -> bool {
    buf.iter().zip(mark).all(|(a, b)| a == b)
}

fn parse_v1(buf: &[u8]) -> Result<ProxyProgress, ProxyError> {
    let visible = buf.get(..MAX_HEADER).unwrap_or(buf);
    let Some(lf) = memchr(b'\n', visible) else {
        return if visible.len() < MAX_HEADER {
            Ok(ProxyProgress::Partial)
        } else {
            Err(ProxyError::TooLarge)
        };
    };
    let line = visible.get(..lf).and_then(|line| line.strip_suffix(b"\r")).ok_or(ProxyError::Broken)?;
    let text = line.strip_prefix(PREFIX).ok_or(ProxyError::Broken)?;
    let header =
        if text.starts_with(b"UNKNOWN") { None } else { Some(v1_header(text).ok_or(ProxyError::Broken)?) };
    Ok(ProxyProgress::Complete { len: lf + 1, header })
}

fn v1_header(text: &[u8]) -> Option<ProxyHeader> {
    let mut parts = text.split(|&byte| byte == b' ');
    if !matches!(parts.next()?, b"TCP4" | b"TCP6") {
        return None;
    }
    let source = v1_address(parts.next()?)?;
    let destination = v1_address(parts.next()?)?;
    let source = Endpoint { address: source, port: port(parts.next()?)? };
    let destination = Endpoint { address: destination, port: port(parts.next()?)? };
    parts.next().is_none().then(|| ProxyHeader { source, destination, tlvs: Vec::new() })
}

fn v1_address(text: &[u8]) -> Option<Vec<u8>> {
    let valid = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    text.iter().all(valid).then(|| text.to_vec())
}

fn port(text: &[u8]) -> Option<u16> {
    crate::http1::semantics::parse_length(text).and_then(|port| u16::try_from(port).ok())
}

fn parse_v2(buf: &[u8]) -> Result<ProxyProgress, ProxyError> {
    let Some(fixed) = buf.get(SIGNATURE.len()..V2_FIXED) else {
        return Ok(ProxyProgress::Partial);
    };
    let &[command, family, high, low] = fixed else {
        return Err(ProxyError::Broken);
    };
    if command >> 4 != 2 {
        return Err(ProxyError::UnknownVersion(command >> 4));
    }
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_HEADER {
        return Err(ProxyError::TooLarge);
    }
    let Some(body) = buf.get(V2_FIXED..len) else {
        return Ok(ProxyProgress::Partial);
    };
    // PROXY rather than LOCAL, and a stream
    let wanted = command & 0xf == 1 && family & 0xf == 1;
    let header = match family >> 4 {
        1 if wanted => Some(v2_header::<4>(body)?),
        2 if wanted => Some(v2_header::<16>(body)?),
        _ => None,
    };
    Ok(ProxyProgress::Complete { len, header })
}

/// Two addresses of `N` bytes, two ports, TLVs.
fn v2_header<const N: usize>(body: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let read = || {
        let (source, rest) = body.split_first_chunk::<N>()?;
        let (destination, rest) = rest.split_first_chunk::<N>()?;
        let (source_port, rest) = rest.split_first_chunk::<2>()?;
        let (destination_port, tlvs) = rest.split_first_chunk::<2>()?;
        Some(ProxyHeader {
            source: Endpoint::of(ip(source)?, u16::from_be_bytes(*source_port)),
            destination: Endpoint::of(ip(destination)?, u16::from_be_bytes(*destination_port)),
            tlvs: tlvs.to_vec(),
        })
    };
    read().ok_or(ProxyError::Broken)
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into())
}

impl ProxyHeader {
    /// The value behind `$proxy_protocol_tlv_NAME`: `name` is `alpn`, `authority`, `unique_id`, `ssl`, `netns`,
    /// `0xHH`, or one of those of the `ssl` TLV with `ssl_` before it: `verify` (as a decimal number), `version`, `cn`,
    /// `cipher`, `sig_alg`, `key_alg`, `0xHH`. Nothing if there is no such TLV or the TLVs are broken before it.
    #[must_use]
    pub fn tlv(&self, name: &[u8]) -> Option<Vec<u8>> {
        let Some(inner) = name.strip_prefix(b"ssl_") else {
            let names: [(&[u8], u8); 5] = [
                (b"alpn", 0x01),
                (b"authority", 0x02),
                (b"unique_id", 0x05),
                (b"ssl", 0x20),
                (b"netns", 0x30),
            ];
            return find_tlv(&self.tlvs, tlv_type(name, &names)?).map(<[u8]>::to_vec);
        };
        // one byte of flags, four of the verification result, more TLVs
        let (_, ssl) = find_tlv(&self.tlvs, 0x20)?.split_first()?;
        let (verify, tlvs) = ssl.split_first_chunk::<4>()?;
        if inner == b"verify" {
            return Some(u32::from_be_bytes(*verify).to_string().into_bytes());
        }
        let names: [(&[u8], u8); 5] =
            [(b"version", 0x21), (b"cn", 0x22), (b"cipher", 0x23), (b"sig_alg", 0x24), (b"key_alg", 0x25)];
        find_tlv(tlvs, tlv_type(inner, &names)?).map(<[u8]>::to_vec)
    }
}

fn tlv_type(name: &[u8], names: &[(&[u8], u8)]) -> Option<u8> {
    if let Some(digits) = name.strip_prefix(b"0x") {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
        return u8::from_str_radix(digits, 16).ok();
    }
    names.iter().find(|(known, _)| *known == name).map(|&(_, number)| number)
}

fn find_tlv(mut tlvs: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [number, high, low, rest @ ..] = tlvs {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *number == wanted {
            return Some(value);
        }
        tlvs = rest;
    }
    None
}

/// Appends a version 1 header for a connection from `source` to `destination`; `UNKNOWN` where there are no IP
/// addresses or they are of two families.
pub fn write_v1(source: Option<SocketAddr>, destination: Option<SocketAddr>, out: &mut Vec<u8>) {
    let family = match (source, destination) {
        (Some(SocketAddr::V4(_)), Some(SocketAddr::V4(_))) => "TCP4",
        (Some(SocketAddr::V6(_)), Some(SocketAddr::V6(_))) => "TCP6",
        _ => "",
    };
    let text = match (source, destination) {
        (Some(source), Some(destination)) if !family.is_empty() => format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(),
            destination.ip(),
            source.port(),
            destination.port()
        ),
        _ => String::from("PROXY UNKNOWN\r\n"),
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
