//! What is known of each attempt at a back end, for `$upstream_*`. nginx's counterpart: `ngx_http_upstream_state_t`.

use std::io::Write as _;
use std::sync::Arc;

use headwater_wire::headers::HeaderList;

/// One attempt. Times are milliseconds.
#[derive(Debug, Clone, Default)]
pub struct UpstreamState {
    /// The peer's address, or the group's name when no peer could be had.
    pub peer: Arc<str>,
    /// The status of the answer; 0 when there was none.
    pub status: u16,
    /// From the start of the attempt to the connection; `None` when it was not made.
    pub connect_ms: Option<u64>,
    /// To the end of the answer's head.
    pub header_ms: Option<u64>,
    /// To the end of the answer.
    pub response_ms: Option<u64>,
    /// Body bytes of the answer.
    pub response_length: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Whether the next state belongs to another group (an internal redirect): `:` instead of `,`.
    pub group_end: bool,
}

/// All attempts of one request and the head of the last answer.
#[derive(Default)]
pub struct UpstreamStates {
    /// Attempts in order.
    pub states: Vec<UpstreamState>,
    /// Headers of the last answer.
    pub headers: Option<HeaderList>,
    /// Trailers of the last answer.
    pub trailers: Option<HeaderList>,
}

impl UpstreamStates {
    /// The attempt under way.
    pub fn current(&mut self) -> Option<&mut UpstreamState> {
        self.states.last_mut()
    }

    /// Appends one value per attempt, joined with `, ` and ` : ` as nginx does; `false` when there was none.
    pub fn join(&self, out: &mut Vec<u8>, mut one: impl FnMut(&UpstreamState, &mut Vec<u8>)) -> bool {
        let mut before: Option<&UpstreamState> = None;
        for state in &self.states {
            if let Some(before) = before {
                out.extend_from_slice(if before.group_end { b" : " } else { b", " });
            }
            one(state, out);
            before = Some(state);
        }
        before.is_some()
    }
}

/// Appends milliseconds as seconds, `0.012`; `-` when unknown.
pub fn write_seconds(ms: Option<u64>, out: &mut Vec<u8>) {
    match ms {
        Some(ms) => {
            let _ = write!(out, "{}.{:03}", ms / 1000, ms % 1000);
        }
        None => out.push(b'-'),
    }
}
