//! `proxy_pass`: its forms, at load and at run time. nginx's counterpart: `ngx_http_proxy_pass`, `ngx_http_proxy_eval`.

use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::{Args, Cx, Directive, Result, Value};

use crate::config::{LocationBuilder, LocationKind};
use crate::script::Complex;
use crate::upstream::peers::Group;
use crate::upstream::target::{self, port_of};

/// `proxy_pass` as written.
#[derive(Debug, Clone)]
pub struct Pass {
    pub(super) directive: Directive,
    pub(super) value: Complex,
}

impl Value for Pass {
    const ARGS: Args = Args::exactly(1);
    const INHERITS: bool = false;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let value = Complex::compile(cx, directive, 0)?;
        if let Some(text) = value.as_text() {
            check_scheme(directive, text)?;
        }
        Ok(Pass { directive: directive.clone(), value })
    }

    // Each location says for itself where it passes requests.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

fn check_scheme(directive: &Directive, text: &[u8]) -> Result<()> {
    if has_scheme(text, b"http://") {
        return Ok(());
    }
    if has_scheme(text, b"https://") {
        return Err(directive.error_at(0, "https protocol requires SSL support"));
    }
    Err(directive.error_at(0, "invalid URL prefix"))
}

fn has_scheme(text: &[u8], scheme: &[u8]) -> bool {
    text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme))
}

/// Where a location passes requests.
pub(super) enum Upstream {
    /// Known at load.
    Fixed {
        group: Arc<Group>,
        /// `$proxy_host`: as written, with its port.
        host: Bytes,
        /// `$proxy_port`.
        port: Bytes,
        /// The URI that replaces the location's part; empty when there is none.
        uri: Bytes,
        /// The URL as written, for `proxy_redirect default`.
        url: Bytes,
    },
    /// Known at run time.
    Dynamic(Complex),
}

/// Splits what follows the scheme into host and URI.
fn split(rest: &[u8]) -> (&[u8], &[u8]) {
    if let Some(path) = rest.strip_prefix(b"unix:") {
        let end = path.iter().position(|byte| *byte == b':').map_or(rest.len(), |at| at.saturating_add(5));
        let (host, uri) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        return (host, uri.strip_prefix(b":").unwrap_or(uri));
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    rest.split_at_checked(end).unwrap_or((rest, &[]))
}

/// Resolves a location's `proxy_pass`.
pub(super) fn upstream(builder: &mut LocationBuilder<'_, '_>, pass: &Pass) -> Result<Upstream> {
    let Some(text) = pass.value.as_text() else { return Ok(Upstream::Dynamic(pass.value.clone())) };
    let directive = &pass.directive;
    let rest = text.get(7..).unwrap_or_default();
    let (host, uri) = split(rest);
    if !uri.is_empty() && !matches!(builder.decl.kind, LocationKind::Exact | LocationKind::Prefix(_)) {
        return Err(directive.error_at(
            0,
            "\"proxy_pass\" cannot have URI part in location given by regular expression, or inside named location, or inside \"if\" statement, or inside \"limit_except\" block",
        ));
    }
    let uri = if uri.starts_with(b"?") { [b"/", uri].concat() } else { uri.to_vec() };
    let name = String::from_utf8_lossy(host).into_owned();
    let group = target::fixed(builder.cx, directive, &name, Some(80))?;
    let port = port_of(&name).unwrap_or("80").to_owned();
    let shown = if name.starts_with("unix:") { "localhost".to_owned() } else { name };
    Ok(Upstream::Fixed {
        group,
        host: shown.into(),
        port: port.into(),
        uri: uri.into(),
        url: Bytes::copy_from_slice(text),
    })
}

/// What a `proxy_pass` with variables says for one request.
pub(super) struct Target {
    /// What `target::dynamic` finds.
    pub(super) name: String,
    /// `$proxy_host`.
    pub(super) host: Bytes,
    /// `$proxy_port`.
    pub(super) port: Bytes,
    pub(super) uri: Bytes,
}

/// Reads the value of a `proxy_pass` with variables; an error is a status and a text for the log.
pub(super) fn parse_dynamic(text: &[u8]) -> std::result::Result<Target, (u16, String)> {
    let shown = String::from_utf8_lossy(text).into_owned();
    if has_scheme(text, b"https://") {
        return Err((500, "https protocol requires SSL support".into()));
    }
    if !has_scheme(text, b"http://") {
        return Err((500, format!("invalid URL prefix in \"{shown}\"")));
    }
    let (host, uri) = split(text.get(7..).unwrap_or_default());
    let name = String::from_utf8_lossy(host).into_owned();
    if name.is_empty() {
        return Err((500, format!("invalid URL prefix in \"{shown}\"")));
    }
    if !name.starts_with("unix:") {
        target::host_and_port(&name, Some(80))?;
    }
    let port = port_of(&name).unwrap_or("80").to_owned();
    let uri = if uri.starts_with(b"?") { [b"/", uri].concat() } else { uri.to_vec() };
    let host = if name.starts_with("unix:") { Bytes::from_static(b"localhost") } else { name.clone().into() };
    Ok(Target { name, host, port: port.into(), uri: uri.into() })
}
