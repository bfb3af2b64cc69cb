//! ngx_http_uwsgi_module: uwsgi back ends.
//!
//! `modules::cgi` has the parameters and the response, `upstream::engine` does the work; here are the directives and the request. nginx's counterpart:
//! `ngx_http_uwsgi_module.c`.

use std::sync::Arc;

use headwater_conf::context::{HSL, LOCATION, LOCATION_IF};
use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_wire::uwsgi::{Packet, TooBig};

use super::Module;
use super::cgi::params::{Param, ParamSet};
use super::cgi::stream::{CgiHandler, CgiLocation, Encode};
use crate::config::LocationBuilder;
use crate::config::core::{Rate, TempPath};
use crate::flow::error_log::Level;
use crate::request::Request;
use crate::upstream::pass::{Pass, Route, Security, redirect_to_slash};
use crate::upstream::settings::{
    Bind, CgiNextUpstream, HIDDEN_BY_UWSGI, IgnoreHeaders, UpstreamConf, hidden,
};

crate::upstream_family!("uwsgi_", "ngx_http_uwsgi_module", CgiNextUpstream);
crate::upstream_tls!("uwsgi_", "ngx_http_uwsgi_module");

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, TlsSettings::DIRECTIVES, UwsgiSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_uwsgi_module")
};

settings! {
    /// What only uwsgi back ends have.
    pub struct UwsgiSettings, raw UwsgiRaw, module "ngx_http_uwsgi_module" {
        /// Passes requests to a uwsgi server or a group of them.
        "uwsgi_pass", LOCATION.or(LOCATION_IF), "[protocol://]address", "" => pass: Option<Pass> = None;
        /// Sets a parameter for the uwsgi server; with `if_not_empty`, one without a value is not sent. One that is called `HTTP_…` stands for the request header.
        "uwsgi_param", HSL, "parameter value [if_not_empty]", "HTTP_HOST $host$is_request_port$request_port" => param: List<Param> = List::default();
        /// Sets the first modifier of packets, 0 to 255: which plugin of the server answers.
        "uwsgi_modifier1", HSL, "number", "0" => modifier1: Modifier = Modifier(0);
        /// Sets the second modifier of packets, 0 to 255.
        "uwsgi_modifier2", HSL, "number", "0" => modifier2: Modifier = Modifier(0);
        /// Sets a text that is appended to the parameters of packets as it is.
        "uwsgi_string", HSL, "string", "" => string: Text = Text(Vec::new());
    }
}

/// `uwsgi_modifier1`, `uwsgi_modifier2`.
#[derive(Debug, Clone, Copy)]
pub struct Modifier(pub u8);

impl Value for Modifier {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let number = *Number::parse(cx, directive)?;
        let byte = u8::try_from(number).map_err(|_| directive.error("value must be between 0 and 255"))?;
        Ok(Self(byte))
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let family = builder.settings::<FamilySettings>();
    let raw = builder.merged::<FamilySettings>();
    if let Err(message) = family.check(&raw) {
        return Err(builder.error(message));
    }
    let uwsgi = builder.settings::<UwsgiSettings>();
    // uwsgi_pass belongs to the very block that says it.
    let Some(pass) = builder.own::<UwsgiRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let directory = family.temp_path.directory(&builder.cx.prefix);
    builder.needs_directory(directory);
    let route = Route::new(builder, &pass, address)?;
    let tls = if route.needs_tls() { Some(TlsSettings::tls(builder)?) } else { None };
    let location = CgiLocation {
        conf: UpstreamConf { tls, ..family.conf(&HIDDEN_BY_UWSGI) },
        route,
        encode: Uwsgi {
            params: ParamSet::new(builder.cx, &pass.directive, &uwsgi.param, family.pass_request_headers)?,
            modifiers: (uwsgi.modifier1.0, uwsgi.modifier2.0),
            string: uwsgi.string.0.as_slice().into(),
        },
    };
    if location.route.is_fixed() {
        redirect_to_slash(builder);
    }
    builder.location.content_handler = Some(Arc::new(CgiHandler(Arc::new(location))));
    Ok(())
}

/// The address behind the scheme, which may be left out; `suwsgi` is the one with TLS.
fn address(text: &[u8]) -> std::result::Result<(Security, &[u8]), &'static str> {
    let behind = |scheme: &[u8]| {
        let (start, rest) = text.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    if let Some(rest) = behind(b"suwsgi://") {
        return Ok((Security::Tls, rest));
    }
    Ok((Security::Plain, behind(b"uwsgi://").unwrap_or(text)))
}

/// What a location says about requests.
struct Uwsgi {
    params: ParamSet,
    modifiers: (u8, u8),
    string: Box<[u8]>,
}

impl Encode for Uwsgi {
    const SCHEME: &'static str = "uwsgi://";
    const SECURE_SCHEME: &'static str = "suwsgi://";

    fn encode(&self, r: &Request, out: &mut Vec<u8>) -> std::result::Result<(), u16> {
        let mut packet = Packet::begin(self.modifiers.0, self.modifiers.1, out);
        self.params.write(r, &mut |name, value| packet.push(name, value));
        packet.push_raw(&self.string);
        packet.finish().map_err(|TooBig(size)| {
            r.log(Level::Alert, format_args!("uwsgi request is too big: {size}"));
            500_u16
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_is_taken_off_whatever_its_case() {
        assert_eq!(address(b"uwsgi://a:1"), Ok((Security::Plain, &b"a:1"[..])));
        assert_eq!(address(b"UWSGI://a:1"), Ok((Security::Plain, &b"a:1"[..])));
        assert_eq!(address(b"a:1"), Ok((Security::Plain, &b"a:1"[..])));
        assert_eq!(address(b"suwsgi://a:1"), Ok((Security::Tls, &b"a:1"[..])));
    }
}
