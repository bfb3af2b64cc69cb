//! ngx_http_scgi_module: SCGI back ends.
//!
//! `modules::cgi` has the parameters and the response, `upstream::engine` does the work; here are the directives and the request. nginx's counterpart:
//! `ngx_http_scgi_module.c`.

use std::sync::Arc;

use headwater_conf::context::{HSL, LOCATION, LOCATION_IF};
use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
use headwater_conf::{Result, settings};
use headwater_wire::scgi::Headers;

use super::Module;
use super::cgi::params::{Param, ParamSet};
use super::cgi::stream::{CgiHandler, CgiLocation, Encode};
use crate::config::LocationBuilder;
use crate::config::core::{Rate, TempPath};
use crate::request::Request;
use crate::upstream::pass::{Pass, Route, plain_address, redirect_to_slash};
use crate::upstream::settings::{Bind, CgiNextUpstream, HIDDEN_BY_CGI, IgnoreHeaders, UpstreamConf, hidden};

crate::upstream_family!("scgi_", "ngx_http_scgi_module", CgiNextUpstream);

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, ScgiSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_scgi_module")
};

settings! {
    /// What only SCGI back ends have.
    pub struct ScgiSettings, raw ScgiRaw, module "ngx_http_scgi_module" {
        /// Passes requests to an SCGI server or a group of them.
        "scgi_pass", LOCATION.or(LOCATION_IF), "address", "" => pass: Option<Pass> = None;
        /// Sets a parameter for the SCGI server; with `if_not_empty`, one without a value is not sent. One that is called `HTTP_…` stands for the request header.
        "scgi_param", HSL, "parameter value [if_not_empty]", "HTTP_HOST $host$is_request_port$request_port" => param: List<Param> = List::default();
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let family = builder.settings::<FamilySettings>();
    let raw = builder.merged::<FamilySettings>();
    if let Err(message) = family.check(&raw) {
        return Err(builder.error(message));
    }
    let scgi = builder.settings::<ScgiSettings>();
    // scgi_pass belongs to the very block that says it.
    let Some(pass) = builder.own::<ScgiRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let directory = family.temp_path.directory(&builder.cx.prefix);
    builder.needs_directory(directory);
    let location = CgiLocation {
        conf: family.conf(&HIDDEN_BY_CGI),
        route: Route::new(builder, &pass, plain_address)?,
        encode: Scgi {
            params: ParamSet::new(builder.cx, &pass.directive, &scgi.param, family.pass_request_headers)?,
            pass_body: family.pass_request_body,
        },
    };
    if location.route.is_fixed() {
        redirect_to_slash(builder);
    }
    builder.location.content_handler = Some(Arc::new(CgiHandler(Arc::new(location))));
    Ok(())
}

/// What a location says about requests.
struct Scgi {
    params: ParamSet,
    pass_body: bool,
}

impl Encode for Scgi {
    const SCHEME: &'static str = "scgi://";

    fn encode(&self, r: &Request, out: &mut Vec<u8>) -> std::result::Result<(), u16> {
        let body = &r.exchange.body;
        // A server reads so much behind the headers: what will be sent, no more and no less.
        let length =
            if self.pass_body { body.declared().unwrap_or_else(|| body.stored.borrow().len()) } else { 0 };
        let mut headers = Headers::begin(length, out);
        self.params.write(r, &mut |name, value| headers.push(name, value));
        headers.finish();
        Ok(())
    }
}
