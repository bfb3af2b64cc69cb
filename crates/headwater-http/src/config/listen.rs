//! `listen`: its address forms and parameters, and the names of listening sockets.
//!
//! nginx's counterpart: `ngx_http_core_listen`, `ngx_parse_url`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};

use headwater_conf::value::{parse_number, parse_seconds, parse_size};
use headwater_conf::{Cx, Directive, Result};
use headwater_io::addr::Addr;
use headwater_io::listener::ListenOptions;
use headwater_io::sockopt::KeepaliveParams;

use super::decl::HttpDecl;

/// Names a listening socket by its address; the same in every generation.
pub type ListenerKey = std::sync::Arc<Addr>;

/// One `listen` directive.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Address and socket options.
    pub options: ListenOptions,
    /// Whether socket options were given, which only one `listen` of an address may do.
    pub set: bool,
    /// Whether the server is the default one of the address.
    pub default_server: bool,
    /// Whether connections start with a PROXY protocol head.
    pub proxy_protocol: bool,
    /// Where it stands.
    pub directive: Directive,
}

/// Handles `listen`.
pub fn listen(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let addresses = parse_addresses(directive)?;
    for addr in addresses {
        let mut listen = Listen {
            options: ListenOptions::new(addr),
            set: false,
            default_server: false,
            proxy_protocol: false,
            directive: directive.clone(),
        };
        for index in 1..directive.args.len() {
            parameter(directive, index, &mut listen)?;
        }
        let server = cx.state::<HttpDecl>().current_server().ok_or_else(|| directive.error("no server"))?;
        if server.listens.iter().any(|other| other.options.addr == listen.options.addr) {
            let message = format!("a duplicate listen {}", listen.options.addr);
            return Err(directive.error_at(0, message));
        }
        server.listens.push(listen);
    }
    Ok(())
}

fn parameter(directive: &Directive, index: usize, listen: &mut Listen) -> Result<()> {
    let missing = |module: &str| {
        let message = format!("the \"{}\" parameter requires {module}", directive.word(index).str());
        Err(directive.error_at(index, message))
    };
    match directive.arg(index) {
        b"default_server" | b"default" => {
            listen.default_server = true;
            return Ok(());
        }
        b"proxy_protocol" => {
            listen.proxy_protocol = true;
            return Ok(());
        }
        b"bind" => {}
        b"deferred" => listen.options.deferred = true,
        b"reuseport" => listen.options.reuseport = true,
        b"ssl" => return missing("ngx_http_ssl_module"),
        b"http2" => return missing("ngx_http_v2_module"),
        b"quic" => return missing("ngx_http_v3_module"),
        _ => socket_option(directive, index, &mut listen.options)?,
    }
    listen.set = true;
    Ok(())
}

/// Reads a parameter with a value.
fn socket_option(directive: &Directive, index: usize, options: &mut ListenOptions) -> Result<()> {
    let word = directive.arg(index);
    let Some((name, value)) = split_once(word, b'=') else { return Err(directive.invalid_parameter(index)) };
    let bad = |name: &str| named(directive, index, name);
    match name {
        b"backlog" => {
            let value = parse_number(value).and_then(|n| i32::try_from(n).ok()).filter(|n| *n > 0);
            options.backlog = value.ok_or_else(|| bad("backlog"))?;
        }
        b"rcvbuf" => options.rcvbuf = Some(parse_size(value).ok_or_else(|| bad("rcvbuf"))?),
        b"sndbuf" => options.sndbuf = Some(parse_size(value).ok_or_else(|| bad("sndbuf"))?),
        b"fastopen" => {
            let value = parse_number(value).and_then(|n| i32::try_from(n).ok());
            options.fastopen = Some(value.ok_or_else(|| bad("fastopen"))?);
        }
        b"ipv6only" => {
            options.ipv6only = Some(match value {
                b"on" => true,
                b"off" => false,
                _ => {
                    let text = String::from_utf8_lossy(value).into_owned();
                    return Err(directive.error_at(index, format!("invalid ipv6only flags \"{text}\"")));
                }
            });
        }
        b"so_keepalive" => options.keepalive = Some(keepalive(directive, index, value)?),
        _ => return Err(directive.invalid_parameter(index)),
    }
    Ok(())
}

