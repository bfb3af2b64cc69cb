//! `mirror`: copies of requests for other locations, whose answers nobody waits for.
//!
//! A precontent handler that starts subrequests in the background. nginx's counterpart: `ngx_http_mirror_module.c`.

use bytes::Bytes;
use headwater_conf::context::HSL;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};

use super::Module;
use crate::config::LocationBuilder;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::request::body::BodyError;

/// The module.
pub static MODULE: Module =
    Module { directives: &[MirrorSettings::DIRECTIVES], build, ..Module::named("ngx_http_mirror_module") };

settings! {
    /// Where copies go.
    pub struct MirrorSettings, raw MirrorRaw, module "ngx_http_mirror_module" {
        /// Sends a copy of each request to the location of this URI and drops the answer.
        "mirror", HSL, "uri | off", "off" => targets: Targets = Targets(Vec::new());
        /// Copies the request body, too, which is read before then.
        "mirror_request_body", HSL, "on | off", "on" => request_body: bool = true;
    }
}

/// The `mirror` directives of a block; none for `off`.
#[derive(Debug, Clone)]
pub struct Targets(Vec<Bytes>);

impl Value for Targets {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or(Self(Vec::new())))
    }

    fn set(slot: &mut Option<Self>, _: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let text = directive.arg(0);
        match (text, &mut *slot) {
            (b"off", None) => *slot = Some(Self(Vec::new())),
            (b"off", Some(_)) => return Err(directive.complain("is duplicate")),
            (_, Some(Self(targets))) if targets.is_empty() => return Err(directive.complain("is duplicate")),
            (_, Some(Self(targets))) => targets.push(Bytes::copy_from_slice(text)),
            (_, None) => *slot = Some(Self(vec![Bytes::copy_from_slice(text)])),
        }
        Ok(())
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<MirrorSettings>();
    if !settings.targets.0.is_empty() {
        let handler = Mirror { targets: settings.targets.0.clone(), with_body: settings.request_body };
        builder.location.precontent.push(Box::new(handler));
    }
    Ok(())
}

struct Mirror {
    targets: Vec<Bytes>,
    with_body: bool,
}

impl Handler for Mirror {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if !r.is_main() {
            return Outcome::Declined;
        }
        if !self.with_body || r.exchange.body.is_complete() {
            self.send(r);
            return Outcome::Declined;
        }
        Outcome::Wait(Box::pin(async move {
            match r.read_body().await {
                Ok(()) => {
                    self.send(r);
                    Outcome::Declined
                }
                Err(BodyError::Status(status)) => Outcome::Status(status),
                Err(BodyError::Gone(status)) => Outcome::Close(status),
            }
        }))
    }
}

impl Mirror {
    fn send(&self, r: &Request) {
        for target in &self.targets {
            let copy = r.subrequest(target.clone()).method(r.method.get()).header_only();
            let copy = if self.with_body { copy } else { copy.without_body() };
            // What cannot start is logged where it fails; the request itself goes on.
            let _ = copy.background();
        }
    }
}
