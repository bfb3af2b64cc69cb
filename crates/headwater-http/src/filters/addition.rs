//! ngx_http_addition_module: responses of other locations before and after a response.
//!
//! A body filter that starts subrequests. nginx's counterpart: `ngx_http_addition_filter_module.c`.

use bytes::Bytes;
use headwater_conf::context::HSL;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::config::mime_types::MimeTypes;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::Request;

/// The module.
pub static MODULE: Module =
    Module { directives: &[AdditionSettings::DIRECTIVES], ..Module::named("ngx_http_addition_module") };

settings! {
    /// What is added to responses.
    pub struct AdditionSettings, raw AdditionRaw, module "ngx_http_addition_module" {
        /// Adds the response of the location of this URI before the body.
        "add_before_body", HSL, "uri", "" => before: Target = Target::default();
        /// Adds the response of the location of this URI after the body.
        "add_after_body", HSL, "uri", "" => after: Target = Target::default();
        /// Sets the types of responses to which something is added.
        "addition_types", HSL, "mime-type ...", "text/html" => types: MimeTypes = MimeTypes::html();
    }
}

/// A URI, used as it is; an empty one adds nothing.
#[derive(Debug, Clone, Default)]
pub struct Target(Bytes);

impl Value for Target {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self(Bytes::copy_from_slice(directive.arg(0))))
    }
}

/// Puts the filter into locations that add something.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<AdditionSettings>();
    if !settings.before.0.is_empty() || !settings.after.0.is_empty() {
        builder.location.header_filters.push(Box::new(Addition {
            before: settings.before.0.clone(),
            after: settings.after.0.clone(),
            types: settings.types.clone(),
        }));
    }
    Ok(())
}

struct Addition {
    before: Bytes,
    after: Bytes,
    types: MimeTypes,
}

impl HeaderFilter for Addition {
    fn filter(&self, r: &Request) -> Filtered {
        let mut out = r.headers_out.borrow_mut();
        if out.status() != 200 || !r.is_main() || !self.types.matches(r, &out) {
            return Filtered::Pass;
        }
        out.clear_content_length();
        out.clear_accept_ranges();
        out.weaken_etag();
        drop(out);
        if r.header_only.get() {
            return Filtered::Pass;
        }
        let body = Body { before: self.before.clone(), after: self.after.clone() };
        Filtered::Install(Order::Addition, Box::new(body))
    }
}

/// What is still to be added.
struct Body {
    before: Bytes,
    after: Bytes,
}

impl BodyFilter for Body {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        add(r, &mut self.before)?;
        if end != End::Last || self.after.is_empty() {
            return next.push(r, chunk, end);
        }
        if !chunk.is_empty() {
            next.push(r, chunk, End::More)?;
        }
        add(r, &mut self.after)?;
        next.push(r, Chunk::Empty, End::Last)
    }
}

fn add(r: &Request, uri: &mut Bytes) -> std::result::Result<(), SendError> {
    let uri = std::mem::take(uri);
    if uri.is_empty() {
        return Ok(());
    }
    r.subrequest(uri).include().map(drop).map_err(|_| SendError::Broken)
}
