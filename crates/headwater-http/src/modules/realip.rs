//! `set_real_ip_from`: the client's address as a trusted proxy tells it.
//!
//! Looks once when a request was read and, for settings of a location, in the preaccess phase; the address found counts for everything
//! behind ([`Request::peer`]). nginx's counterpart: `ngx_http_realip_module.c`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use headwater_conf::context::HSL;
use headwater_conf::value::List;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_io::addr::Addr;
use headwater_wire::headers::KnownHeader;

use super::Module;
use super::cidr::{Cidr, forwarded_addr};
use crate::config::{LocationBuilder, LocationKind};
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::script::VariableDef;

const NAME: &str = "ngx_http_realip_module";

/// The module.
pub static MODULE: Module =
    Module { directives: &[RealIpSettings::DIRECTIVES], variables: VARIABLES, build, ..Module::named(NAME) };

settings! {
    /// Whose word about the client's address counts.
    pub struct RealIpSettings, raw RealIpRaw, module "ngx_http_realip_module" {
        /// Names addresses of trusted proxies.
        "set_real_ip_from", HSL, "address | CIDR | unix:", "" => from: List<Trusted> = List::default();
        /// Says which request header holds the client's address.
        "real_ip_header", HSL, "field | X-Real-IP | X-Forwarded-For | proxy_protocol", "X-Real-IP" => header: Source = Source::Header(b"x-real-ip".as_slice().into());
        /// Takes the last address that is not a trusted proxy's instead of the last one.
        "real_ip_recursive", HSL, "on | off", "off" => recursive: bool = false;
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "realip_remote_addr",
        NAME,
        |r, _, out| {
            r.connection().peer.write_ip(out);
            true
        },
        "The address that the connection came from.",
    ),
    VariableDef::new(
        "realip_remote_port",
        NAME,
        |r, _, out| {
            let port = r.connection().peer.port();
            if port != 0 {
                out.extend_from_slice(itoa::Buffer::new().format(port).as_bytes());
            }
            true
        },
        "The port that the connection came from.",
    ),
];

/// One `set_real_ip_from`; a host name may have several addresses.
#[derive(Debug, Clone)]
pub struct Trusted(Vec<Cidr>);

impl Value for Trusted {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let text = directive.arg(0);
        if text == b"unix:" {
            return Ok(Self(vec![Cidr::Unix]));
        }
        let shown = directive.word(0).str();
        if let Some((network, has_low_bits)) = Cidr::parse(text) {
            if has_low_bits {
                cx.warn(directive, format!("low address bits of {shown} are meaningless"));
            }
            return Ok(Self(vec![network]));
        }
        let one = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => Cidr::V4(ip.to_bits(), 32),
            IpAddr::V6(ip) => Cidr::V6(ip.to_bits(), 128),
        };
        let found: Vec<Cidr> =
            (shown.as_ref(), 0).to_socket_addrs().map(|found| found.map(one).collect()).unwrap_or_default();
        if found.is_empty() {
            return Err(directive.error_at(0, format!("host not found in set_real_ip_from \"{shown}\"")));
        }
        Ok(Self(found))
    }
}

/// `real_ip_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The first header of that name.
    Header(Box<[u8]>),
    /// All `X-Forwarded-For` headers.
    ForwardedFor,
    /// The PROXY protocol.
    ProxyProtocol,
}

impl Value for Source {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(match directive.arg(0) {
            b"X-Forwarded-For" => Self::ForwardedFor,
            b"proxy_protocol" => Self::ProxyProtocol,
            name => Self::Header(name.to_ascii_lowercase().into()),
        })
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<RealIpSettings>();
    let from: Arc<[Cidr]> = settings.from.iter().flat_map(|trusted| trusted.0.iter().copied()).collect();
    if from.is_empty() {
        return Ok(());
    }
    let handler = || {
        Box::new(RealIp {
            from: from.clone(),
            header: settings.header.clone(),
            recursive: settings.recursive,
        })
    };
    if matches!(builder.location.kind, LocationKind::Server) {
        builder.location.post_read.push(handler());
    }
    builder.location.preaccess.push(handler());
    Ok(())
}

struct RealIp {
    from: Arc<[Cidr]>,
    header: Source,
    recursive: bool,
}

impl Handler for RealIp {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if r.exchange.real_peer.get().is_none()
            && let Some(addr) = self.find(r)
        {
            let _ = r.exchange.real_peer.set(addr);
        }
        Outcome::Declined
    }
}

impl RealIp {
    fn find(&self, r: &Request) -> Option<Addr> {
        let peer = &r.connection().peer;
        let walk = |lines: &[&[u8]]| forwarded_addr(peer, lines.iter().copied(), &self.from, self.recursive);
        match &self.header {
            Source::Header(name) => walk(&[r.header_in(name)?]),
            Source::ForwardedFor => {
                let headers = &r.exchange.head.headers;
                walk(&headers.get_all_known(KnownHeader::XForwardedFor).collect::<Vec<_>>())
            }
            Source::ProxyProtocol => {
                let source = &r.connection().proxy_protocol.get()?.source;
                let addr = walk(&[&source.address])?;
                Some(Addr::Inet((addr.ip()?, source.port).into()))
            }
        }
    }
}
