//! Whether a failed attempt is followed by another: the one place that decides.
//!
//! Called by `engine`. nginx's counterpart: `ngx_http_upstream_next`, `ngx_http_upstream_test_next`.

use std::time::Instant;

use headwater_wire::method::Method;

use super::peers::Tried;
use super::settings::{NextUpstream, UpstreamConf};
use crate::request::Request;

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Error,
    /// A time ran out.
    Timeout,
    /// The response head was no such.
    InvalidHeader,
    /// No peer is live.
    NoLive,
    /// The back end answered with a status that may mean trouble.
    Status(u16),
}

impl Failure {
    /// The condition of `next_upstream` it belongs to.
    fn condition(self) -> Option<NextUpstream> {
        Some(match self {
            Failure::Error => NextUpstream::ERROR,
            Failure::Timeout => NextUpstream::TIMEOUT,
            Failure::InvalidHeader => NextUpstream::INVALID_HEADER,
            Failure::NoLive => return None,
            Failure::Status(status) => match status {
                500 => NextUpstream::HTTP_500,
                502 => NextUpstream::HTTP_502,
                503 => NextUpstream::HTTP_503,
                504 => NextUpstream::HTTP_504,
                403 => NextUpstream::HTTP_403,
                404 => NextUpstream::HTTP_404,
                429 => NextUpstream::HTTP_429,
                _ => return None,
            },
        })
    }

    /// The status the client gets when there is no other attempt.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Failure::Timeout => 504,
            Failure::Status(status) => status,
            Failure::Error | Failure::InvalidHeader | Failure::NoLive => 502,
        }
    }

    /// Whether the attempt counts as the peer's failure (nginx does not blame it for 403 and 404).
    #[must_use]
    pub fn blames_peer(self) -> bool {
        !matches!(self, Failure::Status(403 | 404) | Failure::NoLive)
    }
}

/// What is known of the attempt that failed.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Whether any byte of the request was written.
    pub request_sent: bool,
    /// Whether the connection was an idle one whose end may have gone unnoticed.
    pub reused: bool,
    /// Whether the client's body can be sent again.
    pub keeps_body: bool,
    /// When the first attempt began.
    pub start: Instant,
}

impl Attempt {
    /// Whether an idle connection turned out to be closed, so that the failure says nothing of the peer.
    #[must_use]
    pub fn was_stale(&self, failure: Failure) -> bool {
        self.reused && failure == Failure::Error
    }
}

/// Whether a status is one that `next_upstream` names, so that the response may be dropped for another attempt.
#[must_use]
pub fn is_named(conf: &UpstreamConf, status: u16) -> bool {
    status >= 300
        && Failure::Status(status).condition().is_some_and(|condition| conf.next_upstream.has(condition))
}

/// Whether to try again.
#[must_use]
pub fn again(
    r: &Request,
    conf: &UpstreamConf,
    tried: &mut Tried,
    attempt: Attempt,
    failure: Failure,
) -> bool {
    if r.header_sent.get() {
        // Bytes went to the client: nothing can be taken back.
        return false;
    }
    if attempt.was_stale(failure) {
        tried.left = tried.left.saturating_add(1);
    }
    let Some(condition) = failure.condition() else { return false };
    let mut needed = condition;
    if attempt.request_sent && matches!(r.method.get(), Method::Post | Method::Lock | Method::Patch) {
        needed = needed.and(NextUpstream::NON_IDEMPOTENT);
    }
    let timeout = conf.next_upstream_timeout;
    let out_of_time = !timeout.is_zero() && attempt.start.elapsed() >= timeout;
    let body_gone = attempt.request_sent && !attempt.keeps_body;
    tried.left > 0 && conf.next_upstream.has(needed) && !out_of_time && !body_gone
}
