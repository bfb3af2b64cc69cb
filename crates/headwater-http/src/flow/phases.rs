//! The phases: post-read, server rewrite, find location, rewrite, preaccess, access, precontent, content; and what a handler can say.
//!
//! Called by `flow::connection` for a client's request and for subrequests. Each location has the list of its active handlers, fixed at load. nginx's
//! counterpart: `ngx_http_core_run_phases` and the checkers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use headwater_wire::method::Method;

use super::error_log::Level;
use super::{route, special};
use crate::config::core::Satisfy;
use crate::filters::{Chunk, End};
use crate::request::Request;
use crate::upstream::peers::Group;
use crate::upstream::settings::UpstreamConf;

/// A future of one request: it stays on its worker.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a handler says.
pub enum Outcome<'a> {
    /// Not mine: the next handler.
    Declined,
    /// This phase is satisfied (access).
    Ok,
    /// The response was handed to the output, whole or as far as it went.
    Done,
    /// Answer with this status: an error page, a redirect or an empty answer.
    Status(u16),
    /// Go to another URI.
    Redirect(Redirect),
    /// Close the connection without a word (444), or because it broke; the status is for the log.
    Close(u16),
    /// Not known yet.
    Wait(LocalFuture<'a, Outcome<'static>>),
}

/// Where an internal redirect goes.
#[derive(Debug, Clone)]
pub enum Redirect {
    /// To a URI, searching a location for it anew.
    Uri(Bytes, Bytes),
    /// To a named location, with its `@`.
    Named(Bytes),
}

/// A phase or content handler of one location.
pub trait Handler: Send + Sync {
    /// Handles the request.
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a>;

    /// Where it passes requests, for health checks.
    fn back_end(&self) -> Option<BackEnd<'_>> {
        None
    }

    /// Whether it takes `CONNECT` requests. Others are not asked.
    fn takes_connect(&self) -> bool {
        false
    }
}

/// Where a content handler passes requests.
pub struct BackEnd<'a> {
    /// How.
    pub conf: &'a UpstreamConf,
    /// The group; `None` when it is known for each request only.
    pub group: Option<&'a Arc<Group>>,
    /// Whether answers have a status and headers.
    pub speaks_http: bool,
}

/// Runs when a request is over.
pub trait LogHandler: Send + Sync {
    /// Logs the request.
    fn log(&self, r: &Request);
}

/// How a pass through the phases ended.
pub enum Finish {
    /// The response was handed to the output.
    Done,
    /// The connection cannot go on; the status is for the log.
    Close(u16),
}

/// What the rewrite phase says.
pub enum Rewritten {
    /// Go on.
    Continue,
    /// The URI changed: find the location again.
    Again,
    /// Answer like this.
    Outcome(Outcome<'static>),
}

/// Runs a request that was just read to the end of its response.
pub async fn run(r: &Request) -> Finish {
    if r.is_main() {
        let root = r.exchange.generation.location(r.srv().root);
        for handler in &root.post_read {
            match settle(handler.handle(r)).await {
                Outcome::Declined | Outcome::Ok => {}
                other => return settle_all(r, other).await,
            }
        }
    }
    let outcome = enter_server(r).await;
    settle_all(r, outcome).await
}

/// The same for a request whose head was refused and whose error page is elsewhere.
pub async fn run_from_redirect(r: &Request, redirect: Redirect) -> Finish {
    settle_all(r, Outcome::Redirect(redirect)).await
}

/// Runs a subrequest to the end of its response; one that is a clone goes on where its parent is.
pub async fn run_child(r: &Request, clone: bool) -> Finish {
    let outcome = if clone { content(r).await } else { enter_server(r).await };
    let finish = settle_all(r, outcome).await;
    if matches!(finish, Finish::Done) && r.said.get() == 0 && r.stub.borrow().is_some() {
        let said = say_stub(r).await;
        return settle_all(r, said).await;
    }
    finish
}

/// What a subrequest says instead of an error or of nothing: of its parent's type, so that it is filtered like its parent.
async fn say_stub<'a>(r: &'a Request) -> Outcome<'a> {
    let Some(stub) = r.stub.take() else { return Outcome::Done };
    if !r.header_sent.get() {
        let kind = r.parent.as_ref().and_then(|parent| parent.headers_out.borrow().content_type.clone());
        r.headers_out.borrow_mut().content_type = kind;
        r.headers_out.borrow_mut().status = 200;
    }
    let said = r.send_header().and_then(|()| r.push(Chunk::Bytes(stub), End::Last));
    match said {
        Ok(()) => match r.drained().await {
            Ok(()) => Outcome::Done,
            Err(error) => error.outcome(),
        },
        Err(error) => error.outcome(),
    }
}

