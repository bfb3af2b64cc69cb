//! Where a `*_pass` leads: a group of the configuration, or an implicit one of a single name.
//!
//! Called by the `*_pass` modules at load ([`fixed`]) and, when the value has variables, for each request ([`dynamic`]). nginx's counterpart:
//! `ngx_http_upstream_add`, `ngx_http_upstream_init_request`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use headwater_conf::{Cx, Directive, Result};
use headwater_io::addr::Addr;

use super::peers::{Group, Groups, Keepalive, Peer};
use crate::modules::upstream::resolve;
use crate::request::Request;

/// The port of `host:port` or `[address]:port`.
#[must_use]
pub fn port_of(name: &str) -> Option<&str> {
    match name.strip_prefix('[') {
        Some(rest) => rest.split_once(']').and_then(|(_, after)| after.strip_prefix(':')),
        None => name.split_once(':').map(|(_, port)| port),
    }
}

/// The host of `host:port` or `[address]:port`, without brackets.
fn host_of(name: &str) -> &str {
    match name.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => name.split_once(':').map_or(name, |(host, _)| host),
    }
}

/// The group of a name known at load: `host[:port]`, `unix:/path` or that of an `upstream` block. Without a default, the port must be there.
///
/// # Errors
/// nginx's messages, at the first argument.
pub fn fixed(
    cx: &mut Cx<'_>,
    directive: &Directive,
    name: &str,
    default_port: Option<u16>,
) -> Result<Arc<Group>> {
    let groups = cx.state::<Groups>();
    if let Some(group) = groups.find(name) {
        return Ok(group);
    }
    let host = host_of(name);
    let unix = name.starts_with("unix:");
    if !unix && host != name && groups.find(host).is_some_and(|group| group.declared) {
        let port = port_of(name).unwrap_or_default();
        return Err(directive.error_at(0, format!("upstream \"{host}\" may not have port {port}")));
    }
    let port = match default_port {
        Some(port) => port,
        None if unix || port_of(name).is_some() => 0,
        None => return Err(directive.error_at(0, format!("no port in upstream \"{name}\""))),
    };
    let found = resolve(directive, 0, name, port).map_err(|mut error| {
        // nginx has taken the port off the name when it looks the name up.
        if error.message.starts_with("host not found") {
            error.message = format!("host not found in upstream \"{host}\"");
        }
        error
    })?;
    let peers = found.into_iter().map(|addr| Peer::new(addr, name)).collect();
    Ok(cx.state::<Groups>().add(Group::new(name, peers, Vec::new(), Keepalive::default())))
}

/// The group of a name found at run time. An error is the response's status and a text for the log.
///
/// # Errors
/// 500 for a name that is none, 502 for one that cannot be resolved.
pub fn dynamic(
    r: &Request,
    name: &str,
    default_port: Option<u16>,
) -> std::result::Result<Arc<Group>, (u16, String)> {
    let known = r.exchange.generation.upstreams.iter().find(|group| group.name.eq_ignore_ascii_case(name));
    if let Some(group) = known {
        return Ok(group.clone());
    }
    let addr = match name.strip_prefix("unix:") {
        Some("") => {
            return Err((500, format!("no path in the unix domain socket in upstream \"{name}\"")));
        }
        Some(path) => Addr::unix(path),
        None => Addr::Inet(inet(name, default_port)?),
    };
    let keepalive = Keepalive { connections: 0, ..Keepalive::default() };
    Ok(Arc::new(Group::new(name, vec![Peer::new(addr, name)], Vec::new(), keepalive)))
}

fn inet(name: &str, default_port: Option<u16>) -> std::result::Result<SocketAddr, (u16, String)> {
    let host = host_of(name);
    let port = match port_of(name) {
        None => default_port,
        Some(digits) => {
            let port = digits.parse().ok().filter(|port| *port > 0);
            Some(port.ok_or_else(|| (500, format!("invalid port in upstream \"{name}\"")))?)
        }
    };
    if host.is_empty() {
        return Err((500, format!("no host in upstream \"{name}\"")));
    }
    let port = port.ok_or_else(|| (500, format!("no port in upstream \"{host}\"")))?;
    let ip: IpAddr = host.parse().map_err(|_| (502, format!("no resolver defined to resolve {host}")))?;
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_host_and_port() {
        let split = |name: &'static str| (host_of(name), port_of(name));
        assert_eq!(split("a.b:90"), ("a.b", Some("90")));
        assert_eq!(split("a.b"), ("a.b", None));
        assert_eq!(split("[::1]:90"), ("::1", Some("90")));
        assert_eq!(split("[::1]"), ("::1", None));
    }

    #[test]
    fn addresses_need_a_port_unless_there_is_a_default() {
        let text = |name| inet(name, None).unwrap_err();
        assert_eq!(inet("127.0.0.1:9000", None), Ok(SocketAddr::from(([127, 0, 0, 1], 9000))));
        assert_eq!(inet("127.0.0.1", Some(80)), Ok(SocketAddr::from(([127, 0, 0, 1], 80))));
        assert_eq!(text("127.0.0.1"), (500, "no port in upstream \"127.0.0.1\"".to_owned()));
        assert_eq!(text("127.0.0.1:0"), (500, "invalid port in upstream \"127.0.0.1:0\"".to_owned()));
        assert_eq!(text(":9000"), (500, "no host in upstream \":9000\"".to_owned()));
        assert_eq!(text("php:9000"), (502, "no resolver defined to resolve php".to_owned()));
    }
}
