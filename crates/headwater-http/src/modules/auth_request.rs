//! `auth_request`: another location decides whether a request may pass.
//!
//! An access handler that waits for a subrequest. nginx's counterpart: `ngx_http_auth_request_module.c`.

use headwater_conf::context::HSL;
use headwater_conf::value::List;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};

use super::Module;
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::flow::pinned::pinned;
use crate::request::Request;
use crate::request::subrequest::{Response, SubrequestError};
use crate::script::variables::declare_plain;
use crate::script::{Complex, VarIndex};

/// The module.
pub static MODULE: Module = Module {
    directives: &[AuthRequestSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_auth_request_module")
};

settings! {
    /// Who decides.
    pub struct AuthRequestSettings, raw AuthRequestRaw, module "ngx_http_auth_request_module" {
        /// Asks the location of this URI: 2xx lets the request pass, 401 and 403 refuse it.
        "auth_request", HSL, "uri | off", "off" => uri: Target = Target(None);
        /// Sets a variable once the answer is there; the value may use variables of the subrequest.
        "auth_request_set", HSL, "$variable value", "" => set: List<Assignment> = List::default();
    }
}

/// `auth_request`: a URI, used as it is.
#[derive(Debug, Clone)]
pub struct Target(Option<bytes::Bytes>);

impl Value for Target {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let text = directive.arg(0);
        Ok(Self((text != b"off").then(|| bytes::Bytes::copy_from_slice(text))))
    }
}

/// One `auth_request_set`.
#[derive(Debug, Clone)]
pub struct Assignment {
    variable: VarIndex,
    value: Complex,
}

impl Value for Assignment {
    const ARGS: Args = Args::exactly(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self { variable: declare_plain(cx, directive, 0)?, value: Complex::compile(cx, directive, 1)? })
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<AuthRequestSettings>();
    if let Some(uri) = &settings.uri.0 {
        let handler = AuthRequest { uri: uri.clone(), set: settings.set.to_vec() };
        builder.location.access.push(Box::new(handler));
    }
    Ok(())
}

struct AuthRequest {
    uri: bytes::Bytes,
    set: Vec<Assignment>,
}

impl Handler for AuthRequest {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        Outcome::Wait(pinned(|| async move {
            let asked = r.subrequest(self.uri.clone()).header_only().without_body();
            self.decide(r, asked.fetch().await)
        }))
    }
}

impl AuthRequest {
    fn decide(
        &self,
        r: &Request,
        answer: std::result::Result<Response, SubrequestError>,
    ) -> Outcome<'static> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(SubrequestError::ClientGone) => return Outcome::Close(499),
            Err(error) => {
                r.log(Level::Error, format_args!("auth request failed: {error}"));
                return Outcome::Status(500);
            }
        };
        // Before anything else, so that error pages have the variables, too.
        for assignment in &self.set {
            let value = assignment.value.value(&answer.request);
            r.exchange.generation.variables.assign(assignment.variable, r, &value);
        }
        match answer.status() {
            403 => Outcome::Status(403),
            401 => {
                let head = answer.request.headers_out.borrow();
                let mut out = r.headers_out.borrow_mut();
                for value in head.list.get_all(b"WWW-Authenticate") {
                    out.list.push(b"WWW-Authenticate", value);
                }
                Outcome::Status(401)
            }
            200..=299 => Outcome::Ok,
            status => {
                r.log(Level::Error, format_args!("auth request unexpected status: {status}"));
                Outcome::Status(500)
            }
        }
    }
}
