//! `sticky` of a group: the directive with its three forms.
//!
//! What it does is in `upstream::peers::sticky`. nginx's counterpart: `sticky` of nginx 1.29.6.

use std::time::Duration;

use headwater_conf::context::UPSTREAM;
use headwater_conf::value::parse_seconds;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result};

use super::Building;
use crate::modules::limit_zone;
use crate::script::{Complex, Variables};
use crate::upstream::peers::sticky::{Cookie, Expires, Learn, SameSite, Session, Sticky};

/// Bytes of a session besides its name: a zone of one megabyte holds about 4000.
const OVERHEAD: usize = 160;

pub(super) const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "sticky",
    module: "ngx_http_upstream_sticky_module",
    contexts: UPSTREAM,
    args: Args::at_least(2),
    syntax: "cookie name [expires=time] [domain=domain] [httponly] [samesite=strict|lax|none|$variable] [secure] [path=path] | route $variable ... | learn create=$variable lookup=$variable zone=name:size [timeout=time] [header]",
    default: "",
    doc: "Passes the requests of one client to one server: by a cookie that is added to the first answer, by a route that the request names, or by sessions learnt from answers.\n",
    set: sticky,
}];

fn sticky(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    if cx.state::<Building>().sticky.is_some() {
        return Err(directive.duplicate());
    }
    let sticky = match directive.arg(0) {
        b"cookie" => Sticky::Cookie(cookie(cx, directive)?),
        b"route" => {
            let count = directive.args.len();
            Sticky::Route((1..count).map(|index| variable(cx, directive, index, "")).collect::<Result<_>>()?)
        }
        b"learn" => Sticky::Learn(learn(cx, directive)?),
        _ => return Err(directive.invalid_parameter(0)),
    };
    cx.state::<Building>().sticky = Some(sticky);
    Ok(())
}

/// A value that must be one with variables.
fn variable(cx: &mut Cx<'_>, directive: &Directive, index: usize, prefix: &str) -> Result<Complex> {
    let text = directive.word(index).after(prefix).unwrap_or_default();
    let value = Complex::compile_text(cx.state::<Variables>(), text)
        .map_err(|message| directive.error_at(index, message))?;
    if value.as_text().is_some() {
        return Err(directive.invalid_parameter(index));
    }
    Ok(value)
}

fn cookie(cx: &mut Cx<'_>, directive: &Directive) -> Result<Cookie> {
    let name = directive.arg(1);
    if name.is_empty() {
        return Err(directive.invalid_parameter(1));
    }
    let mut cookie = Cookie {
        name: name.into(),
        expires: None,
        domain: None,
        path: None,
        http_only: false,
        secure: false,
        same_site: None,
    };
    for (index, word) in directive.args.iter().enumerate().skip(2) {
        let invalid = || directive.invalid_parameter(index);
        if let Some(text) = word.after("expires=") {
            cookie.expires = Some(match text {
                b"max" => Expires::Max,
                text => Expires::After(parse_seconds(text).ok_or_else(invalid)?.as_secs()),
            });
        } else if let Some(text) = word.after("domain=").filter(|text| !text.is_empty()) {
            let domain = Complex::compile_text(cx.state::<Variables>(), text)
                .map_err(|message| directive.error_at(index, message))?;
            cookie.domain = Some(domain);
        } else if let Some(text) = word.after("path=").filter(|text| !text.is_empty()) {
            cookie.path = Some(text.into());
        } else if word.is("httponly") {
            cookie.http_only = true;
        } else if word.is("secure") {
            cookie.secure = true;
        } else if let Some(text) = word.after("samesite=") {
            cookie.same_site = Some(match text {
                b"strict" => SameSite::Fixed("Strict"),
                b"lax" => SameSite::Fixed("Lax"),
                b"none" => SameSite::Fixed("None"),
                _ => SameSite::Variable(variable(cx, directive, index, "samesite=")?),
            });
        } else {
            return Err(invalid());
        }
    }
    Ok(cookie)
}

fn learn(cx: &mut Cx<'_>, directive: &Directive) -> Result<Learn> {
    let (mut create, mut lookup) = (Vec::new(), Vec::new());
    let mut zone = None;
    let mut timeout = Duration::from_secs(600);
    let mut header = false;
    for (index, word) in directive.args.iter().enumerate().skip(1) {
        if word.after("create=").is_some() {
            create.push(variable(cx, directive, index, "create=")?);
        } else if word.after("lookup=").is_some() {
            lookup.push(variable(cx, directive, index, "lookup=")?);
        } else if let Some(text) = word.after("zone=") {
            zone = Some(limit_zone::name_and_size(directive, index, text)?);
        } else if let Some(text) = word.after("timeout=") {
            timeout = parse_seconds(text).ok_or_else(|| directive.invalid_parameter(index))?;
        } else if word.is("header") {
            header = true;
        } else {
            return Err(directive.invalid_parameter(index));
        }
    }
    let missing = |what: &str| directive.error(format!("\"sticky learn\" requires the \"{what}\" parameter"));
    if create.is_empty() {
        return Err(missing("create"));
    }
    if lookup.is_empty() {
        return Err(missing("lookup"));
    }
    let (name, size) = zone.filter(|(name, _)| !name.is_empty()).ok_or_else(|| missing("zone"))?;
    /// What the zone is used for.
    struct Learnt;
    if limit_zone::claim(cx, directive, &name, Learnt)?.is_err() {
        return Err(directive.error(format!("zone \"{name}\" is already used by another \"sticky learn\"")));
    }
    let sessions = limit_zone::keep::<Session>(&name, b"sticky learn", size, OVERHEAD);
    Ok(Learn { create, lookup, sessions, timeout, header })
}
