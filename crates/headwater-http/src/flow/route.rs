//! Finding the location of a URI, with the checks that come with it.
//!
//! Called by `flow::phases`. nginx's counterpart: `ngx_http_core_find_config_phase`, `ngx_http_core_find_location`,
//! `ngx_http_update_location_config`.

use bytes::Bytes;
use headwater_wire::escape::{Escape, escape_uri};

use super::error_log::Level;
use super::phases::Outcome;
use crate::config::lookup::{Found, Locations};
use crate::config::{LocId, LocationKind};
use crate::request::Request;

/// Finds the location and makes it the request's; an outcome means the request is answered here.
pub fn find_location(r: &Request) -> Option<Outcome<'static>> {
    let uri = r.uri.borrow().clone();
    let server = r.srv();
    r.location.set(server.root);
    r.location_found.set(true);
    if !server.locations.is_empty() {
        let mut redirect = None;
        if let Some(found) = search(r, &server.locations, &uri, &mut redirect) {
            r.location.set(found);
        }
        if let Some(location) = redirect {
            return Some(slash_redirect(r, location));
        }
    }
    let location = r.loc();
    if !r.internal.get() && location.internal {
        return Some(Outcome::Status(404));
    }
    if let Some((methods, other)) = &location.limit_except
        && !methods.contains(&r.method.get())
    {
        r.location.set(*other);
    }
    limit_keepalive(r);
    let limit = *r.loc().core.client_max_body_size;
    let declared = r.exchange.head.framing;
    if let headwater_wire::http1::semantics::BodyFraming::Length(length) = declared
        && limit > 0
        && length > limit
        && r.is_main()
        && !r.exchange.body.started.get()
    {
        r.log(Level::Error, format_args!("client intended to send too large body: {length} bytes"));
        return Some(Outcome::Status(413));
    }
    None
}

/// One level and, inside what it finds, the next. `redirect` is set to a location whose name is the URI with a slash.
fn search(r: &Request, level: &Locations, uri: &Bytes, redirect: &mut Option<LocId>) -> Option<LocId> {
    let mut found = None;
    let mut try_regexes = true;
    match level.find_static(uri) {
        Some(Found::Exact(location)) => return Some(location),
        Some(Found::Prefix(location, stops)) => {
            found = Some(location);
            try_regexes = !stops;
            let inner = &r.exchange.generation.location(location).children;
            if !inner.is_empty()
                && let Some(deeper) = search(r, inner, uri, redirect)
            {
                let exact = matches!(r.exchange.generation.location(deeper).kind, LocationKind::Exact);
                found = Some(deeper);
                if redirect.is_some() || exact || is_regex(r, deeper) {
                    return found;
                }
            }
        }
        None => {}
    }
    if redirect.is_none()
        && let Some(location) = level.find_with_slash(uri)
        && r.exchange.generation.location(location).auto_redirect
    {
        *redirect = Some(location);
        return found;
    }
    if try_regexes
        && level.has_regexes()
        && let Some(location) = level.find_regex(r, uri)
    {
        let inner = &r.exchange.generation.location(location).children;
        return search(r, inner, uri, redirect).or(Some(location));
    }
    found
}

fn is_regex(r: &Request, location: LocId) -> bool {
    matches!(r.exchange.generation.location(location).kind, LocationKind::Regex(_))
}

fn slash_redirect(r: &Request, location: LocId) -> Outcome<'static> {
    let location = r.exchange.generation.location(location);
    let mut target = Vec::with_capacity(location.name.len());
    escape_uri(&location.name, Escape::Uri, &mut target);
    let args = r.args.borrow();
    if !args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(&args);
    }
    r.headers_out.borrow_mut().location = Some(target.into());
    Outcome::Status(301)
}

/// Whether the connection may live on is decided by the location (nginx: `ngx_http_update_location_config`).
fn limit_keepalive(r: &Request) {
    if !r.is_main() || !r.exchange.keepalive.get() {
        return;
    }
    let connection = r.connection();
    let core = &r.loc().core;
    let too_many = connection.requests.get() >= *core.keepalive_requests as u64;
    let too_old = r.exchange.start.saturating_duration_since(connection.start) > *core.keepalive_time;
    let off = core.keepalive_timeout.timeout.is_zero();
    if off || too_many || too_old || connection.worker.draining.get() || is_disabled(r) {
        r.exchange.keepalive.set(false);
    }
}

fn is_disabled(r: &Request) -> bool {
    let disable = &r.loc().core.keepalive_disable;
    let posted = r.exchange.head.line.method == headwater_wire::method::Method::Post;
    let concerned = disable.safari || (disable.msie6 && posted);
    if !concerned {
        return false;
    }
    let Some(agent) = r.header_in(b"user-agent") else { return false };
    let find = |needle: &[u8]| agent.windows(needle.len()).any(|window| window == needle);
    let old_msie = || find(b"MSIE 6.") || find(b"MSIE 5.") || find(b"MSIE 4.");
    (disable.msie6 && posted && old_msie() && !find(b"Opera"))
        || (disable.safari && find(b"Safari/") && find(b"Mac OS X") && !find(b"Chrome/"))
}
