//! Tests of the interpreter: `check` loads a configuration and compares settings or the error with its snippet.

use super::*;
use crate::directive::context::{HTTP, LOCATION, MAIN, SERVER};
use crate::source::MemorySource;
use crate::value::{List, Size, Text};

crate::settings! {
    /// Test settings.
    struct Demo, raw DemoRaw, module "demo" {
        /// A flag.
        "flag", HTTP.or(SERVER), "on | off", "off" => flag: bool = false;
        /// A size.
        "size", HTTP.or(SERVER).or(LOCATION), "size", "8k" => size: Size = Size(8192);
        /// A list.
        "word", HTTP.or(SERVER), "word", "" => words: List<Text> = List::default();
    }
}

const BLOCKS: &[DirectiveDef] = &[
    DirectiveDef {
        name: "http",
        module: "demo",
        contexts: MAIN,
        args: Args::exactly(0).with_block(),
        syntax: "",
        default: "",
        doc: "",
        set: |cx, directive| cx.enter(directive, HTTP).map(drop),
    },
    DirectiveDef {
        name: "nest",
        module: "demo",
        contexts: HTTP,
        args: Args::exactly(0).with_block(),
        syntax: "",
        default: "",
        doc: "",
        set: |cx, directive| cx.enter(directive, HTTP).map(drop),
    },
    DirectiveDef {
        name: "server",
        module: "demo",
        contexts: HTTP,
        args: Args::exactly(0).with_block(),
        syntax: "",
        default: "",
        doc: "",
        set: |cx, directive| {
            let scope = cx.enter(directive, SERVER)?;
            cx.state::<Vec<ScopeId>>().push(scope);
            Ok(())
        },
    },
];

fn load(source: &MemorySource) -> (Result<Vec<Arc<Demo>>>, Files) {
    let registry = Registry::new([BLOCKS, Demo::DIRECTIVES]);
    let mut cx = Cx::new(&registry, source, "/p".into(), "/etc".into());
    let outcome = cx.load(Path::new("/etc/main.conf"), None);
    let servers = cx.take_state::<Vec<ScopeId>>();
    let resolved = servers.into_iter().map(|scope| cx.scopes.resolve::<Demo>(scope)).collect();
    (outcome.map(|()| resolved), cx.files)
}

use std::sync::Arc;

#[track_caller]
fn fails(text: &str, line: &str, snippet_part: &str) {
    let source = MemorySource::new().with("/etc/main.conf", text);
    let (outcome, files) = load(&source);
    let error = outcome.expect_err("must be rejected");
    assert_eq!(error.line(&files), line);
    let snippet = error.snippet(&files);
    assert!(snippet.contains(snippet_part), "{snippet}");
}

#[test]
fn settings_merge_down_and_lists_replace() {
    let source = MemorySource::new()
        .with(
            "/etc/main.conf",
            "http { size 1k; word a; server { include s/*.conf; } server { word b; word c; } server { } }",
        )
        .with("/etc/s/1.conf", "flag on;")
        .with("/etc/s/2.conf", "size 2k;");
    let (outcome, _) = load(&source);
    let servers = outcome.expect("accepted");
    let shown: Vec<_> = servers.iter().map(|s| (s.flag, s.size.0, s.words.len())).collect();
    assert_eq!(shown, [(true, 2048, 1), (false, 1024, 2), (false, 1024, 1)]);
}

#[test]
fn a_block_that_sets_nothing_shares_its_parents_settings() {
    let source = MemorySource::new().with("/etc/main.conf", "http { size 1k; server { } server { } }");
    let servers = load(&source).0.expect("accepted");
    assert!(Arc::ptr_eq(&servers[0], &servers[1]));
}

#[test]
fn errors_are_nginx_lines_with_a_caret() {
    fails(
        "http {\n  flga on;\n}",
        "unknown directive \"flga\" in /etc/main.conf:2",
        "did you mean \"flag\"?",
    );
    fails(
        "flag on;",
        "\"flag\" directive is not allowed here in /etc/main.conf:1",
        " 1 | flag on;\n   | ^^^^\n",
    );
    fails(
        "http { flag on\n off\n; }",
        "invalid number of arguments in \"flag\" directive in /etc/main.conf:3",
        "flag on | off",
    );
    fails(
        "http { flag maybe; }",
        "invalid value \"maybe\" in \"flag\" directive, it must be \"on\" or \"off\" in /etc/main.conf:1",
        "^^^^^",
    );
    fails("http { flag on; flag on; }", "\"flag\" directive is duplicate in /etc/main.conf:1", "^^^^");
    fails("http { size x; }", "\"size\" directive invalid value in /etc/main.conf:1", "^");
    fails("http;", "directive \"http\" has no opening \"{\" in /etc/main.conf:1", "^^^^");
    fails("http { size 1 { } }", "directive \"size\" is not terminated by \";\" in /etc/main.conf:1", "^^^^");
    fails(
        "http {\n include no.conf;\n}",
        "open() \"/etc/no.conf\" failed (2: No such file or directory) in /etc/main.conf:2",
        "^^^^^^^",
    );
}

#[test]
fn errors_come_in_file_order_before_later_syntax_errors() {
    fails("nope;\n}", "unknown directive \"nope\" in /etc/main.conf:1", "^^^^");
    fails(
        "http { size 1k; server { word a;",
        "unexpected end of file, expecting \"}\" in /etc/main.conf:1",
        "^",
    );
}

#[test]
fn a_file_that_includes_itself_is_an_error() {
    fails("http { include main.conf; }", "\"http\" directive is not allowed here in /etc/main.conf:1", "^");
    fails("include main.conf;", "files include each other too deeply in /etc/main.conf:1", "^");
}

#[test]
fn blocks_that_includes_nest_without_end_are_an_error() {
    let text = format!("http {{ {}include n;{} }}", "nest { ".repeat(190), "}".repeat(190));
    let nested = format!("{}include n;{}", "nest { ".repeat(190), "}".repeat(190));
    let source = MemorySource::new().with("/etc/main.conf", text).with("/etc/n", nested);
    let error = load(&source).0.expect_err("must be rejected");
    assert_eq!(error.message, "blocks are nested too deeply");
}

#[test]
fn a_mask_may_match_many_files_that_include_others() {
    let mut source = MemorySource::new()
        .with("/etc/main.conf", "http { include sites/*.conf; }")
        .with("/etc/common", "size 2k;");
    for number in 0..300 {
        source = source.with(format!("/etc/sites/{number}.conf"), "server { include common; }");
    }
    let servers = load(&source).0.expect("accepted");
    assert_eq!(servers.len(), 300);
    assert!(servers.iter().all(|server| server.size.0 == 2048));
}
