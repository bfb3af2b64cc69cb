//! `docs/directives.md` and `docs/variables.md`, from the records in the code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The generated documents: path and text.
fn documents() -> [(&'static str, String); 2] {
    let registry = headwater_http::config::build::registry();
    [
        ("docs/directives.md", headwater_conf::docs::directives_markdown(&registry)),
        ("docs/variables.md", variables_markdown()),
    ]
}

fn variables_markdown() -> String {
    let mut by_module: BTreeMap<&str, BTreeMap<String, &str>> = BTreeMap::new();
    for variable in headwater_http::modules::MODULES.iter().flat_map(|module| module.variables) {
        let star = if variable.prefix { "*name*" } else { "" };
        let name = format!("`${}`{star}", variable.name);
        by_module.entry(variable.module).or_default().insert(name, variable.doc);
    }
    let mut out = String::from("# Variables\n\nGenerated from the records in the code.\n");
    for (module, variables) in by_module {
        let _ = writeln!(out, "\n## {module}\n\n| variable | value |\n|---|---|");
        for (name, doc) in variables {
            let doc = doc.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            let _ = writeln!(out, "| {name} | {doc} |");
        }
    }
    out
}

/// Writes them.
pub(crate) fn write(root: &Path) -> Result<(), String> {
    for (path, text) in documents() {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
        }
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Finds those that are out of date.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let stale =
        |(path, text): &(&str, String)| std::fs::read_to_string(root.join(path)).ok().as_ref() != Some(text);
    let finding = |(path, _)| format!("{path}: out of date; run `cargo run -p xtask -- docs`");
    documents().into_iter().filter(stale).map(finding).collect()
}