fn named(directive: &Directive, index: usize, name: &str) -> Box<headwater_conf::Diagnostic> {
    directive.error_at(index, format!("invalid {name} \"{}\"", directive.word(index).str()))
}

fn split_once(word: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, word)?;
    Some((word.get(..at)?, word.get(at.checked_add(1)?..)?))
}

fn keepalive(directive: &Directive, index: usize, value: &[u8]) -> Result<KeepaliveParams> {
    let invalid = || {
        let text = String::from_utf8_lossy(value).into_owned();
        directive.error_at(index, format!("invalid so_keepalive value: \"{text}\""))
    };
    match value {
        b"on" => return Ok(KeepaliveParams { on: true, ..KeepaliveParams::default() }),
        b"off" => return Ok(KeepaliveParams::default()),
        _ => {}
    }
    let seconds = |text: &[u8]| parse_seconds(text).and_then(|time| u32::try_from(time.as_secs()).ok());
    let mut parts = value.split(|byte| *byte == b':');
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let mut params = KeepaliveParams { on: true, ..KeepaliveParams::default() };
    if let Some(idle) = part() {
        params.idle = Some(seconds(idle).ok_or_else(invalid)?);
    }
    if let Some(interval) = part() {
        params.intvl = Some(seconds(interval).ok_or_else(invalid)?);
    }
    if let Some(count) = part() {
        params.cnt = Some(parse_number(count).and_then(|n| u32::try_from(n).ok()).ok_or_else(invalid)?);
    }
    let nothing = params.idle.is_none() && params.intvl.is_none() && params.cnt.is_none();
    if nothing || parts.next().is_some() {
        return Err(invalid());
    }
    Ok(params)
}

/// The addresses of a `listen` argument: `80`, `*:80`, `127.0.0.1`, `127.0.0.1:80`, `[::]:80`, `localhost:80`, `unix:/path`.
fn parse_addresses(directive: &Directive) -> Result<Vec<Addr>> {
    let text = directive.word(0).str().into_owned();
    let fail =
        |reason: &str| directive.error_at(0, format!("{reason} in \"{text}\" of the \"listen\" directive"));
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(fail("no path in the unix domain socket"));
        }
        return Ok(vec![Addr::unix(path)]);
    }
    let port = |digits: &str| -> Result<u16> {
        let number = parse_number(digits.as_bytes()).ok_or_else(|| fail("invalid port"))?;
        u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| fail("invalid port"))
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| fail("invalid host"))?;
        let ip: Ipv6Addr = host.parse().map_err(|_| fail("invalid IPv6 address"))?;
        let port = match after.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if after.is_empty() => 80,
            None => return Err(fail("invalid host")),
        };
        return Ok(vec![Addr::Inet(SocketAddr::new(IpAddr::V6(ip), port))]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => (host, port(digits)?),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("*", port(&text)?),
        None => (text.as_str(), 80),
    };
    if host == "*" || host.is_empty() {
        if host.is_empty() {
            return Err(fail("no host"));
        }
        return Ok(vec![Addr::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))]);
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(vec![Addr::Inet(SocketAddr::new(IpAddr::V4(ip), port))]);
    }
    let found: Vec<Addr> = (host, port)
        .to_socket_addrs()
        .map_err(|_| fail("host not found"))?
        .filter(SocketAddr::is_ipv4)
        .chain((host, port).to_socket_addrs().into_iter().flatten().filter(SocketAddr::is_ipv6))
        .map(Addr::Inet)
        .collect();
    if found.is_empty() {
        return Err(fail("host not found"));
    }
    Ok(found)
}
