//! Configuration: no panic, spans inside the input, and interpreting with a tiny registry ends in settings or in a message.
//! A zero byte divides the input into the main file and a file that it can include.
#![no_main]

use std::path::Path;

use headwater_conf::directive::context::{HTTP, LOCATION, MAIN, SERVER};
use headwater_conf::parse::{Block, Span, Word, parse};
use headwater_conf::value::{List, Milliseconds, Offset, Size, Text};
use headwater_conf::{Args, Cx, Diagnostic, DirectiveDef, MemorySource, Registry, ScopeId};
use libfuzzer_sys::fuzz_target;

headwater_conf::settings! {
    /// One value of each kind.
    struct Demo, raw DemoRaw, module "demo" {
        /// A flag.
        "flag", HTTP.or(SERVER), "on | off", "off" => flag: bool = false;
        /// A size.
        "size", HTTP.or(SERVER).or(LOCATION), "size", "8k" => size: Size = Size(8192);
        /// An offset.
        "offset", HTTP.or(SERVER).or(LOCATION), "size", "0" => offset: Offset = Offset(0);
        /// A time.
        "time", HTTP.or(SERVER).or(LOCATION), "time", "60s" => time: Milliseconds = Milliseconds::from_secs(60);
        /// A list.
        "word", HTTP.or(SERVER), "word", "" => words: List<Text> = List::default();
    }
}

const fn record(name: &'static str, args: Args) -> DirectiveDef {
    DirectiveDef {
        name,
        module: "demo",
        contexts: MAIN,
        args: args.with_block(),
        syntax: "",
        default: "",
        doc: "",
        set: |cx, directive| cx.enter(directive, HTTP).map(drop),
    }
}

const BLOCKS: &[DirectiveDef] = &[
    record("http", Args::exactly(0)),
    DirectiveDef {
        contexts: HTTP,
        set: |cx, directive| {
            let scope = cx.enter(directive, SERVER)?;
            cx.state::<Vec<ScopeId>>().push(scope);
            Ok(())
        },
        ..record("server", Args::exactly(0))
    },
    DirectiveDef {
        contexts: SERVER.or(LOCATION),
        set: |cx, directive| {
            let scope = cx.enter(directive, LOCATION)?;
            cx.state::<Vec<ScopeId>>().push(scope);
            Ok(())
        },
        ..record("location", Args::range(1, 2))
    },
    DirectiveDef {
        contexts: HTTP,
        set: |cx, directive| {
            for entry in cx.entries(directive)? {
                let _ = (entry.name(), entry.arg(0), entry.position());
            }
            Ok(())
        },
        ..record("map", Args::at_least(1))
    },
];

fn check_span(span: Span, input: &[u8]) {
    assert!(span.start <= span.end && span.end as usize <= input.len());
    let before = &input[..span.start as usize];
    assert_eq!(span.line as usize, 1 + before.iter().filter(|&&byte| byte == b'\n').count());
}

fn check_word(word: &Word, input: &[u8]) {
    check_span(word.span, input);
    assert!(word.text.len() <= (word.span.end - word.span.start) as usize);
}

fn check_error(error: &Diagnostic, input: &[u8]) {
    if let Some(span) = error.span {
        check_span(span, input);
    }
}

fn check_tree(block: &Block, input: &[u8]) {
    for item in &block.items {
        check_word(&item.name, input);
        item.args.iter().for_each(|word| check_word(word, input));
        if let Some(inner) = &item.block {
            check_tree(inner, input);
        }
    }
    if let Some(error) = &block.error {
        check_error(error, input);
    }
}

fuzz_target!(|data: &[u8]| {
    check_tree(&parse(0, data), data);
    let mut files = data.splitn(2, |&byte| byte == 0);
    let source = MemorySource::new()
        .with("/etc/main.conf", files.next().unwrap_or_default())
        .with("/etc/other.conf", files.next().unwrap_or_default());
    let registry = Registry::new([BLOCKS, Demo::DIRECTIVES]);
    let mut cx = Cx::new(&registry, &source, "/p".into(), "/etc".into());
    match cx.load(Path::new("/etc/main.conf"), None) {
        Ok(()) => {
            for scope in cx.take_state::<Vec<ScopeId>>() {
                let _ = cx.scopes.resolve::<Demo>(scope);
            }
        }
        Err(error) => {
            assert!(!error.line(&cx.files).is_empty());
            let _ = error.snippet(&cx.files);
        }
    }
});
