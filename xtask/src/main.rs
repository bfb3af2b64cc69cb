//! Repository chores: `cargo run -p xtask -- docs` writes the generated documents, `-- check` verifies them and the tidy rules.
//!
//! `check` needs `git` for the list of files; it prints every finding as `FILE:LINE: text` and fails when there is one.

mod docs;
mod rules;
mod source;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let root = root();
    let outcome = match task.as_deref() {
        Some("docs") => docs::write(&root).map(|()| Vec::new()),
        Some("check") => check(&root),
        _ => {
            eprintln!("usage: cargo run -p xtask -- docs | check");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                eprintln!("{finding}");
            }
            eprintln!("{} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = docs::check(root);
    findings.extend(tidy::check(root)?);
    Ok(findings)
}

/// The repository's root: this package's parent.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}
