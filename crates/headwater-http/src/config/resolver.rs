//! `resolver`, and addresses that are looked up while the configuration is read.
//!
//! Used by the core module's settings, by `upstream` blocks and by `*_pass`. The client that asks at run time is `headwater_io::resolver`; each worker has one
//! per `resolver` directive ([`Generation::resolver`](super::Generation::resolver)). nginx's counterpart: `ngx_resolver_create`, `ngx_parse_url`.

use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use headwater_conf::value::{parse_number, parse_seconds};
use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_io::addr::Addr;
use headwater_io::resolver::ResolverOptions;

/// One `resolver` directive.
#[derive(Debug, Clone)]
pub struct ResolverValue(pub Arc<ResolverOptions>);

impl Value for ResolverValue {
    const ARGS: Args = Args::at_least(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut options = ResolverOptions { servers: Vec::new(), valid: None, ipv4: true, ipv6: true };
        for (index, word) in directive.args.iter().enumerate() {
            let invalid = || directive.error_at(index, format!("invalid parameter: {}", word.str()));
            let switch = |text: &[u8]| match text {
                b"on" => Ok(true),
                b"off" => Ok(false),
                _ => Err(invalid()),
            };
            if let Some(text) = word.after("valid=") {
                options.valid = Some(parse_seconds(text).ok_or_else(invalid)?).filter(|time| !time.is_zero());
            } else if let Some(text) = word.after("ipv4=") {
                options.ipv4 = switch(text)?;
            } else if let Some(text) = word.after("ipv6=") {
                options.ipv6 = switch(text)?;
            } else {
                let text = word.str();
                let found = addresses(&text, 53).and_then(|found| {
                    let inet: Option<Vec<SocketAddr>> = found.iter().map(Addr::inet).collect();
                    inet.ok_or("unix domain socket")
                });
                let found = found
                    .map_err(|words| directive.error_at(index, format!("{words} in resolver \"{text}\"")))?;
                options.servers.extend(found);
            }
        }
        if !options.ipv4 && !options.ipv6 {
            return Err(directive.error("\"ipv4\" and \"ipv6\" cannot both be \"off\""));
        }
        if options.servers.is_empty() {
            return Err(directive.error("no name servers defined"));
        }
        Ok(Self(Arc::new(options)))
    }
}

/// The parts of `host[:port]`: the host without brackets, the port or the default.
///
/// # Errors
/// nginx's words for what is wrong.
pub fn host_and_port(text: &str, default_port: u16) -> std::result::Result<(&str, u16), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("invalid host")?;
            if after.contains('/') || !(after.is_empty() || after.starts_with(':')) {
                return Err("invalid host");
            }
            (host, after.strip_prefix(':'))
        }
        None if text.contains(['/', '?']) => return Err("invalid host"),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => default_port,
        Some(digits) => parse_number(digits.as_bytes())
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .ok_or("invalid port")?,
    };
    if host.is_empty() {
        return Err("no host");
    }
    if text.starts_with('[') && host.parse::<Ipv6Addr>().is_err() {
        return Err("invalid IPv6 address");
    }
    Ok((host, port))
}

/// The addresses of `host[:port]` or `unix:/path`, looked up now, by the system.
///
/// # Errors
/// nginx's words for what is wrong.
pub fn addresses(text: &str, default_port: u16) -> std::result::Result<Vec<Addr>, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("no path in the unix domain socket")
        } else {
            Ok(vec![Addr::unix(path)])
        };
    }
    let (host, port) = host_and_port(text, default_port)?;
    let found: Vec<Addr> =
        (host, port).to_socket_addrs().map(|found| found.map(Addr::Inet).collect()).unwrap_or_default();
    if found.is_empty() { Err("host not found") } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_texts_have_ports_and_errors_nginx_words() {
        let one = |text: &str| addresses(text, 53).map_or_else(str::to_owned, |found| found[0].to_string());
        assert_eq!(one("127.0.0.1"), "127.0.0.1:53");
        assert_eq!(one("127.0.0.1:5353"), "127.0.0.1:5353");
        assert_eq!(one("[::1]"), "[::1]:53");
        assert_eq!(one("[::1]:54"), "[::1]:54");
        assert_eq!(one("[::1"), "invalid host");
        assert_eq!(one("[::1]x"), "invalid host");
        assert_eq!(one("[x]"), "invalid IPv6 address");
        assert_eq!(one("127.0.0.1:0"), "invalid port");
        assert_eq!(one("127.0.0.1:x"), "invalid port");
        assert_eq!(one(":53"), "no host");
        assert_eq!(one("a/b"), "invalid host");
        assert_eq!(one("unix:"), "no path in the unix domain socket");
    }
}