async fn settle_all<'a>(r: &'a Request, first: Outcome<'a>) -> Finish {
    let mut outcome = first;
    loop {
        outcome = match outcome {
            Outcome::Done => return Finish::Done,
            Outcome::Close(status) => return Finish::Close(status),
            Outcome::Ok | Outcome::Declined => Outcome::Status(404),
            Outcome::Wait(future) => future.await,
            Outcome::Redirect(redirect) => redirected(r, redirect).await,
            Outcome::Status(_) if r.stub.borrow().is_some() && !r.header_sent.get() => say_stub(r).await,
            Outcome::Status(status) => match special::answer(r, status).await {
                special::Answer::Done => return Finish::Done,
                special::Answer::Close(status) => return Finish::Close(status),
                special::Answer::Redirect(redirect) => Outcome::Redirect(redirect),
            },
        };
    }
}

async fn enter_server<'a>(r: &'a Request) -> Outcome<'a> {
    r.location.set(r.srv().root);
    if let Some(program) = &r.loc().rewrite {
        match program.run(r) {
            Rewritten::Outcome(outcome) => return outcome,
            Rewritten::Again => {
                r.uri_changed.set(false);
                if let Some(outcome) = count_change(r) {
                    return outcome;
                }
            }
            Rewritten::Continue => {}
        }
    }
    find_and_run(r).await
}

fn count_change(r: &Request) -> Option<Outcome<'static>> {
    let left = r.uri_changes.get().saturating_sub(1);
    r.uri_changes.set(left);
    if left == 0 {
        r.log(
            Level::Error,
            format_args!(
                "rewrite or internal redirection cycle while processing \"{}\"",
                String::from_utf8_lossy(&r.uri.borrow())
            ),
        );
        return Some(Outcome::Status(500));
    }
    None
}

async fn redirected<'a>(r: &'a Request, redirect: Redirect) -> Outcome<'a> {
    let left = r.uri_changes.get().saturating_sub(1);
    r.uri_changes.set(left);
    match redirect {
        Redirect::Uri(uri, args) => {
            if left == 0 {
                let shown = String::from_utf8_lossy(&uri).into_owned();
                r.log(
                    Level::Error,
                    format_args!(
                        "rewrite or internal redirection cycle while internally redirecting to \"{shown}\""
                    ),
                );
                return Outcome::Status(500);
            }
            *r.uri.borrow_mut() = uri;
            *r.args.borrow_mut() = args;
            r.internal.set(true);
            r.valid_unparsed_uri.set(false);
            r.gzip_ok.set(None);
            r.headers_out.borrow_mut().vary_accept_encoding = false;
            r.location.set(r.srv().root);
            enter_server(r).await
        }
        Redirect::Named(name) => {
            if left == 0 {
                let shown = String::from_utf8_lossy(&name).into_owned();
                r.log(
                    Level::Error,
                    format_args!(
                        "rewrite or internal redirection cycle while redirect to named location \"{shown}\""
                    ),
                );
                return Outcome::Status(500);
            }
            if r.uri.borrow().is_empty() {
                r.log(Level::Error, format_args!("empty URI in redirect to named location"));
                return Outcome::Status(500);
            }
            let Some(location) = r.srv().named.get(name.as_ref()).copied() else {
                let shown = String::from_utf8_lossy(&name).into_owned();
                r.log(Level::Error, format_args!("could not find named location \"{shown}\""));
                return Outcome::Status(500);
            };
            r.internal.set(true);
            r.location.set(location);
            r.uri_changed.set(false);
            run_location(r).await
        }
    }
}

