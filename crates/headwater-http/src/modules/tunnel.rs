//! ngx_http_tunnel_module: `CONNECT` requests become tunnels to the host they name, or to another.
//!
//! There is nothing to send and no head to read: the engine connects, the client is told so, and `upstream::tunnel` does the rest. nginx's counterpart:
//! `ngx_http_tunnel_module.c` (1.31).

use std::sync::Arc;

use headwater_conf::context::{HSL, LOCATION, LOCATION_IF, SERVER};
use headwater_conf::value::{Milliseconds, Number, Size};
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_wire::http1::request::Version;
use headwater_wire::http1::semantics::BodyFraming;
use headwater_wire::method::Method;

use super::Module;
use crate::config::LocationBuilder;
use crate::config::flags::flags;
use crate::flow::error_log::Level;
use crate::flow::phases::{BackEnd, Handler, Outcome};
use crate::request::Request;
use crate::script::Complex;
use crate::upstream::pass::{Pass, Route, plain_address};
use crate::upstream::protocol::{Header, Piece, Protocol, ResponseHead};
use crate::upstream::settings::{Bind, NextUpstream, UpstreamConf};

crate::upstream_family!("tunnel_", "ngx_http_tunnel_module", TunnelNextUpstream, [peers, sockets, lowat]);

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, TunnelSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_tunnel_module")
};

settings! {
    /// What only tunnels have.
    pub struct TunnelSettings, raw TunnelRaw, module "ngx_http_tunnel_module" {
        /// Opens a tunnel for a `CONNECT` request: to the host and port that it names, or to an address or group.
        "tunnel_pass", SERVER.or(LOCATION).or(LOCATION_IF), "[address]", "" => pass: Option<TunnelPass> = None;
        /// Sets how much is read at once, and so waits in memory for a slower side at most.
        "tunnel_buffer_size", HSL, "size", "16k" => buffer_size: Size = Size(16384);
    }
}

flags! {
    /// Conditions of `tunnel_next_upstream`; the bits are those of [`NextUpstream`].
    pub TunnelNextUpstream {
        /// No connection.
        ERROR = 1, "error";
        /// A time ran out.
        TIMEOUT = 2, "timeout";
        /// Never.
        OFF = 12, "off";
        /// As in [`NextUpstream`].
        DENIED = 13, "denied";
    }
}

impl TunnelNextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | denied | off ...";
    /// The default.
    pub const USUAL: Self = Self::ERROR.and(Self::TIMEOUT);

    /// As [`NextUpstream::conditions`].
    #[must_use]
    pub fn conditions(self) -> NextUpstream {
        NextUpstream(self.0).conditions()
    }
}

/// `tunnel_pass`.
#[derive(Debug, Clone)]
pub struct TunnelPass(Pass);

impl Value for TunnelPass {
    const ARGS: Args = Args::range(0, 1);
    const INHERITS: bool = false;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let value = match directive.args.is_empty() {
            true => Complex::compile_text(cx.state(), b"$host:$request_port")
                .map_err(|message| directive.error(message))?,
            false => Complex::compile(cx, directive, 0)?,
        };
        Ok(Self(Pass { directive: directive.clone(), value }))
    }

    // Each block says for itself where it leads.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let Some(pass) = builder.own::<TunnelRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let family = builder.settings::<FamilySettings>();
    let tunnel = builder.settings::<TunnelSettings>();
    let conf = UpstreamConf {
        buffer_size: *tunnel.buffer_size,
        pass_request_headers: false,
        pass_request_body: false,
        ..family.conf(&[])
    };
    let route = Route::new(builder, &pass.0, plain_address)?;
    builder.location.content_handler = Some(Arc::new(TunnelHandler { conf, route }));
    Ok(())
}

struct TunnelHandler {
    conf: UpstreamConf,
    route: Route,
}

impl Handler for TunnelHandler {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if r.method.get() != Method::Connect || r.exchange.head.version() < Version::Http11 || !r.is_main() {
            return Outcome::Status(405);
        }
        if r.exchange.head.framing != BodyFraming::None {
            // RFC 9110 section 9.3.6: a CONNECT request has no content; what follows would be taken for one by some.
            r.log(Level::Info, format_args!("client sent CONNECT request with a body"));
            return Outcome::Status(400);
        }
        Outcome::Wait(Box::pin(self.route.run(r, &self.conf, Box::new(Tunnel))))
    }

    fn back_end(&self) -> Option<BackEnd<'_>> {
        Some(self.route.back_end(&self.conf, false))
    }

    fn takes_connect(&self) -> bool {
        true
    }
}

/// The protocol of a tunnel: none.
struct Tunnel;

impl Protocol for Tunnel {
    fn scheme(&self) -> &'static str {
        "tunnel://"
    }

    fn is_tunnel(&self) -> bool {
        true
    }

    fn create_request(&mut self, _: &Request, _: &mut Vec<u8>) -> std::result::Result<(), u16> {
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {}

    fn process_header(&mut self, _: &Request, _: &[u8], _: &mut ResponseHead) -> Header {
        Header::Invalid(String::new())
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {}

    fn input_filter(&mut self, _: &Request, buffer: &[u8]) -> std::result::Result<Piece, String> {
        Ok(Piece { consumed: buffer.len(), data: None, done: true })
    }

    fn input_end(&mut self, _: &Request) -> bool {
        true
    }

    fn reusable(&self) -> bool {
        false
    }
}
