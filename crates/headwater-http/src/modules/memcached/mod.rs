//! ngx_http_memcached_module: values out of memcached as responses.
//!
//! `protocol` is the callbacks; the work is done by `upstream::engine`. nginx's counterpart: `ngx_http_memcached_module.c`.

mod protocol;

use std::sync::Arc;

use headwater_conf::context::{HSL, LOCATION, LOCATION_IF};
use headwater_conf::value::{Milliseconds, Number, Size};
use headwater_conf::{Result, settings};
use headwater_wire::method::Method;

use super::Module;
use crate::config::LocationBuilder;
use crate::config::flags::flags;
use crate::flow::phases::{BackEnd, Handler, Outcome};
use crate::flow::pinned::pinned;
use crate::request::Request;
use crate::script::{Complex, Variables};
use crate::upstream::pass::{FixedPass, Route, plain_address, redirect_to_slash};
use crate::upstream::settings::{Bind, NextUpstream, UpstreamConf};

crate::upstream_family!("memcached_", "ngx_http_memcached_module", MemcachedNextUpstream, [connection]);

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, MemcachedSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_memcached_module")
};

settings! {
    /// What only memcached has.
    pub struct MemcachedSettings, raw MemcachedRaw, module "ngx_http_memcached_module" {
        /// Answers with the value that memcached has for the key `$memcached_key`, which `set` sets; 404 when there is none.
        "memcached_pass", LOCATION.or(LOCATION_IF), "address", "" => pass: Option<FixedPass> = None;
        /// Sets the flags by which values are known that are stored gzipped: those with any of these bits get `Content-Encoding: gzip`.
        "memcached_gzip_flag", HSL, "flag", "" => gzip_flag: Number = Number(0);
    }
}

flags! {
    /// Conditions of `memcached_next_upstream`; the bits are those of [`NextUpstream`].
    pub MemcachedNextUpstream {
        /// No connection, or it broke.
        ERROR = 1, "error";
        /// A time ran out.
        TIMEOUT = 2, "timeout";
        /// The answer was none.
        INVALID_RESPONSE = 3, "invalid_response";
        /// There was no such key.
        NOT_FOUND = 9, "not_found";
        /// Never.
        OFF = 12, "off";
        /// As in [`NextUpstream`].
        DENIED = 13, "denied";
    }
}

impl MemcachedNextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | denied | invalid_response | not_found | off ...";
    /// The default.
    pub const USUAL: Self = Self::ERROR.and(Self::TIMEOUT);

    /// As [`NextUpstream::conditions`].
    #[must_use]
    pub fn conditions(self) -> NextUpstream {
        NextUpstream(self.0).conditions()
    }
}

/// A location that answers out of memcached.
struct MemcachedLocation {
    conf: UpstreamConf,
    route: Route,
    key: Complex,
    gzip_flag: u64,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let family = builder.settings::<FamilySettings>();
    let memcached = builder.settings::<MemcachedSettings>();
    // memcached_pass belongs to the very block that says it.
    let Some(pass) = builder.own::<MemcachedRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let key = Complex::compile_text(builder.cx.state::<Variables>(), b"$memcached_key")
        .map_err(|message| pass.0.directive.error(message))?;
    let location = MemcachedLocation {
        conf: UpstreamConf {
            pass_request_headers: false,
            pass_request_body: false,
            intercept_errors: true,
            intercept_404: true,
            force_ranges: true,
            ..family.conf(&[])
        },
        route: Route::new(builder, &pass.0, plain_address)?,
        key,
        gzip_flag: *memcached.gzip_flag as u64,
    };
    redirect_to_slash(builder);
    builder.location.content_handler = Some(Arc::new(MemcachedHandler(Arc::new(location))));
    Ok(())
}

struct MemcachedHandler(Arc<MemcachedLocation>);

impl Handler for MemcachedHandler {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if !matches!(r.method.get(), Method::Get | Method::Head) {
            return Outcome::Status(405);
        }
        let conversation = Box::new(protocol::Memcached::new(self.0.clone()));
        Outcome::Wait(pinned(|| self.0.route.run(r, &self.0.conf, conversation)))
    }

    fn back_end(&self) -> Option<BackEnd<'_>> {
        Some(self.0.route.back_end(&self.0.conf, false))
    }
}