async fn find_and_run<'a>(r: &'a Request) -> Outcome<'a> {
    if let Some(outcome) = route::find_location(r) {
        return outcome;
    }
    run_location(r).await
}

/// Runs the phases of the location that was found.
async fn run_location<'a>(r: &'a Request) -> Outcome<'a> {
    while let Some(program) = &r.loc().rewrite {
        match program.run(r) {
            Rewritten::Continue => break,
            Rewritten::Outcome(outcome) => return outcome,
            Rewritten::Again => {
                r.uri_changed.set(false);
                if let Some(outcome) = count_change(r) {
                    return outcome;
                }
                if let Some(outcome) = route::find_location(r) {
                    return outcome;
                }
            }
        }
    }
    let location = r.loc();
    for handler in &location.preaccess {
        match settle(handler.handle(r)).await {
            Outcome::Declined | Outcome::Ok => {}
            other => return other,
        }
    }
    if !location.access.is_empty()
        && r.is_main()
        && let Some(outcome) = access(r).await
    {
        return outcome;
    }
    for handler in &location.precontent {
        match settle(handler.handle(r)).await {
            Outcome::Declined => {}
            other => return other,
        }
    }
    content(r).await
}

/// Waits for an outcome that is not known yet.
async fn settle<'a>(outcome: Outcome<'a>) -> Outcome<'a> {
    let mut outcome = outcome;
    while let Outcome::Wait(future) = outcome {
        outcome = future.await;
    }
    outcome
}

/// The access phase: all checks must pass, or with `satisfy any` one.
async fn access<'a>(r: &'a Request) -> Option<Outcome<'a>> {
    let location = r.loc();
    let any = location.core.satisfy == Satisfy::Any;
    let mut refused = None;
    for handler in &location.access {
        match settle(handler.handle(r)).await {
            Outcome::Declined => {}
            Outcome::Ok if any => {
                let mut out = r.headers_out.borrow_mut();
                out.list.remove(b"WWW-Authenticate");
                out.list.remove(b"Proxy-Authenticate");
                return None;
            }
            Outcome::Ok => {}
            Outcome::Status(status @ (401 | 403 | 407)) if any => {
                if status != 403 || refused.is_none() {
                    refused = Some(status);
                }
            }
            other => return Some(other),
        }
    }
    let status = refused?;
    if status == 403 {
        r.log(Level::Error, format_args!("access forbidden by rule"));
    }
    Some(Outcome::Status(status))
}

async fn content<'a>(r: &'a Request) -> Outcome<'a> {
    let location = r.loc();
    if r.method.get() == Method::Connect && !location.takes_connect() {
        return Outcome::Status(405);
    }
    if let Some(handler) = &location.content_handler {
        return match settle(handler.handle(r)).await {
            Outcome::Declined => Outcome::Status(404),
            other => other,
        };
    }
    for handler in &location.content {
        match settle(handler.handle(r)).await {
            Outcome::Declined => {}
            other => return other,
        }
    }
    if r.uri.borrow().ends_with(b"/") {
        let path = crate::modules::static_files::map_path(r, &r.uri.borrow());
        r.log(
            Level::Error,
            format_args!("directory index of \"{}\" is forbidden", String::from_utf8_lossy(&path)),
        );
        return Outcome::Status(403);
    }
    r.log(Level::Error, format_args!("no handler found"));
    Outcome::Status(404)
}
