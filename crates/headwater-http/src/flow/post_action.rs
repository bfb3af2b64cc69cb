//! `post_action`: a request goes on elsewhere once its client has the response, for accounting and the like; the log has its line after that.
//!
//! Called by `flow::connection`. nginx's counterpart: `ngx_http_post_action`.

use bytes::Bytes;

use super::phases::{Finish, Redirect, run_from_redirect};
use crate::request::Request;

/// The status that closes a connection without a word, and without anything after it.
const CLOSE: u16 = 444;

/// Runs what the request's location says is to follow, for a response that is over; nothing of it reaches the client.
pub(super) async fn run(r: &Request, finish: &Finish) {
    if matches!(finish, Finish::Close(CLOSE)) {
        return;
    }
    r.post_action.set(true);
    r.header_only.set(true);
    let body = &r.exchange.body;
    if !body.is_complete() {
        // What nobody wanted of the client's body is not for the action either.
        if !r.discard_body().await {
            r.exchange.keepalive.set(false);
        }
        body.drop_rest();
    }
    // An action may have another; all together count as changes of the URI, so that there is an end.
    while let Some(uri) = r.loc().core.post_action.as_ref().map(|uri| Bytes::copy_from_slice(uri)) {
        if r.uri_changes.get() == 0 {
            break;
        }
        r.header_sent.set(false);
        *r.body_filters.borrow_mut() = Default::default();
        let redirect = match uri.starts_with(b"/") {
            true => Redirect::Uri(uri, Bytes::new()),
            false => Redirect::Named(uri),
        };
        // However it ends: the client's response is over.
        let _ = run_from_redirect(r, redirect).await;
    }
    r.header_sent.set(true);
}
