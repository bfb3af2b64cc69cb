//! ngx_http_proxy_module: HTTP/1 back ends.
//!
//! `url` reads `proxy_pass`, `request` builds the request, `protocol` is the callbacks, `redirect` rewrites `Location`, `cookie` rewrites `Set-Cookie`.
//! The work is done by `upstream::engine`. nginx's counterpart: `ngx_http_proxy_module.c`.

mod cookie;
mod protocol;
mod redirect;
mod request;
mod url;

use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::{HSL, LIMIT_EXCEPT, LOCATION, LOCATION_IF};
use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
use headwater_conf::{Args, Cx, Directive, Result, Value, keywords, settings};

use super::Module;
use crate::config::core::{Rate, TempPath};
use crate::config::{LocId, LocationBuilder, LocationKind};
use crate::flow::error_log::Level;
use crate::flow::phases::{BackEnd, Handler, Outcome};
use crate::flow::pinned::pinned;
use crate::request::Request;
use crate::script::{Complex, NameValue, VariableDef};
use crate::upstream::engine;
use crate::upstream::settings::{Bind, HIDDEN_BY_PROXY, IgnoreHeaders, NextUpstream, UpstreamConf, hidden};
use crate::upstream::target;
use cookie::{Cookies, Rules};
use redirect::{Redirects, Rewrite};
use request::RequestTemplate;
use url::{Pass, Scheme, Upstream};

crate::upstream_family!(
    "proxy_",
    "ngx_http_proxy_module",
    NextUpstream,
    [connection, head, body, store, sockets, lowat]
);
crate::upstream_tls!("proxy_", "ngx_http_proxy_module");

/// The module.
pub static MODULE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, TlsSettings::DIRECTIVES, ProxySettings::DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named("ngx_http_proxy_module")
};

keywords! {
    /// `proxy_http_version`.
    pub enum HttpVersion {
        /// HTTP/1.0: the connection ends with the response.
        Http10 = "1.0",
        /// HTTP/1.1.
        Http11 = "1.1",
    }
}

settings! {
    /// What only HTTP back ends have.
    pub struct ProxySettings, raw ProxyRaw, module "ngx_http_proxy_module" {
        /// Passes requests to a server or group; with a URI, it replaces the location's part of the request's.
        "proxy_pass", LOCATION.or(LOCATION_IF).or(LIMIT_EXCEPT), "URL", "" => pass: Option<Pass> = None;
        /// Sets a request header for the back end; an empty value leaves the header out.
        "proxy_set_header", HSL, "field value", "Host $proxy_host" => set_header: List<NameValue> = List::default();
        /// Sets the protocol version for back ends.
        "proxy_http_version", HSL, "1.0 | 1.1", "1.1" => http_version: HttpVersion = HttpVersion::Http11;
        /// Sets the method of the request to the back end.
        "proxy_method", HSL, "method", "" => method: Option<Method> = None;
        /// Replaces the request body.
        "proxy_set_body", HSL, "value", "" => set_body: Option<Body> = None;
        /// Says how `Location` and `Refresh` of responses are rewritten.
        "proxy_redirect", HSL, "default ;; off ;; redirect replacement", "default" => redirect: Redirects = Redirects::default();
        /// Rewrites the `Domain` of cookies.
        "proxy_cookie_domain", HSL, "off ;; domain replacement", "off" => cookie_domain: Rules<cookie::Domain> = Rules::default();
        /// Rewrites the `Path` of cookies.
        "proxy_cookie_path", HSL, "off ;; path replacement", "off" => cookie_path: Rules<cookie::Path> = Rules::default();
        /// Sets and removes flags of cookies.
        "proxy_cookie_flags", HSL, "off ;; cookie [flag ...]", "off" => cookie_flags: Rules<cookie::FlagRule> = Rules::default();
        /// Passes trailer fields of responses on.
        "proxy_pass_trailers", HSL, "on | off", "off" => pass_trailers: bool = false;
        /// Has no meaning here: header tables size themselves.
        "proxy_headers_hash_max_size", HSL, "size", "512" => headers_hash_max_size: crate::config::ignored::Ignored<1, 1> = crate::config::ignored::Ignored;
        /// Has no meaning here: header tables size themselves.
        "proxy_headers_hash_bucket_size", HSL, "size", "64" => headers_hash_bucket_size: crate::config::ignored::Ignored<1, 1> = crate::config::ignored::Ignored;
    }
}

/// `proxy_method`.
#[derive(Debug, Clone)]
pub struct Method(pub Complex);

impl Value for Method {
    const ARGS: Args = Args::exactly(1);
    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Method(Complex::compile(cx, directive, 0)?))
    }
}

/// `proxy_set_body`.
#[derive(Debug, Clone)]
pub struct Body(pub Complex);

impl Value for Body {
    const ARGS: Args = Args::exactly(1);
    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Body(Complex::compile(cx, directive, 0)?))
    }
}

/// A location that proxies.
pub struct ProxyLocation {
    conf: UpstreamConf,
    upstream: Upstream,
    template: RequestTemplate,
    redirects: Vec<Rewrite>,
    cookies: Cookies,
    http_version: HttpVersion,
    /// Tells locations apart that do not share idle connections.
    owner: usize,
}

