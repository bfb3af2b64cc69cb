//! What is known of a peer at one moment, for whoever shows it.
//!
//! Made by `Group::snapshot`. nginx's counterpart: the peers of the API's `/http/upstreams`.

use std::sync::Arc;

use super::Peer;
use super::health::{CheckTotals, Standing};
use super::state::PeerState;

/// Whether a peer is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerStatus {
    /// It is.
    Up,
    /// `down`.
    Down,
    /// `drain`: by requests that are bound to it.
    Draining,
    /// Not until `fail_timeout` after its last failure.
    Unavailable,
    /// Not until a health check has passed for the first time.
    Checking,
    /// Not until health checks pass again.
    Unhealthy,
}

/// A peer with its counters.
#[derive(Debug, Clone)]
pub struct PeerSnapshot {
    /// Names the peer as long as it is in the group.
    pub id: usize,
    /// The settings.
    pub peer: Arc<Peer>,
    /// Whether it is a backup.
    pub backup: bool,
    /// Whether it is chosen.
    pub status: PeerStatus,
    /// Connections in use.
    pub active: u32,
    /// Requests that it was chosen for.
    pub requests: u64,
    /// Answers by the first digit of their status, from 1.
    pub responses: [u64; 5],
    /// Attempts that failed.
    pub fails: u64,
    /// How often it became unavailable.
    pub unavailable: u64,
    /// Bytes sent to it and received from it.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Average time until the head of an answer, milliseconds; `None` before the first one.
    pub header_ms: Option<f64>,
    /// Average time until the end of an answer, milliseconds.
    pub response_ms: Option<f64>,
    /// Counters of health checks; nothing where there are none.
    pub health: Option<CheckTotals>,
    /// Milliseconds since it was chosen last.
    pub selected_ms_ago: Option<u64>,
}

fn verdict(state: &PeerState) -> PeerStatus {
    match state.health.as_ref().map(|health| health.verdict()) {
        Some(Standing::Checking) => PeerStatus::Checking,
        _ => PeerStatus::Unhealthy,
    }
}

pub(super) fn of(peer: &Arc<Peer>, state: &PeerState, id: usize, backup: bool, now: u64) -> PeerSnapshot {
    let status = if peer.down {
        PeerStatus::Down
    } else if let Some(barred) = state.is_barred().then(|| verdict(state)) {
        barred
    } else if peer.drain {
        PeerStatus::Draining
    } else if state.is_failing(peer, now) {
        PeerStatus::Unavailable
    } else {
        PeerStatus::Up
    };
    let totals = &state.totals;
    PeerSnapshot {
        id,
        peer: peer.clone(),
        backup,
        status,
        active: state.connections,
        requests: totals.requests,
        responses: totals.responses,
        fails: totals.fails,
        unavailable: totals.unavailable,
        sent: totals.sent,
        received: totals.received,
        header_ms: state.header.average_ms(),
        response_ms: state.response.average_ms(),
        health: state.health.as_ref().map(|health| health.totals),
        selected_ms_ago: totals.selected.map(|then| now.saturating_sub(then)),
    }
}
