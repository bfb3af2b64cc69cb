//! Checks every tracked file against the rules.

use std::path::Path;
use std::process::Command;

use crate::rules;
use crate::source::{code_only, functions};

/// All findings, as `FILE:LINE: text`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for path in tracked(root)? {
        // A file that is tracked but gone, or is not text, has nothing to check.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        words(&path, &text, &mut findings);
        if path.ends_with(".rs") {
            rust(&path, &text, &mut findings);
        } else if path.ends_with("Cargo.toml") {
            dependencies(&path, &text, &mut findings);
        }
    }
    Ok(findings)
}

fn tracked(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn words(path: &str, text: &str, findings: &mut Vec<String>) {
    if path.ends_with("Cargo.lock") {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        for word in rules::WORDS.iter().filter(|word| line.contains(**word)) {
            findings.push(format!("{path}:{}: forbidden word \"{word}\"", index + 1));
        }
    }
}

fn rust(path: &str, text: &str, findings: &mut Vec<String>) {
    let first = text.lines().find(|line| !line.starts_with("#!["));
    if !first.is_some_and(|line| line.starts_with("//!")) {
        findings.push(format!("{path}:1: does not open with //!"));
    }
    let code = code_only(text);
    let product = product_lines(path, &code);
    if product > rules::MAX_FILE {
        findings.push(format!("{path}:{product}: longer than {} lines without its tests", rules::MAX_FILE));
    }
    for function in functions(&code) {
        if function.line <= product && function.lines > rules::MAX_FUNCTION {
            let (name, lines) = (&function.name, function.lines);
            findings.push(format!("{path}:{}: function {name} has {lines} lines", function.line));
        }
    }
    for (index, line) in code.lines().enumerate() {
        let mut report = |text: String| findings.push(format!("{path}:{}: {text}", index + 1));
        for name in rules::MACROS.iter().filter(|name| contains_word(line, name)) {
            report(format!("{name} left behind"));
        }
        if contains_word(line, "unsafe") && !path.starts_with(rules::UNSAFE_ALLOWED) {
            report("unsafe code".to_owned());
        }
        if index < product {
            forbidden(path, line, &mut report);
        }
    }
}

/// How many lines of a file are not tests.
fn product_lines(path: &str, code: &str) -> usize {
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs");
    if is_test || path.contains("testkit") {
        return 0;
    }
    let lines: Vec<&str> = code.lines().collect();
    let tests =
        lines.windows(2).position(|pair| matches!(pair, ["#[cfg(test)]", module] if module.ends_with('{')));
    tests.unwrap_or(lines.len())
}

fn forbidden(path: &str, line: &str, report: &mut impl FnMut(String)) {
    for (place, parts, why) in rules::FORBIDDEN {
        if !path.starts_with(place) {
            continue;
        }
        for part in parts.iter().filter(|part| line.contains(**part)) {
            if !rules::EXCEPTIONS.contains(&(path, part)) {
                report(format!("{part} in {place}: {why}"));
            }
        }
    }
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_name) && (word.ends_with('!') || !after.is_some_and(is_name))
    })
}

fn dependencies(path: &str, text: &str, findings: &mut Vec<String>) {
    let Some((_, forbidden, why)) =
        rules::DEPENDENCIES.iter().find(|(package, _, _)| path == format!("crates/{package}/Cargo.toml"))
    else {
        return;
    };
    let mut section = "";
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line;
        }
        if !section.contains("dependencies") || section.contains("dev-") {
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let hit = |rule: &&&str| match rule.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == **rule,
        };
        if forbidden.iter().find(hit).is_some() {
            findings.push(format!("{path}:{}: depends on {name}: {why}", index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        rust(path, text, &mut findings);
        findings
    }

    #[test]
    fn rust_files_are_held_to_the_rules() {
        assert_eq!(findings("crates/x/src/a.rs", "//! A.\nfn f() { \"unsafe\"; }\n"), [""; 0]);
        assert_eq!(findings("crates/x/src/a.rs", "fn f() {}\n").len(), 1);
        assert_eq!(findings("crates/x/src/a.rs", "//! A.\nfn f() { todo!() }\nunsafe fn g() {}\n").len(), 2);
        assert_eq!(findings("crates/headwater-io/src/a.rs", "//! A.\nunsafe fn g() {}\n").len(), 0);
        let long = format!("//! A.\nfn f() {{\n{}}}\n", "x();\n".repeat(70));
        assert_eq!(findings("crates/x/src/a.rs", &long), ["crates/x/src/a.rs:2: function f has 72 lines"]);
        assert_eq!(findings("crates/x/tests/a.rs", &long).len(), 0);
        let import = "//! A.\nuse std::fs;\n";
        assert_eq!(findings("crates/headwater-wire/src/a.rs", import).len(), 1);
        assert_eq!(findings("crates/headwater-conf/src/source.rs", import).len(), 0);
    }

    #[test]
    fn dependencies_are_held_to_the_directions() {
        let mut found = Vec::new();
        let text = "[dependencies]\nmemchr.workspace = true\ntokio.workspace = true\n[dev-dependencies]\ntokio = \"1\"\n";
        dependencies("crates/headwater-wire/Cargo.toml", text, &mut found);
        assert_eq!(found, ["crates/headwater-wire/Cargo.toml:3: depends on tokio: wire formats are sans-IO"]);
    }
}
