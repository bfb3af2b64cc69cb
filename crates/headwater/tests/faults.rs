//! The fault matrix: whatever a back end does, the client sees what it would see through nginx, and nothing stays behind.
//!
//! Every cell is a location (buffered or not, with another peer or without, by which framing), a client and a script of the back end. All
//! cells run through nginx 1.28 and through Headwater at the same time; what the client got and what the back ends were asked must be the same.
//! Cells that differ run again one by one, so that a busy machine is not taken for a difference. Environment: `CELL=text` runs the cells whose
//! name holds the text and shows what came of them.

#![allow(clippy::expect_used, clippy::panic, reason = "what does not work fails the test")]

#[path = "faults/wanted.rs"]
mod wanted;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use headwater_testkit::fault::catalogue;
use headwater_testkit::fault::client::Client;
use headwater_testkit::fault::matrix::{self, CONF, Cell};
use headwater_testkit::fault::script::Kind;
use headwater_testkit::fault::usage;
use headwater_testkit::fault::world::{Outcome, World};
use headwater_testkit::{oracle, subject};

/// How often a cell that differs is played again, alone.
const ROUNDS: usize = 3;

/// Both servers, and the cells.
struct Suite {
    ours: World,
    nginx: World,
    cells: Vec<Cell>,
}

impl Suite {
    fn start(kinds: &[Kind]) -> Self {
        let scripts = Arc::new(catalogue::all());
        let filter = std::env::var("CELL").unwrap_or_default();
        let mut cells = matrix::cells(&scripts, kinds);
        cells.retain(|cell| cell.name.contains(&filter));
        let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
        let nginx = oracle::nginx().expect("the oracle");
        let ours = World::start(&subject.path, CONF, subject.is_headwater, &scripts).expect("it starts");
        let nginx = World::start(&nginx, CONF, false, &scripts).expect("nginx starts");
        Self { ours, nginx, cells }
    }

    /// Plays all cells and fails with those that differ.
    fn check(&self, threads: usize) {
        let shows = std::env::var_os("CELL").is_some();
        let start = Instant::now();
        let (ours, nginx) = thread::scope(|scope| {
            let nginx = scope.spawn(|| self.nginx.play(&self.cells, threads));
            let ours = self.ours.play(&self.cells, threads);
            (ours, nginx.join().expect("nginx's clients"))
        });
        println!("played in {:?}", start.elapsed());
        let mut differ = Vec::new();
        for (cell, ((_, ours), (_, nginx))) in self.cells.iter().zip(ours.into_iter().zip(nginx)) {
            if shows {
                println!("{}\n  {ours:?}\n  {nginx:?}", cell.name);
            }
            if ours != nginx && wanted::reason(cell, &ours, &nginx).is_none() {
                self.again(cell, ours, nginx, &mut differ);
            }
        }
        assert!(
            differ.is_empty(),
            "{} of {} cells differ:\n{}",
            differ.len(),
            self.cells.len(),
            differ.join("\n")
        );
        println!("{} cells in {:?}", self.cells.len(), start.elapsed());
    }

    /// Plays a cell alone until Headwater does what nginx did in some round.
    fn again(&self, cell: &Cell, ours: Outcome, nginx: Outcome, differ: &mut Vec<String>) {
        let last = format!("{}\n  headwater {ours:?}\n  nginx     {nginx:?}", cell.name);
        let known = |outcome: Outcome| format!("{outcome:?}");
        let (mut our_ways, mut their_ways) = (BTreeSet::from([known(ours)]), BTreeSet::from([known(nginx)]));
        // Many differences at once are no accident.
        let rounds = if differ.len() < 20 { ROUNDS } else { 0 };
        for _ in 0..rounds {
            let ((_, ours), (_, nginx)) = (self.ours.one(cell), self.nginx.one(cell));
            if ours == nginx || wanted::reason(cell, &ours, &nginx).is_some() {
                return;
            }
            our_ways.insert(known(ours));
            their_ways.insert(known(nginx));
            if our_ways.intersection(&their_ways).next().is_some() {
                return;
            }
        }
        differ.push(last);
    }
}

#[test]
fn responses_cut_reset_or_split_at_every_byte_like_nginx() {
    Suite::start(&[Kind::Cut]).check(24);
}

#[test]
fn odd_heads_lengths_and_silences_like_nginx() {
    Suite::start(&[Kind::Odd]).check(24);
}

#[test]
fn tunnels_like_nginx() {
    Suite::start(&[Kind::Tunnel]).check(24);
}

#[test]
fn large_responses_with_temp_files_like_nginx() {
    Suite::start(&[Kind::Large]).check(12);
}

#[test]
fn request_bodies_like_nginx() {
    Suite::start(&[Kind::Body]).check(8);
}

#[test]
fn connections_that_are_kept_like_nginx() {
    // One at a time: which idle connection a request gets must be certain.
    Suite::start(&[Kind::Keep]).check(1);
}

/// After a warm-up, further rounds of everything leave no descriptor, no file and no memory behind.
#[test]
fn nothing_is_left_behind_after_any_fault() {
    let scripts = Arc::new(catalogue::all());
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
    let world = World::start(&subject.path, CONF, subject.is_headwater, &scripts).expect("it starts");
    let kinds = [Kind::Cut, Kind::Odd, Kind::Tunnel, Kind::Large, Kind::Body];
    let all = matrix::cells(&scripts, &kinds);
    // It listens before its worker has opened all that it needs; it has when it answered.
    let _ = world.play(&all[..4], 1);
    thread::sleep(Duration::from_millis(300));
    let idle = usage::descriptors(world.pid()).expect("it runs");
    let cells: Vec<Cell> = all.iter().step_by(11).cloned().collect();
    let mut sizes = Vec::new();
    for round in 0..7 {
        let _ = world.play(&cells, 24);
        for cell in cells.iter().step_by(5).filter(|cell| !matches!(cell.client, Client::Post(_))) {
            world.leave(cell, Duration::from_millis(5));
        }
        let now = usage::settle(world.pid(), idle, Duration::from_secs(8)).expect("it runs");
        assert!(now <= idle, "{now} descriptors after round {round}, {idle} before");
        assert_eq!(world.temp_files(), 0, "temp files after round {round}");
        sizes.push(usage::resident(world.pid()).expect("it runs"));
    }
    let grown = sizes[6].saturating_sub(sizes[3]);
    println!("memory: {sizes:?}");
    assert!(grown < 6 << 20, "memory grew: {sizes:?}");
}
