//! ngx_http_fastcgi_module: FastCGI back ends.
//!
//! `protocol` is the callbacks, `script_name` splits the URI for the variables; the parameters are those of `modules::cgi`. The work is done by
//! `upstream::engine`. nginx's counterpart: `ngx_http_fastcgi_module.c`.

mod protocol;
mod script_name;

use std::sync::Arc;

use headwater_conf::context::{HSL, LOCATION, LOCATION_IF};
use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
use headwater_conf::{Result, settings};

use super::Module;
use super::cgi::params::{Param, ParamSet};
use crate::config::LocationBuilder;
use crate::config::core::{Rate, TempPath};
use crate::flow::phases::{BackEnd, Handler, Outcome};
use crate::flow::pinned::pinned;
use crate::request::Request;
use crate::script::VariableDef;
use crate::upstream::pass::{Pass, Route, plain_address, redirect_to_slash};
use crate::upstream::settings::{Bind, CgiNextUpstream, HIDDEN_BY_CGI, IgnoreHeaders, UpstreamConf, hidden};
use script_name::{ScriptNames, SplitPattern};

const NAME: &str = "ngx_http_fastcgi_module";

crate::upstream_family!(
    "fastcgi_",
    "ngx_http_fastcgi_module",
    CgiNextUpstream,
    [connection, head, body, store, sockets, lowat]
);

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, FastcgiSettings::DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named(NAME)
};

settings! {
    /// What only FastCGI back ends have.
    pub struct FastcgiSettings, raw FastcgiRaw, module "ngx_http_fastcgi_module" {
        /// Passes requests to a FastCGI server or a group of them.
        "fastcgi_pass", LOCATION.or(LOCATION_IF), "address", "" => pass: Option<Pass> = None;
        /// Sets a parameter for the FastCGI server; with `if_not_empty`, one without a value is not sent. One that is called `HTTP_…` stands for the request header.
        "fastcgi_param", HSL, "parameter value [if_not_empty]", "HTTP_HOST $host$is_request_port$request_port" => param: List<Param> = List::default();
        /// Sets the file name that is appended to a URI which ends with a slash, for `$fastcgi_script_name`.
        "fastcgi_index", HSL, "name", "" => index: Text = Text(Vec::new());
        /// Sets the expression whose two captures are `$fastcgi_script_name` and `$fastcgi_path_info`.
        "fastcgi_split_path_info", HSL, "regex", "" => split_path_info: Option<SplitPattern> = None;
        /// Leaves connections open for further requests.
        "fastcgi_keep_conn", HSL, "on | off", "off" => keep_conn: bool = false;
        /// Sets a text that makes a response invalid when the server writes it to its standard error before the response.
        "fastcgi_catch_stderr", HSL, "string", "" => catch_stderr: List<Text> = List::default();
    }
}

/// A location that passes requests to FastCGI servers.
struct FastcgiLocation {
    conf: UpstreamConf,
    route: Route,
    params: ParamSet,
    keep_conn: bool,
    catch_stderr: Vec<Text>,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let family = builder.settings::<FamilySettings>();
    let raw = builder.merged::<FamilySettings>();
    if let Err(message) = family.check(&raw) {
        return Err(builder.error(message));
    }
    let fastcgi = builder.settings::<FastcgiSettings>();
    if let Some(names) = ScriptNames::new(&fastcgi.index, fastcgi.split_path_info.as_ref()) {
        builder.attach(Arc::new(names));
    }
    // fastcgi_pass belongs to the very block that says it.
    let Some(pass) = builder.own::<FastcgiRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let directory = family.temp_path.directory(&builder.cx.prefix);
    builder.needs_directory(directory);
    let location = FastcgiLocation {
        conf: family.conf(&HIDDEN_BY_CGI),
        route: Route::new(builder, &pass, plain_address)?,
        params: ParamSet::new(builder.cx, &pass.directive, &fastcgi.param, family.pass_request_headers)?,
        keep_conn: fastcgi.keep_conn,
        catch_stderr: fastcgi.catch_stderr.to_vec(),
    };
    redirect_to_slash(builder);
    builder.location.content_handler = Some(Arc::new(FastcgiHandler(Arc::new(location))));
    Ok(())
}

struct FastcgiHandler(Arc<FastcgiLocation>);

impl Handler for FastcgiHandler {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let conversation = Box::new(protocol::FastCgi::new(self.0.clone()));
        Outcome::Wait(pinned(|| self.0.route.run(r, &self.0.conf, conversation)))
    }

    fn back_end(&self) -> Option<BackEnd<'_>> {
        Some(self.0.route.back_end(&self.0.conf, true))
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "fastcgi_script_name",
        NAME,
        |r, _, out| {
            script_name::write_script_name(r, out);
            true
        },
        "The URI, or the first capture of fastcgi_split_path_info; with fastcgi_index when it ends with a slash.",
    ),
    VariableDef::new(
        "fastcgi_path_info",
        NAME,
        |r, _, out| {
            script_name::write_path_info(r, out);
            true
        },
        "The second capture of fastcgi_split_path_info.",
    ),
];
