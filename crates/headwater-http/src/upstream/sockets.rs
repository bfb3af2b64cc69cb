//! Sockets of connections to back ends: local address, buffers, and the types of the directives that set them.
//!
//! Declared in `family`, used by `engine`. nginx's counterpart: `ngx_http_upstream_bind_set_slot`, `ngx_http_upstream_set_local`,
//! `ngx_http_proxy_lowat_check`.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_io::connect::ConnectOptions;

use super::settings::UpstreamConf;
use crate::flow::error_log::Level;
use crate::request::Request;
use crate::script::Complex;

/// The local address of connections.
#[derive(Debug, Clone)]
pub struct LocalAddress {
    value: Complex,
    transparent: bool,
}

/// `*_bind`.
#[derive(Debug, Clone, Default)]
pub struct Bind(pub Option<LocalAddress>);

/// Whether a `*_bind` of the configuration being loaded is `transparent`: workers need a right for that.
#[derive(Default)]
pub(crate) struct Transparent(pub(crate) bool);

impl Value for Bind {
    const ARGS: Args = Args::range(1, 2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if directive.arg(0) == b"off" && directive.args.len() == 1 {
            return Ok(Self(None));
        }
        let value = Complex::compile(cx, directive, 0)?;
        if let Some(text) = value.as_text()
            && local_address(text).is_none()
        {
            let message = format!("invalid address \"{}\"", directive.word(0).str());
            return Err(directive.error_at(0, message));
        }
        let transparent = match directive.args.get(1) {
            None => false,
            Some(word) if word.is("transparent") => true,
            Some(_) => return Err(directive.invalid_parameter(1)),
        };
        cx.state::<Transparent>().0 |= transparent;
        Ok(Self(Some(LocalAddress { value, transparent })))
    }
}

/// A local address with or without a port.
#[must_use]
fn local_address(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address).filter(|address| address.port() != 0);
    }
    let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    ip.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0))
}

/// `*_send_lowat`: checked, and as in nginx on Linux not supported.
#[derive(Debug, Clone, Copy)]
pub struct SendLowat;

impl Value for SendLowat {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if headwater_conf::value::parse_size(directive.arg(0)).is_none() {
            return Err(directive.complain("invalid value"));
        }
        let message = format!("\"{}\" is not supported, ignored", directive.name());
        cx.warn(directive, message);
        Ok(Self)
    }
}

impl LocalAddress {
    /// The address for a request, as it is written.
    pub(super) fn value<'a>(&'a self, r: &Request) -> Cow<'a, [u8]> {
        self.value.value(r)
    }
}

impl UpstreamConf {
    /// How to connect for a request; `speaks_first` tells that it is sent as soon as there is a connection. A local address that is none is
    /// logged, and the system chooses one.
    pub(super) fn connect_options(&self, r: &Request, speaks_first: bool) -> ConnectOptions {
        let mut options = ConnectOptions {
            speaks_first,
            keepalive: self.socket_keepalive,
            sndbuf: Some(self.socket_sndbuf).filter(|size| *size > 0),
            rcvbuf: Some(self.socket_rcvbuf).filter(|size| *size > 0),
            ..ConnectOptions::default()
        };
        let Some(bind) = &self.bind else { return options };
        let value = bind.value(r);
        if value.is_empty() {
            return options;
        }
        options.local = local_address(&value);
        options.transparent = bind.transparent;
        if options.local.is_none() {
            let shown = String::from_utf8_lossy(&value);
            r.log(Level::Error, format_args!("invalid local address \"{shown}\""));
        }
        options
    }
}
