//! `valid_referers`: whether the `Referer` header names a page that may link here.
//!
//! nginx's counterpart: `ngx_http_referer_module.c`.

use std::sync::Arc;

use headwater_conf::context::{LOCATION, SERVER};
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result, Settings, settings};
use headwater_wire::headers::KnownHeader;

use super::Module;
use super::names::{Names, Refused};
use crate::config::LocationBuilder;
use crate::config::decl::{HttpDecl, ServerName};
use crate::config::ignored::Ignored;
use crate::request::Request;
use crate::script::{Pattern, VariableDef};

const NAME: &str = "ngx_http_referer_module";

/// The module.
pub static MODULE: Module = Module {
    directives: &[DIRECTIVES, RefererSizes::DIRECTIVES],
    variables: VARIABLES,
    init,
    build,
    ..Module::named(NAME)
};

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "valid_referers",
    module: NAME,
    contexts: SERVER.or(LOCATION),
    args: Args::at_least(1),
    syntax: "none | blocked | server_names | string ...",
    default: "",
    doc: "Says which values of the `Referer` header make `$invalid_referer` empty.\n",
    set: valid_referers,
}];

settings! {
    /// Sizes of nginx's hash tables.
    pub struct RefererSizes, raw RefererSizesRaw, module "ngx_http_referer_module" {
        /// Has no meaning here: tables size themselves.
        "referer_hash_max_size", SERVER.or(LOCATION), "size", "2048" => max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: tables size themselves.
        "referer_hash_bucket_size", SERVER.or(LOCATION), "size", "64" => bucket_size: Ignored<1, 1> = Ignored;
    }
}

const VARIABLES: &[VariableDef] = &[VariableDef::new(
    "invalid_referer",
    NAME,
    |r, _, out| {
        if let Some(assigned) = r.extension::<Assigned>() {
            out.extend_from_slice(&assigned.0);
        } else if r.loc().settings::<Referers>().is_some_and(|referers| !referers.allow(r)) {
            out.push(b'1');
        }
        true
    },
    "Empty when the `Referer` header is one of `valid_referers`, otherwise `1`.",
)
.assignable(|r, value| {
    r.set_extension(Assigned(value.to_vec()));
})];

/// What `set $invalid_referer` assigned.
struct Assigned(Vec<u8>);

/// What a block says.
#[derive(Debug, Clone, Default)]
struct Raw {
    set: bool,
    none: bool,
    blocked: bool,
    server_names: bool,
    names: Vec<Vec<u8>>,
    regexes: Vec<Pattern>,
}

/// What holds in a block, as [`Settings`] sees it; `build` makes [`Referers`] of it.
struct Merged;

impl Settings for Merged {
    const INHERITS: bool = true;
    type Raw = Raw;

    fn merge(raw: &mut Raw, outer: &Raw) {
        if !raw.set {
            raw.clone_from(outer);
        } else if raw.regexes.is_empty() {
            raw.regexes.clone_from(&outer.regexes);
        }
    }

    fn resolve(_: &Raw) -> Self {
        Merged
    }
}

fn valid_referers(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    cx.raw::<Raw>().set = true;
    for (index, word) in directive.args.iter().enumerate() {
        let text = word.text.as_slice();
        let shown = word.str();
        match text {
            b"" => return Err(directive.error_at(index, "invalid referer \"\"")),
            b"none" => cx.raw::<Raw>().none = true,
            b"blocked" => cx.raw::<Raw>().blocked = true,
            b"server_names" => cx.raw::<Raw>().server_names = true,
            b"~" => return Err(directive.error_at(index, format!("empty regex in \"{shown}\""))),
            [b'~', source @ ..] => {
                let pattern =
                    Pattern::compile(source, true).map_err(|message| directive.error_at(index, message))?;
                cx.raw::<Raw>().regexes.push(pattern);
            }
            _ => {
                // Its place among the others only tells what is wrong with it.
                let names = cx.raw::<Raw>().names.iter().chain([&word.text]);
                Referers::of_names(names).map_err(|message| directive.error_at(index, message))?;
                cx.raw::<Raw>().names.push(word.text.clone());
            }
        }
    }
    Ok(())
}

/// The referers that are valid in a location.
#[derive(Default)]
struct Referers {
    none: bool,
    blocked: bool,
    hosts: Names,
    /// What the path behind a host starts with.
    paths: Vec<Vec<u8>>,
    server_names: Vec<Pattern>,
    regexes: Vec<Pattern>,
}

