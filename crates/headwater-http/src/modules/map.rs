//! `map`: a variable whose value depends on another text, by exact names, wildcard host names or regular expressions.
//!
//! nginx's counterpart: `ngx_http_map_module.c`, `ngx_http_map_find`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::HTTP;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, settings};

use super::Module;
use super::names::{Names, Refused, ResultIndex};
use crate::config::ignored::Ignored;
use crate::request::{PatternWithNames, Request};
use crate::script::pattern_list::PatternList;
use crate::script::variables::variable_name;
use crate::script::{Complex, VariableSource, Variables};

/// `ngx_http_map_module`.
pub static MODULE: Module =
    Module { directives: &[DIRECTIVES, MapSettings::DIRECTIVES], ..Module::named("ngx_http_map_module") };

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "map",
    module: "ngx_http_map_module",
    contexts: HTTP,
    args: Args::exactly(2).with_block(),
    syntax: "string $variable",
    default: "",
    doc: "Makes a variable whose value depends on a string. Inside: `value result` pairs, where a value that starts with `~` is a regular expression, and `default`, `hostnames`, `volatile`, `include`.\n",
    set: map,
}];

settings! {
    /// Sizes of nginx's hash tables.
    pub struct MapSettings, raw MapRaw, module "ngx_http_map_module" {
        /// Has no meaning here: map tables size themselves.
        "map_hash_max_size", HTTP, "size", "2048" => max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: map tables size themselves.
        "map_hash_bucket_size", HTTP, "size", "64" => bucket_size: Ignored<1, 1> = Ignored;
    }
}

#[derive(Default)]
struct Map {
    text: Option<Complex>,
    names: Names,
    regexes: PatternList<ResultIndex>,
    results: Vec<Complex>,
    default: Option<ResultIndex>,
    hostnames: bool,
    volatile: bool,
}

impl VariableSource for Map {
    fn value(&self, r: &Request, out: &mut Vec<u8>) -> bool {
        let Some(text) = &self.text else { return true };
        let text = text.value(r);
        let key = if self.hostnames { text.strip_suffix(b".").unwrap_or(&text) } else { &text };
        let found = self.names.find(key).or_else(|| self.find_regex(r, key)).or(self.default);
        // No result and no default: an empty value, not a missing one.
        if let Some(result) = found.and_then(|index| self.results.get(index)) {
            result.write(r, out);
        }
        true
    }

    fn volatile(&self) -> bool {
        self.volatile
    }
}

impl Map {
    fn find_regex(&self, r: &Request, key: &[u8]) -> Option<ResultIndex> {
        if key.is_empty() || self.regexes.is_empty() {
            return None;
        }
        let subject = Bytes::copy_from_slice(key);
        self.regexes.find_for(r, &subject).copied()
    }
}

fn map(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let mut map = Map { text: Some(Complex::compile(cx, directive, 0)?), ..Map::default() };
    let name = variable_name(directive, 1)?.to_owned();
    let mut known = HashMap::new();
    for entry in cx.entries(directive)? {
        match (entry.name.text.as_slice(), entry.args.as_slice()) {
            (b"hostnames", []) => map.hostnames = true,
            (b"volatile", []) => map.volatile = true,
            (key, [result]) => {
                let index = match known.get(&result.text) {
                    Some(index) => *index,
                    None => {
                        let value = Complex::compile(cx, &entry, 0)?;
                        let index = map.results.len();
                        map.results.push(value);
                        known.insert(result.text.clone(), index);
                        index
                    }
                };
                add(cx, &mut map, &entry, key, index)?;
            }
            _ => return Err(entry.error("invalid number of the map parameters")),
        }
    }
    map.regexes.finish();
    cx.state::<Variables>()
        .computed(&name, Arc::new(map))
        .map_err(|message| directive.error_at(1, message))?;
    Ok(())
}

fn add(cx: &mut Cx<'_>, map: &mut Map, entry: &Directive, key: &[u8], index: ResultIndex) -> Result<()> {
    if key == b"default" {
        if map.default.is_some() {
            return Err(entry.error("duplicate default map parameter"));
        }
        map.default = Some(index);
        return Ok(());
    }
    if let Some(source) = key.strip_prefix(b"~") {
        let (source, ignore_case) = match source.strip_prefix(b"*") {
            Some(source) => (source, true),
            None => (source, false),
        };
        let pattern = PatternWithNames::compile(cx, entry, 0, source, ignore_case)?;
        map.regexes.push(pattern, index);
        return Ok(());
    }
    let key = key.strip_prefix(b"\\").unwrap_or(key);
    map.names.add(key, map.hostnames, index).map_err(|refused| {
        let shown = String::from_utf8_lossy(key);
        entry.error(match refused {
            Refused::Invalid => format!("invalid hostname or wildcard \"{shown}\""),
            Refused::Conflict => format!("conflicting parameter \"{}\"", shown.to_ascii_lowercase()),
        })
    })
}
