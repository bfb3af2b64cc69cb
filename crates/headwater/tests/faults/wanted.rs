//! Differences from nginx that are wanted; each is explained in `docs/differences.md`.

use headwater_testkit::fault::client::{Answer, Client};
use headwater_testkit::fault::matrix::Cell;
use headwater_testkit::fault::world::Outcome;
use headwater_testkit::response::Framing;

/// Why this difference is wanted, if it is.
pub(crate) fn reason(cell: &Cell, ours: &Outcome, nginx: &Outcome) -> Option<&'static str> {
    if keeps_more(ours, nginx) {
        return Some(
            "what came of a response that breaks off is passed on, also what nginx drops with its buffer",
        );
    }
    if cell.mode.starts_with('n') && is_whole(cell, ours) {
        return Some("an unbuffered request body that came whole with its head can be sent again");
    }
    if cell.mode.starts_with('n') && stays_alive(ours, nginx) {
        return Some("a connection that was said to be kept is kept after an early answer");
    }
    let is = |names: &[&str]| names.iter().any(|name| cell.name.ends_with(name));
    let (last, theirs) = (ours.seen.responses.last(), nginx.seen.responses.last());
    if is(HEADLESS)
        && last.is_some_and(|answer| answer.framing != Framing::Broken)
        && ours.seen.end != "timeout"
    {
        return Some("an answer without a valid head gets one, and its end is told");
    }
    if is(INTERIM) && last.is_some_and(|answer| !answer.head.starts_with("HTTP/1.1 10")) {
        return Some("an interim response is none to pass on as the final one, as of nginx 1.29");
    }
    if is(&["unasked 101"]) && last.is_some_and(|answer| answer.head.starts_with("HTTP/1.1 200")) {
        return Some("a 101 that nobody asked for is an interim response");
    }
    if is(&["status 204 with a body"]) && !last.is_some_and(|answer| answer.head.contains("Content-Length")) {
        return Some("a 204 has no Content-Length");
    }
    if is(BAD_CHUNKS) && theirs.is_none() && last.is_some_and(|answer| answer.framing == Framing::Broken) {
        return Some("what came before a wrong chunk is passed on, and visibly broken off");
    }
    None
}

/// Answers whose first line is no status line, or one with an impossible status.
const HEADLESS: &[&str] = &[
    "garbage",
    "garbage like a head",
    "status of two digits",
    "status 000",
    "tls",
    "http 0.9",
    "empty lines",
];
const INTERIM: &[&str] =
    &["one interim", "interim only", "hints", "endless interims", "silent after the interim"];
const BAD_CHUNKS: &[&str] = &[
    "bad chunk size",
    "bad second chunk",
    "huge chunk",
    "chunk over 64 bits",
    "negative chunk",
    "chunk without end",
];

/// Whether all is the same but that the last body breaks off later.
fn keeps_more(ours: &Outcome, nginx: &Outcome) -> bool {
    let (Some((last, before)), Some((theirs, theirs_before))) =
        (ours.seen.responses.split_last(), nginx.seen.responses.split_last())
    else {
        return false;
    };
    let breaks = |answer: &Answer| matches!(answer.framing, Framing::Broken | Framing::Close);
    before == theirs_before
        && last.head == theirs.head
        && last.framing == theirs.framing
        && breaks(last)
        && last.body.starts_with(&theirs.body)
        && (ours.seen.end, &ours.asked) == (nginx.seen.end, &nginx.asked)
        && ours.seen.end == "closed"
}

/// Whether the second peer got the body that the first one failed on.
fn is_whole(cell: &Cell, ours: &Outcome) -> bool {
    let whole = matches!(cell.client, Client::Post(100_000) | Client::PutChunked(100_000));
    let good = ours.seen.responses.last().is_some_and(|answer| answer.body == b"right");
    cell.mode == "n2" && whole && good && ours.asked.iter().any(|text| text == "B body 100000")
}

/// Whether the only difference is that the connection lives on, as the response said.
fn stays_alive(ours: &Outcome, nginx: &Outcome) -> bool {
    let says = |answer: &Answer| answer.head.contains("Connection: keep-alive");
    ours.seen.responses == nginx.seen.responses
        && ours.asked == nginx.asked
        && ours.seen.responses.last().is_some_and(says)
        && (ours.seen.end, nginx.seen.end) == ("alive", "closed")
}
