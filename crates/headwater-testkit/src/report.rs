//! The differential suite: finds case files, runs them under both servers, reports what differs.
//!
//! Called by `crates/headwater/tests/differential.rs`; calls [`crate::run`]. nginx counterpart: none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::case::{self, Case, CaseFile};
use crate::compare::diff;
use crate::run;

/// What to run.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Directory of the topics.
    pub cases: PathBuf,
    /// The binary under test.
    pub subject: PathBuf,
    /// The nginx that tells what is right.
    pub oracle: PathBuf,
    /// Only cases whose full name, `topic/file: case`, holds this text.
    pub filter: String,
    /// Cases with an expectation of their own run only if the subject is headwater.
    pub with_expectations: bool,
    /// How many files run at once.
    pub jobs: usize,
}

/// The result of one case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// `topic/file: case`.
    pub name: String,
    /// What was wanted.
    pub wanted: String,
    /// The difference, empty when there is none: `-` wanted, `+` got.
    pub difference: String,
}

impl Suite {
    /// Runs every case that the filter lets through.
    ///
    /// # Errors
    /// When a case file cannot be read.
    pub fn run(&self) -> io::Result<Vec<Verdict>> {
        let files = self.files()?;
        let next = AtomicUsize::new(0);
        let verdicts = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let found = self.run_file(file);
                        verdicts.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                    }
                });
            }
        });
        let mut verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
        verdicts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(verdicts)
    }

    fn files(&self) -> io::Result<Vec<CaseFile>> {
        let mut paths = Vec::new();
        for topic in fs::read_dir(&self.cases)? {
            let topic = topic?.path();
            if topic.is_dir() {
                for entry in fs::read_dir(topic)? {
                    paths.push(entry?.path());
                }
            }
        }
        paths.sort();
        let files: io::Result<Vec<CaseFile>> = paths
            .iter()
            .filter(|path| path.extension().is_some_and(|ext| ext == "case"))
            .map(|path| case::read(path))
            .collect();
        let mut files = files?;
        files.retain(|file| file.cases.iter().any(|case| self.wants(file, case)));
        Ok(files)
    }

    fn wants(&self, file: &CaseFile, case: &Case) -> bool {
        (case.expect.is_none() || self.with_expectations)
            && format!("{}: {}", file.name, case.name).contains(&self.filter)
    }

    fn run_file(&self, file: &CaseFile) -> Vec<Verdict> {
        let for_subject = |case: &Case| self.wants(file, case);
        let for_oracle = |case: &Case| case.expect.is_none() && self.wants(file, case);
        let (wanted, got) = thread::scope(|scope| {
            let oracle = scope.spawn(|| run::run(&self.oracle, file, &for_oracle));
            let got = run::run(&self.subject, file, &for_subject);
            (oracle.join().unwrap_or_else(|_| Err(io::Error::other("the run panicked"))), got)
        });
        let (wanted, got) = match (wanted, got) {
            (Ok(wanted), Ok(got)) => (wanted, got),
            (wanted, got) => {
                let errors = [wanted.err(), got.err()].into_iter().flatten();
                let difference = errors.map(|error| format!("{error}\n")).collect();
                return vec![Verdict { name: file.name.clone(), wanted: String::new(), difference }];
            }
        };
        self.judge(file, &wanted, &got)
    }

    fn judge(&self, file: &CaseFile, wanted: &[String], got: &[String]) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for ((case, wanted), got) in file.cases.iter().zip(wanted).zip(got) {
            if self.wants(file, case) {
                let wanted = case.expect.as_ref().unwrap_or(wanted);
                verdicts.push(verdict(file, &case.name, wanted, got));
            }
        }
        let whole_file = file.cases.iter().all(|case| case.expect.is_none() && self.wants(file, case));
        if whole_file {
            let count = file.cases.len();
            for ((log, wanted), got) in file.logs.iter().zip(&wanted[count..]).zip(&got[count..]) {
                verdicts.push(verdict(file, log, wanted, got));
            }
        }
        verdicts
    }
}

fn verdict(file: &CaseFile, case: &str, wanted: &str, got: &str) -> Verdict {
    let same = wanted.trim_end() == got.trim_end() && !wanted.starts_with(run::BROKEN);
    let difference = if same { String::new() } else { diff(wanted, got) };
    Verdict { name: format!("{}: {case}", file.name), wanted: wanted.to_owned(), difference }
}

/// Names of the cases that are known to fail, one a line; `#` starts a comment.
#[must_use]
pub fn known_failures(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Prints the differences (with `SHOW=1` also what was wanted of every case) and a table per topic; true when nothing but known failures failed.
///
/// A known failure that passes is named, so that it is taken off the list.
#[must_use]
pub fn print(verdicts: &[Verdict], known: &[String]) -> bool {
    let mut topics: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut unexpected = Vec::new();
    let show_all = std::env::var_os("SHOW").is_some();
    for verdict in verdicts {
        if show_all {
            println!("\n--- {}\n{}", verdict.name, verdict.wanted);
        }
        let topic = verdict.name.split('/').next().unwrap_or_default();
        let counts = topics.entry(topic).or_default();
        counts.0 += 1;
        let failed = !verdict.difference.is_empty();
        counts.1 += usize::from(failed);
        let is_known = known.contains(&verdict.name);
        if failed && !is_known {
            println!("\n--- {}  (- nginx, + subject)\n{}", verdict.name, verdict.difference);
            unexpected.push(&verdict.name);
        }
        if !failed && is_known {
            println!("passes now, take it off the list of known failures: {}", verdict.name);
        }
    }
    println!("\n{:<16} {:>6} {:>7}", "topic", "cases", "differ");
    for (topic, (count, failed)) in &topics {
        println!("{topic:<16} {count:>6} {failed:>7}");
    }
    let differ: usize = topics.values().map(|counts| counts.1).sum();
    for name in &unexpected {
        println!("differs: {name}");
    }
    println!("known to differ: {}", differ - unexpected.len());
    println!("{} passed, {} failed", verdicts.len() - differ, unexpected.len());
    unexpected.is_empty()
}