impl Referers {
    fn of_names<'n>(names: impl Iterator<Item = &'n Vec<u8>>) -> std::result::Result<Self, String> {
        let mut referers = Self::default();
        for name in names {
            referers.add(name)?;
        }
        Ok(referers)
    }

    /// What a block says, in a server of these names.
    fn of_raw(raw: &Raw, server_names: &[ServerName]) -> std::result::Result<Self, String> {
        let mut referers = Self::of_names(raw.names.iter())?;
        for name in server_names.iter().filter(|_| raw.server_names) {
            match name {
                ServerName::Plain(name) => referers.add(name.as_bytes())?,
                ServerName::Regex(pattern) => referers.server_names.push(pattern.pattern.clone()),
                ServerName::Never => {}
            }
        }
        referers.none = raw.none;
        referers.blocked = raw.blocked;
        referers.regexes.clone_from(&raw.regexes);
        Ok(referers)
    }

    fn add(&mut self, name: &[u8]) -> std::result::Result<(), String> {
        let slash = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
        let (host, path) = name.split_at(slash);
        self.paths.push(path.to_vec());
        let added = self.hosts.add(host, true, self.paths.len().saturating_sub(1));
        added.map_err(|refused| {
            let shown = String::from_utf8_lossy(host);
            match refused {
                Refused::Invalid => format!("invalid hostname or wildcard \"{shown}\""),
                Refused::Conflict => format!("conflicting parameter \"{shown}\""),
            }
        })
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.regexes.is_empty() && self.server_names.is_empty()
    }

    fn allow(&self, r: &Request) -> bool {
        self.allows(r.exchange.head.headers.get_known(KnownHeader::Referer))
    }

    fn allows(&self, referer: Option<&[u8]>) -> bool {
        if self.is_empty() {
            return true;
        }
        let Some(referer) = referer else { return self.none };
        let after = |scheme: &[u8]| {
            let (head, rest) = referer.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        // Anything shorter than this cannot be an address.
        let long_enough = referer.len() >= b"http://i.ru".len();
        let Some(rest) = after(b"http://").or_else(|| after(b"https://")).filter(|_| long_enough) else {
            return self.blocked;
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b':')).unwrap_or(rest.len());
        if end > 256 {
            return false;
        }
        let host = rest.get(..end).unwrap_or_default().to_ascii_lowercase();
        if let Some(index) = self.hosts.find(&host) {
            let path = rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..));
            let wanted = self.paths.get(index).map_or(&[][..], Vec::as_slice);
            return path.unwrap_or_default().starts_with(wanted);
        }
        self.server_names.iter().any(|pattern| pattern.is_match(&host))
            || self.regexes.iter().any(|pattern| pattern.is_match(rest))
    }
}

/// The names of all servers, and what was built last.
#[derive(Default)]
struct Load {
    servers: Vec<Vec<ServerName>>,
    last: Option<(Arc<Raw>, Arc<Referers>)>,
}

fn init(cx: &mut Cx<'_>) -> Result<()> {
    let servers = &cx.state::<HttpDecl>().servers;
    let names = |names: &[(ServerName, Directive)]| names.iter().map(|(name, _)| name.clone()).collect();
    let servers = servers.iter().map(|server| names(&server.names)).collect();
    cx.state::<Load>().servers = servers;
    Ok(())
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let raw = builder.merged::<Merged>();
    if !raw.set {
        return Ok(());
    }
    let server = builder.decl.server;
    // Blocks that say nothing share what the block around them says.
    let load = builder.cx.state::<Load>();
    let referers = match &load.last {
        Some((last, known)) if Arc::ptr_eq(last, &raw) => known.clone(),
        _ => {
            let names = load.servers.get(server.0 as usize).map_or(&[][..], Vec::as_slice);
            match Referers::of_raw(&raw, names) {
                Ok(referers) => Arc::new(referers),
                Err(message) => return Err(builder.error(message)),
            }
        }
    };
    if (raw.none || raw.blocked) && referers.paths.is_empty() {
        return Err(Diagnostic::new(
            "the \"none\" or \"blocked\" referers are specified in the \"valid_referers\" directive without any valid referer",
        ));
    }
    builder.cx.state::<Load>().last = Some((raw, referers.clone()));
    builder.attach(referers);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referers(names: &[&str]) -> Referers {
        let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        Referers::of_names(names.iter()).expect("good names")
    }

    #[test]
    fn allows_hosts_and_paths() {
        let referers = referers(&["*.good.test", "ok.test/path"]);
        let allows = |text: &str| referers.allows(Some(text.as_bytes()));
        assert!(allows("http://a.good.test"));
        assert!(allows("HTTPS://A.GOOD.test:80/x"));
        assert!(!allows("http://good.test/"));
        assert!(allows("http://ok.test:1/pathology"));
        assert!(!allows("http://ok.test/other"));
        assert!(!allows("ftp://a.good.test"));
        assert!(!referers.allows(None));
        assert!(Referers::default().allows(None));
    }

    #[test]
    fn add_bad_or_double_names_are_refused() {
        assert!(Referers::of_names([b"a".to_vec(), b"A/x".to_vec()].iter()).is_err());
        assert!(Referers::of_names([b"a.*.b".to_vec()].iter()).is_err());
    }
}
