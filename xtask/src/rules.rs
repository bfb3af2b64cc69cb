//! The rules as data: which packages may depend on which, what each directory may name, words that no file may contain.

/// Packages that a package must not depend on, in any section of its `Cargo.toml`; `headwater-*` stands for all of ours.
pub(crate) const DEPENDENCIES: &[(&str, &[&str], &str)] = &[
    ("headwater-wire", &["tokio", "headwater-*"], "wire formats are sans-IO"),
    ("headwater-conf", &["tokio", "headwater-*"], "the configuration language knows nothing of its users"),
    ("headwater-io", &["headwater-*"], "descriptors know nothing of HTTP"),
    ("headwater-http", &["headwater", "clap"], "the library knows nothing of its program"),
];

/// Code that must not appear below a directory (or in a file), and why. A part that starts with `crate::` is an import direction.
pub(crate) const FORBIDDEN: &[(&str, &[&str], &str)] = &[
    ("crates/headwater-wire/src", &["std::fs", "std::net::Tcp", "std::io::Read", "async fn"], "sans-IO"),
    ("crates/headwater-conf/src", &["async fn"], "configuration is read synchronously"),
    ("crates/headwater-http/src/config", &["std::fs::", "File::open"], "files are read through a Source"),
    (
        "crates/headwater-http/src/script",
        &["crate::flow::worker", "crate::flow::accept"],
        "scripts see a request only",
    ),
    (
        "crates/headwater-http/src/filters",
        &["crate::flow::accept", "crate::flow::read_head", "crate::upstream"],
        "a filter sees the response only",
    ),
    (
        "crates/headwater-http/src/modules",
        &["crate::flow::accept", "crate::flow::read_head"],
        "modules are called, they do not drive",
    ),
    (
        "crates/headwater-http/src/upstream",
        &["crate::modules::proxy", "crate::modules::fastcgi"],
        "the engine knows protocols by their trait only",
    ),
];

/// Files that may break a rule of [`FORBIDDEN`], with the part.
pub(crate) const EXCEPTIONS: &[(&str, &str)] = &[("crates/headwater-conf/src/source.rs", "std::fs")];

/// Macros that must not be left behind.
pub(crate) const MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// The package that may use `unsafe`.
pub(crate) const UNSAFE_ALLOWED: &str = "crates/headwater-io/";

/// Longest file without its tests, lines.
pub(crate) const MAX_FILE: usize = 600;

/// Longest function, lines.
pub(crate) const MAX_FUNCTION: usize = 70;

/// Words that belong to one machine or one network, split here so that this file passes.
pub(crate) const WORDS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("index.cra", "tes.io"),
    concat!("static.cra", "tes.io"),
    concat!("registry.np", "mjs.org"),
    concat!("deb.deb", "ian.org"),
];
