//! `*_pass` of the families that take an address: `fastcgi_pass`, `scgi_pass`, `uwsgi_pass`, `memcached_pass`.
//!
//! Called by their modules, at load ([`Route::new`]) and for each request ([`Route::run`]). nginx's counterpart: `ngx_http_fastcgi_pass`,
//! `ngx_http_fastcgi_eval` and the like.

use std::sync::Arc;

use headwater_conf::{Args, Cx, Directive, Result, Value};

use super::peers::Group;
use super::protocol::Protocol;
use super::settings::UpstreamConf;
use super::{engine, target};
use crate::config::{LocationBuilder, LocationKind};
use crate::flow::error_log::Level;
use crate::flow::phases::{BackEnd, Outcome};
use crate::request::Request;
use crate::script::Complex;

/// A `*_pass` as written.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Where it stands.
    pub directive: Directive,
    /// Its argument.
    pub value: Complex,
}

impl Value for Pass {
    const ARGS: Args = Args::exactly(1);
    const INHERITS: bool = false;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Pass { directive: directive.clone(), value: Complex::compile(cx, directive, 0)? })
    }

    // Each location says for itself where it passes requests.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

/// A `*_pass` that takes no variables.
#[derive(Debug, Clone)]
pub struct FixedPass(pub Pass);

impl Value for FixedPass {
    const ARGS: Args = Args::exactly(1);
    const INHERITS: bool = false;

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self(Pass { directive: directive.clone(), value: Complex::text(directive.arg(0)) }))
    }

    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

/// Where a location passes requests.
pub struct Route {
    upstream: Upstream,
    /// Tells locations apart that do not share idle connections.
    owner: usize,
}

enum Upstream {
    /// Known at load.
    Fixed(Security, Arc<Group>),
    /// Known at run time; the function takes the address out of the value.
    Dynamic(Complex, Address),
}

/// Finds the address in the argument of a `*_pass`, which may begin with a scheme. The error is nginx's text.
pub type Address = fn(&[u8]) -> std::result::Result<(Security, &[u8]), &'static str>;

/// Whether connections are secured by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// They are not.
    Plain,
    /// They are.
    Tls,
}

impl Route {
    /// Resolves a location's `*_pass`.
    ///
    /// # Errors
    /// nginx's messages, at the argument.
    pub fn new(builder: &mut LocationBuilder<'_, '_>, pass: &Pass, address: Address) -> Result<Self> {
        let upstream = match pass.value.as_text() {
            Some(text) => {
                let (security, text) =
                    address(text).map_err(|message| pass.directive.error_at(0, message))?;
                let name = String::from_utf8_lossy(text);
                Upstream::Fixed(security, target::fixed(builder.cx, &pass.directive, &name, None)?)
            }
            None => Upstream::Dynamic(pass.value.clone(), address),
        };
        Ok(Self { upstream, owner: builder.location.id.0 as usize + 1 })
    }

    /// Whether the back ends are known at load.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        matches!(self.upstream, Upstream::Fixed(..))
    }

    /// Whether requests may go over secured connections.
    #[must_use]
    pub fn needs_tls(&self) -> bool {
        !matches!(self.upstream, Upstream::Fixed(Security::Plain, _))
    }

    /// What health checks need to know of a location with this route.
    #[must_use]
    pub fn back_end<'a>(&'a self, conf: &'a UpstreamConf, speaks_http: bool) -> BackEnd<'a> {
        let group = match &self.upstream {
            Upstream::Fixed(_, group) => Some(group),
            Upstream::Dynamic(..) => None,
        };
        BackEnd { conf, group, speaks_http }
    }

    /// Asks a back end and passes its answer on.
    pub async fn run(
        &self,
        r: &Request,
        conf: &UpstreamConf,
        protocol: Box<dyn Protocol>,
    ) -> Outcome<'static> {
        self.run_with(r, conf, |_| protocol).await
    }

    /// The same for a protocol that may be secured by TLS, which the address decides.
    pub async fn run_with(
        &self,
        r: &Request,
        conf: &UpstreamConf,
        protocol: impl FnOnce(Security) -> Box<dyn Protocol>,
    ) -> Outcome<'static> {
        match &self.upstream {
            Upstream::Fixed(security, group) => {
                engine::run(r, conf, group, self.owner, protocol(*security)).await
            }
            Upstream::Dynamic(value, address) => {
                let value = value.value(r);
                let (security, name) = match address(&value) {
                    Ok((security, name)) => (security, String::from_utf8_lossy(name).into_owned()),
                    Err(message) => {
                        r.log(Level::Error, format_args!("{message}"));
                        return Outcome::Status(500);
                    }
                };
                let protocol = protocol(security);
                // Boxed, so that the future of a fixed back end has no room for a look-up.
                match Box::pin(target::dynamic(r, conf, &*protocol, &name, None)).await {
                    Ok(group) => engine::run(r, conf, &group, self.owner, protocol).await,
                    Err(outcome) => outcome,
                }
            }
        }
    }
}

/// The address of families without a scheme.
///
/// # Errors
/// None.
pub fn plain_address(text: &[u8]) -> std::result::Result<(Security, &[u8]), &'static str> {
    Ok((Security::Plain, text))
}

/// Has requests for a location's name without its slash redirected to the one with it.
pub fn redirect_to_slash(builder: &mut LocationBuilder<'_, '_>) {
    let prefix = matches!(builder.decl.kind, LocationKind::Exact | LocationKind::Prefix(_));
    if builder.decl.name.ends_with(b"/") && prefix {
        builder.location.auto_redirect = true;
    }
}
