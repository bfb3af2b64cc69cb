//! The differential suite: every case under `tests/differential` gives the same under nginx and headwater.
//!
//! Environment: `CASE=text` runs the cases whose name holds the text; `SUBJECT=path` tests another binary
//! (`oracle`: nginx against itself); `JOBS=n` files at once; `KEEP=1` leaves the servers' directories;
//! `SHOW=1` prints what nginx gave for every case.

use std::env;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use headwater_testkit::oracle;
use headwater_testkit::report::{self, Suite};
use headwater_testkit::subject;

fn main() -> io::Result<ExitCode> {
    // `cargo test NAME` and `--list` reach every test binary; this one has no tests of that kind.
    if env::args().skip(1).any(|arg| arg == "--list" || !arg.starts_with('-')) {
        return Ok(ExitCode::SUCCESS);
    }
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential");
    let oracle = oracle::nginx()?;
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater")))?;
    let with_expectations = subject.is_headwater;
    let subject = subject.path;
    let jobs = env::var("JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let filter = env::var("CASE").unwrap_or_default();
    let known_file = if with_expectations { "known-failures.txt" } else { "none" };
    let known = report::known_failures(&cases.join(known_file));
    let suite = Suite { cases, subject, oracle, filter, with_expectations, jobs };
    println!("subject: {}", suite.subject.display());
    let passed = report::print(&suite.run()?, &known);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
