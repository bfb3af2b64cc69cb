//! Where a `*_pass` leads: a group of the configuration, or an implicit one of a single name.
//!
//! Called by the `*_pass` modules at load ([`fixed`]) and, when the value has variables, for each request ([`dynamic`]). nginx's counterpart:
//! `ngx_http_upstream_add`, `ngx_http_upstream_init_request`, `ngx_http_upstream_resolve_handler`.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use headwater_conf::{Cx, Directive, Result};
use headwater_io::addr::Addr;

use super::engine;
use super::peers::{Group, Groups, Keepalive, Peer};
use super::protocol::Protocol;
use super::settings::UpstreamConf;
use crate::config::resolver;
use crate::flow::error_log::Level;
use crate::flow::phases::Outcome;
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
    if let Some(group) = groups.find_passed(name, default_port) {
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
    let mut group = Group::new(name, peers, Vec::new(), Keepalive::default());
    group.default_port = default_port;
    Ok(cx.state::<Groups>().add(group))
}

/// Where a name found at run time leads.
#[derive(Debug)]
enum Destination {
    /// To a group that there is, or to an address.
    Group(Arc<Group>),
    /// To the addresses of a host, once they are known.
    Host(String, u16),
}

/// The group of a name found at run time. Names that are in no configuration are asked for by the location's `resolver`, while the client waits.
///
/// # Errors
/// What becomes of the request instead, logged already: 500 for a name that is none, 502 for one that cannot be resolved.
pub async fn dynamic(
    r: &Request,
    conf: &UpstreamConf,
    protocol: &dyn Protocol,
    name: &str,
    default_port: Option<u16>,
) -> std::result::Result<Arc<Group>, Outcome<'static>> {
    let fail = |status: u16, text: std::fmt::Arguments<'_>| {
        r.log(Level::Error, text);
        Err(Outcome::Status(status))
    };
    let (host, port) = match destination(r, name, default_port) {
        Ok(Destination::Group(group)) => return Ok(group),
        Ok(Destination::Host(host, port)) => (host, port),
        Err((status, text)) => return fail(status, format_args!("{text}")),
    };
    // As in nginx the body, if it is buffered, is there before the name is looked up.
    let streams_body = engine::prepare_body(r, conf, engine::is_buffered(r, conf, protocol)).await?;
    let core = r.loc().core.clone();
    let Some(options) = &core.resolver else {
        return fail(502, format_args!("no resolver defined to resolve {host}"));
    };
    let resolver = r.exchange.generation.resolver(&options.0);
    let lookup = pin!(resolver.addresses(host.as_bytes(), *core.resolver_timeout));
    match engine::while_client_waits(r, conf, streams_body, lookup).await {
        Some(Ok(found)) => {
            let addresses = found.addresses.into_iter();
            let peers = addresses.map(|ip| Peer::new(Addr::Inet(SocketAddr::new(ip, port)), name)).collect();
            Ok(unpooled(name, peers))
        }
        Some(Err(error)) => {
            let host = host.strip_suffix('.').unwrap_or(&host).to_ascii_lowercase();
            fail(502, format_args!("{host} could not be resolved ({error})"))
        }
        None => {
            r.log(Level::Info, format_args!("client prematurely closed connection"));
            Err(Outcome::Close(499))
        }
    }
}

/// A group for one request; its connections are not kept, because nothing would find them again.
fn unpooled(name: &str, peers: Vec<Peer>) -> Arc<Group> {
    let keepalive = Keepalive { connections: 0, ..Keepalive::default() };
    Arc::new(Group::new(name, peers, Vec::new(), keepalive))
}

fn destination(
    r: &Request,
    name: &str,
    default_port: Option<u16>,
) -> std::result::Result<Destination, (u16, String)> {
    let groups = &r.exchange.generation.upstreams;
    if let Some(group) = groups.iter().find(|group| group.is_passed_as(name, default_port)) {
        return Ok(Destination::Group(group.clone()));
    }
    if let Some(path) = name.strip_prefix("unix:") {
        if path.is_empty() {
            return Err((500, format!("no path in the unix domain socket in upstream \"{name}\"")));
        }
        return Ok(Destination::Group(unpooled(name, vec![Peer::new(Addr::unix(path), name)])));
    }
    let (host, port) = host_and_port(name, default_port)?;
    // A group that follows from another *_pass fits when its port does, written or not.
    let same = |group: &&Arc<Group>| {
        !group.declared
            && host_of(&group.name).eq_ignore_ascii_case(host)
            && port_of(&group.name).map_or(group.default_port, |port| port.parse().ok()) == Some(port)
    };
    if let Some(group) = groups.iter().find(same) {
        return Ok(Destination::Group(group.clone()));
    }
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            let address = Addr::Inet(SocketAddr::new(ip, port));
            Ok(Destination::Group(unpooled(name, vec![Peer::new(address, name)])))
        }
        Err(_) => Ok(Destination::Host(host.to_owned(), port)),
    }
}

/// Host and port of a name found at run time.
///
/// # Errors
/// The response's status and a text for the log.
pub fn host_and_port(
    name: &str,
    default_port: Option<u16>,
) -> std::result::Result<(&str, u16), (u16, String)> {
    let (host, port) = resolver::host_and_port(name, default_port.unwrap_or(0))
        .map_err(|words| (500, format!("{words} in upstream \"{name}\"")))?;
    if port == 0 {
        return Err((500, format!("no port in upstream \"{host}\"")));
    }
    Ok((host, port))
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
        let text = |name| host_and_port(name, None).unwrap_err();
        assert_eq!(host_and_port("127.0.0.1:9000", None), Ok(("127.0.0.1", 9000)));
        assert_eq!(host_and_port("php", Some(80)), Ok(("php", 80)));
        assert_eq!(text("127.0.0.1"), (500, "no port in upstream \"127.0.0.1\"".to_owned()));
        assert_eq!(text("127.0.0.1:0"), (500, "invalid port in upstream \"127.0.0.1:0\"".to_owned()));
        assert_eq!(text(":9000"), (500, "no host in upstream \":9000\"".to_owned()));
        assert_eq!(text("[::1"), (500, "invalid host in upstream \"[::1\"".to_owned()));
    }
}
