//! The callbacks of a protocol are balanced, whatever its back end, its client or itself does.
//!
//! This program is both the tests and the server under test: with a server's command line it serves, with a module whose protocol notes every call. The
//! cells of the fault matrix run through it; for each the calls must be those that `upstream/protocol.rs` promises: created once, begun
//! anew before each further attempt, finished exactly once, aborted when the client leaves or a callback panics. `CELL=text` runs some cells.

#![allow(clippy::expect_used, clippy::panic, reason = "what does not work fails the test")]

#[path = "balance/probe.rs"]
mod probe;
#[path = "balance/rules.rs"]
mod rules;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::fault::catalogue;
use headwater_testkit::fault::client::Client;
use headwater_testkit::fault::matrix::{self, Cell};
use headwater_testkit::fault::script::{Kind, Script};
use headwater_testkit::fault::world::World;

/// Callbacks that a request can be told to panic in.
const CALLBACKS: &[&str] = &[
    "create_request",
    "reinit_request",
    "process_header",
    "input_filter_init",
    "input_filter",
    "input_end",
    "finalize_request",
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "-p") {
        return probe::serve(args);
    }
    // `cargo test NAME` and `--list` reach every test binary; this one has no tests of that kind.
    if args.iter().any(|arg| arg == "--list" || !arg.to_string_lossy().starts_with('-')) {
        return ExitCode::SUCCESS;
    }
    let scripts = Arc::new(catalogue::all());
    let world = World::start(&std::env::current_exe().expect("a path"), &probe::conf(), true, &scripts)
        .expect("it starts");
    let mut wrong = every_cell(&world, &scripts);
    wrong.extend(clients_that_leave(&world, &scripts));
    wrong.extend(panics(&world, &scripts));
    wrong.truncate(40);
    wrong.iter().for_each(|line| println!("{line}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every cell of the matrix: the order and the number of calls.
fn every_cell(world: &World, scripts: &Arc<Vec<Script>>) -> Vec<String> {
    let kinds = [Kind::Cut, Kind::Odd, Kind::Tunnel, Kind::Large, Kind::Body];
    let filter = std::env::var("CELL").unwrap_or_default();
    let mut cells = matrix::cells(scripts, &kinds);
    cells.retain(|cell| !cell.mode.starts_with('n') && cell.name.contains(&filter));
    let outcomes = world.play(&cells, 16);
    let mut wrong = Vec::new();
    for (cell, (number, outcome)) in cells.iter().zip(&outcomes) {
        let calls = calls(world, *number).expect("it answers");
        let attempts = outcome.asked.iter().filter(|text| !text.contains(" body ")).count();
        let attempts = match cell.mode {
            "dead1" | "stuck1" => 1,
            "dead2" | "stuck2" => 2,
            _ => attempts,
        };
        if let Err(text) = rules::check(&calls, Some(attempts), false) {
            wrong.push(format!("{}: {text}: {calls}; {outcome:?}", cell.name));
        }
    }
    println!("{} cells", cells.len());
    wrong
}

fn script(scripts: &[Script], name: &str) -> usize {
    scripts.iter().position(|script| script.name == name).expect("there is such a script")
}

/// A client that leaves while the request is under way, at different points.
fn clients_that_leave(world: &World, scripts: &[Script]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (mode, name) in [
        ("b1", "silent"),
        ("b1", "silent in the head"),
        ("b1", "silent in the body"),
        ("u2", "silent in the body"),
        ("stuck1", "good"),
        ("u1", "large length whole"),
        ("t2", "large length hangs"),
    ] {
        let cell =
            Cell { mode, client: Client::Slow11, script: script(scripts, name), name: name.to_owned() };
        let number = world.leave(&cell, Duration::from_millis(60));
        let calls = finished(world, number);
        if let Err(text) = rules::check(&calls, None, true) {
            wrong.push(format!("client left, {mode} {name}: {text}: {calls}"));
        }
    }
    wrong
}

/// Each callback panics once: the client gets a 500 or a broken response, all others are served.
fn panics(world: &World, scripts: &[Script]) -> Vec<String> {
    let mut wrong = Vec::new();
    for mode in ["b2", "u2"] {
        for callback in CALLBACKS {
            let name = match *callback {
                "reinit_request" => "silent",
                "input_end" => "close closed at 39",
                _ => "good",
            };
            let alerts = world.log().matches("a request panicked").count();
            let (number, answer) =
                ask(world, mode, script(scripts, name), &format!("?panic={callback}")).expect("it answers");
            let calls = finished(world, number);
            let early = ["create_request", "reinit_request", "process_header"].contains(callback);
            if early && !answer.starts_with("HTTP/1.1 500 ") {
                wrong.push(format!("{callback} panics in {mode}: {answer:?}"));
            }
            if !early && *callback != "finalize_request" && answer.ends_with("right") {
                wrong.push(format!("{callback} panics in {mode} and the answer looks whole: {answer:?}"));
            }
            let aborts = *callback != "finalize_request";
            if let Err(text) = rules::check(&calls, None, aborts) {
                wrong.push(format!("{callback} panics in {mode}: {text}: {calls}"));
            }
            if world.log().matches("a request panicked").count() != alerts + 1 {
                wrong.push(format!("{callback} panics in {mode}: no alert"));
            }
        }
    }
    // What panics on the way out must not take the process along.
    for (mode, what) in [("b1", "process_header,abort_request"), ("b1", "process_header,finalize_request")] {
        let answer = ask(world, mode, script(scripts, "good"), &format!("?panic={what}"));
        if !answer.is_ok_and(|(_, answer)| answer.starts_with("HTTP/1.1 500 ")) {
            wrong.push(format!("{what} panic together: no 500"));
        }
    }
    let cell =
        Cell { mode: "b1", client: Client::Slow11, script: script(scripts, "silent"), name: String::new() };
    let number = world.leave_with(&cell, "?panic=abort_request", Duration::from_millis(60));
    let calls = finished(world, number);
    if let Err(text) = rules::check(&calls, None, true) {
        wrong.push(format!("abort_request panics: {text}: {calls}"));
    }
    match ask(world, "b1", script(scripts, "good"), "") {
        Ok((_, answer)) if answer.ends_with("right") => {}
        other => wrong.push(format!("after the panics: {other:?}")),
    }
    wrong
}

/// Asks once; the cell's number and the answer as text, to the close.
fn ask(world: &World, mode: &str, script: usize, args: &str) -> io::Result<(u32, String)> {
    let number = world.next_number();
    let answer = get(world.port(), &format!("/{mode}/{number}/{script}{args}"))?;
    Ok((number, answer))
}

fn get(port: u16, uri: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {uri} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The calls of a cell so far, one letter each.
fn calls(world: &World, number: u32) -> io::Result<String> {
    let answer = get(world.port(), &format!("/calls?cell={number}"))?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
}

/// The calls of a cell when its request is over.
fn finished(world: &World, number: u32) -> String {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let calls = calls(world, number).unwrap_or_default();
        if calls.ends_with('F') || Instant::now() >= end {
            return calls;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