/// The back end's name of one request, when it depends on variables.
struct ProxyHost {
    /// The location that found it; after a redirect to another one it is nobody's.
    location: LocId,
    host: Bytes,
    port: Bytes,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let family = builder.settings::<FamilySettings>();
    let raw = builder.merged::<FamilySettings>();
    if let Err(message) = family.check(&raw) {
        return Err(builder.error(message));
    }
    let proxy = builder.settings::<ProxySettings>();
    // proxy_pass belongs to the very block that says it.
    let Some(pass) = builder.own::<ProxyRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let directory = family.temp_path.directory(&builder.cx.prefix);
    builder.needs_directory(directory);
    let upstream = url::upstream(builder, &pass)?;
    let prefix = matches!(builder.decl.kind, LocationKind::Exact | LocationKind::Prefix(_));
    let location_name = if prefix { builder.decl.name.clone() } else { Box::default() };
    let tls = match &upstream {
        Upstream::Fixed { scheme: Scheme::Http, .. } => None,
        _ => Some(TlsSettings::tls(builder)?),
    };
    let redirects = proxy.redirect.resolve(&upstream, &location_name, &pass)?;
    let template = RequestTemplate::new(builder.cx, &proxy, &family, &pass)?;
    let location = Arc::new(ProxyLocation {
        conf: UpstreamConf { pass_trailers: proxy.pass_trailers, tls, ..family.conf(&HIDDEN_BY_PROXY) },
        upstream,
        template,
        redirects,
        cookies: Cookies {
            domains: proxy.cookie_domain.clone(),
            paths: proxy.cookie_path.clone(),
            flags: proxy.cookie_flags.clone(),
        },
        http_version: proxy.http_version,
        owner: builder.location.id.0 as usize + 1,
    });
    if builder.decl.name.ends_with(b"/") && prefix {
        builder.location.auto_redirect = true;
    }
    builder.attach(location.clone());
    builder.location.content_handler = Some(Arc::new(ProxyHandler(location)));
    Ok(())
}

struct ProxyHandler(Arc<ProxyLocation>);

impl Handler for ProxyHandler {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        Outcome::Wait(pinned(|| serve(&self.0, r)))
    }

    fn back_end(&self) -> Option<BackEnd<'_>> {
        let group = match &self.0.upstream {
            Upstream::Fixed { group, .. } => Some(group),
            Upstream::Dynamic(_) => None,
        };
        Some(BackEnd { conf: &self.0.conf, group, speaks_http: true })
    }
}

async fn serve(location: &Arc<ProxyLocation>, r: &Request) -> Outcome<'static> {
    match &location.upstream {
        Upstream::Fixed { group, scheme, .. } => {
            *r.upstream_url.borrow_mut() = None;
            let conversation = Box::new(protocol::Http1::new(location.clone(), *scheme, None));
            engine::run(r, &location.conf, group, location.owner, conversation).await
        }
        Upstream::Dynamic(value) => {
            let text = value.value(r).into_owned();
            let location_id = r.loc().id;
            let target = match url::parse_dynamic(&text) {
                Ok(target) => target,
                Err((status, message)) => {
                    r.set_extension(ProxyHost {
                        location: location_id,
                        host: Bytes::new(),
                        port: Bytes::new(),
                    });
                    r.log(Level::Error, format_args!("{message}"));
                    return Outcome::Status(status);
                }
            };
            r.set_extension(ProxyHost { location: location_id, host: target.host, port: target.port });
            let conversation =
                Box::new(protocol::Http1::new(location.clone(), target.scheme, Some(target.uri)));
            let (port, _) = target.scheme.port();
            // Boxed, so that the future of a fixed back end has no room for a look-up.
            let found = target::dynamic(r, &location.conf, &*conversation, &target.name, Some(port));
            let group = match Box::pin(found).await {
                Ok(group) => group,
                Err(outcome) => return outcome,
            };
            engine::run(r, &location.conf, &group, location.owner, conversation).await
        }
    }
}

fn host_of(r: &Request, out: &mut Vec<u8>, port: bool) -> bool {
    if let Some(dynamic) = r.extension::<ProxyHost>().filter(|dynamic| dynamic.location == r.loc().id) {
        out.extend_from_slice(if port { &dynamic.port } else { &dynamic.host });
        return true;
    }
    let Some(location) = r.loc().settings::<ProxyLocation>() else { return false };
    match &location.upstream {
        Upstream::Fixed { host, port: number, .. } => {
            out.extend_from_slice(if port { number } else { host });
            true
        }
        Upstream::Dynamic(_) => false,
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "proxy_host",
        "ngx_http_proxy_module",
        |r, _, out| host_of(r, out, false),
        "Name and port of the back end as proxy_pass gives them.",
    ),
    VariableDef::new(
        "proxy_port",
        "ngx_http_proxy_module",
        |r, _, out| host_of(r, out, true),
        "The back end's port, or the protocol's usual one.",
    ),
    VariableDef::new(
        "proxy_add_x_forwarded_for",
        "ngx_http_proxy_module",
        add_forwarded_for,
        "X-Forwarded-For of the request with the client's address added.",
    ),
];

fn add_forwarded_for(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    for value in r.exchange.head.headers.get_all_known(headwater_wire::headers::KnownHeader::XForwardedFor) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    r.peer().write_ip(out);
    true
}
