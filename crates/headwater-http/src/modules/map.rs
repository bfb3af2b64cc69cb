//! `map`: a variable whose value depends on another text, by exact names, wildcard host names or regular expressions.
//!
//! nginx's counterpart: `ngx_http_map_module.c`, `ngx_http_map_find`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::HTTP;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, settings};

use super::Module;
use crate::config::ignored::Ignored;
use crate::request::{PatternWithNames, Request};
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

/// Index of a result: results that are written alike are kept once.
type ResultIndex = usize;

#[derive(Default)]
struct Map {
    text: Option<Complex>,
    names: Names,
    regexes: Vec<(PatternWithNames, ResultIndex)>,
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
        self.regexes.iter().find(|(pattern, _)| pattern.matches(r, &subject)).map(|(_, index)| *index)
    }
}

/// Exact names and host names with wildcards, all lower-case.
#[derive(Default)]
struct Names {
    exact: HashMap<Box<[u8]>, ResultIndex>,
    /// `*.example.com` and `.example.com`, by what follows the first dot; the flag says that the name itself matches too.
    heads: HashMap<Box<[u8]>, (ResultIndex, bool)>,
    /// `www.example.*`, by what stands before the last dot.
    tails: HashMap<Box<[u8]>, ResultIndex>,
}

/// Why a name was not taken.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Invalid,
    Conflict,
}

impl Names {
    fn add(&mut self, key: &[u8], wildcards: bool, index: ResultIndex) -> std::result::Result<(), Refused> {
        let key = key.to_ascii_lowercase();
        if wildcards {
            let stars = key.iter().filter(|byte| **byte == b'*').count();
            if stars > 1 || key.windows(2).any(|pair| pair == b"..") || key.contains(&0) {
                return Err(Refused::Invalid);
            }
            if let Some(rest) = key.strip_prefix(b".").filter(|rest| !rest.is_empty()) {
                if self.exact.contains_key(rest) {
                    return Err(Refused::Conflict);
                }
                return insert(&mut self.heads, rest, (index, true));
            }
            if let Some(rest) = key.strip_prefix(b"*.").filter(|rest| !rest.is_empty()) {
                return insert(&mut self.heads, rest, (index, false));
            }
            if let Some(rest) = key.strip_suffix(b".*").filter(|rest| !rest.is_empty()) {
                return insert(&mut self.tails, rest, index);
            }
            if stars > 0 {
                return Err(Refused::Invalid);
            }
            if self.heads.get(key.as_slice()).is_some_and(|(_, itself)| *itself) {
                return Err(Refused::Conflict);
            }
        }
        insert(&mut self.exact, &key, index)
    }

    fn find(&self, key: &[u8]) -> Option<ResultIndex> {
        let lower;
        let key = if key.iter().any(u8::is_ascii_uppercase) {
            lower = key.to_ascii_lowercase();
            lower.as_slice()
        } else {
            key
        };
        if let Some(index) = self.exact.get(key) {
            return Some(*index);
        }
        if key.is_empty() {
            return None;
        }
        self.find_head(key).or_else(|| self.find_tail(key))
    }

    /// The longest suffix wins.
    fn find_head(&self, key: &[u8]) -> Option<ResultIndex> {
        if self.heads.is_empty() {
            return None;
        }
        if let Some((index, true)) = self.heads.get(key) {
            return Some(*index);
        }
        let mut dots = memchr::memchr_iter(b'.', key);
        dots.find_map(|dot| self.heads.get(key.get(dot.saturating_add(1)..)?)).map(|(index, _)| *index)
    }

    /// The longest prefix wins.
    fn find_tail(&self, key: &[u8]) -> Option<ResultIndex> {
        if self.tails.is_empty() {
            return None;
        }
        let mut dots = memchr::memchr_iter(b'.', key).rev();
        dots.find_map(|dot| self.tails.get(key.get(..dot)?)).copied()
    }
}

/// Adds a name that must be new.
fn insert<V>(names: &mut HashMap<Box<[u8]>, V>, name: &[u8], value: V) -> std::result::Result<(), Refused> {
    match names.entry(name.into()) {
        Entry::Occupied(_) => Err(Refused::Conflict),
        Entry::Vacant(slot) => {
            slot.insert(value);
            Ok(())
        }
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
        map.regexes.push((pattern, index));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_exact_then_wildcards_longest_first() {
        let mut names = Names::default();
        let all = ["a.com", "*.a.com", "*.b.a.com", ".c.com", "www.*", "www.x.*", ""];
        for (index, name) in all.iter().enumerate() {
            assert_eq!(names.add(name.as_bytes(), true, index), Ok(()), "{name}");
        }
        let find = |name: &str| names.find(name.as_bytes());
        assert_eq!(find("A.com"), Some(0));
        assert_eq!(find("x.y.a.com"), Some(1));
        assert_eq!(find("x.b.a.com"), Some(2));
        assert_eq!(find("c.com"), Some(3));
        assert_eq!(find("y.c.com"), Some(3));
        assert_eq!(find("www.q.org"), Some(4));
        assert_eq!(find("www.x.org"), Some(5));
        assert_eq!(find(""), Some(6));
        assert_eq!(find("org"), None);
    }

    #[test]
    fn names_bad_or_double_ones_are_refused() {
        let mut names = Names::default();
        assert_eq!(names.add(b"a.*.b", true, 0), Err(Refused::Invalid));
        assert_eq!(names.add(b"*.*", true, 0), Err(Refused::Invalid));
        assert_eq!(names.add(b"a..b", true, 0), Err(Refused::Invalid));
        assert_eq!(names.add(b"*", true, 0), Err(Refused::Invalid));
        assert_eq!(names.add(b"*", false, 0), Ok(()));
        assert_eq!(names.add(b".a.b", true, 0), Ok(()));
        assert_eq!(names.add(b"*.a.b", true, 0), Err(Refused::Conflict));
        assert_eq!(names.add(b"A.b", true, 0), Err(Refused::Conflict));
        assert_eq!(names.add(b"x", false, 0), Ok(()));
        assert_eq!(names.add(b"X", false, 0), Err(Refused::Conflict));
    }
}
