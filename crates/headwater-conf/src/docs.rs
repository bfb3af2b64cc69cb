//! `docs/directives.md` from the records.

use std::fmt::Write as _;

use crate::interpret::Registry;

/// Every directive, grouped by module, as Markdown.
#[must_use]
pub fn directives_markdown(registry: &Registry) -> String {
    let mut out = String::from(
        "# Directives\n\nGenerated from the records in the code. A directive that is not here is an `unknown directive` error.\n",
    );
    let mut module = "";
    for record in registry.all() {
        if record.module != module {
            module = record.module;
            let _ = writeln!(out, "\n## {module}");
        }
        let block = if record.args.block { " { … }" } else { ";" };
        let space = if record.syntax.is_empty() { "" } else { " " };
        let _ = writeln!(out, "\n### {}\n", record.name);
        for form in record.syntax.split(" ;; ") {
            let _ = writeln!(out, "- syntax: `{}{space}{form}{block}`", record.name);
        }
        if !record.default.is_empty() {
            let _ = writeln!(out, "- default: `{}`", record.default);
        }
        let _ = writeln!(out, "- context: {}\n", record.contexts.names().join(", "));
        let doc: Vec<&str> = record.doc.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let _ = writeln!(out, "{}", doc.join(" "));
    }
    out
}
