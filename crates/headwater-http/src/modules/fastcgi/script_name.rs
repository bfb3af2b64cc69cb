//! `$fastcgi_script_name` and `$fastcgi_path_info`: the two parts of a URI.
//!
//! Called by the variables' getters. nginx's counterpart: `ngx_http_fastcgi_split`.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use headwater_conf::{Args, Cx, Directive, Result, Value};

use crate::config::LocId;
use crate::request::Request;
use crate::script::pattern::Pattern;

/// `fastcgi_split_path_info`.
#[derive(Debug, Clone)]
pub struct SplitPattern(Pattern);

impl Value for SplitPattern {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let pattern =
            Pattern::compile(directive.arg(0), false).map_err(|message| directive.error_at(0, message))?;
        if pattern.group_count() != 2 {
            let message = format!("pattern \"{}\" must have 2 captures", directive.word(0).str());
            return Err(directive.error_at(0, message));
        }
        Ok(Self(pattern))
    }
}

/// What a location says about script names.
pub(super) struct ScriptNames {
    index: Box<[u8]>,
    split: Option<Pattern>,
}

impl ScriptNames {
    /// `None` when nothing is said.
    pub(super) fn new(index: &[u8], split: Option<&SplitPattern>) -> Option<Self> {
        if index.is_empty() && split.is_none() {
            return None;
        }
        Some(Self { index: index.into(), split: split.map(|split| split.0.clone()) })
    }
}

/// The parts of a URI, kept with the request: several parameters usually ask for them.
struct Parts {
    location: LocId,
    uri: Bytes,
    script: Range<usize>,
    info: Range<usize>,
}

fn parts(r: &Request, pattern: &Pattern) -> Rc<Parts> {
    let uri = r.uri.borrow().clone();
    let location = r.location.get();
    if let Some(known) = r.extension::<Parts>()
        && known.location == location
        && known.uri == uri
    {
        return known;
    }
    let (script, info) = split(pattern, &uri);
    r.set_extension(Parts { location, uri, script, info })
}

/// Script name and path info; all is script name when the pattern does not match.
fn split(pattern: &Pattern, uri: &[u8]) -> (Range<usize>, Range<usize>) {
    let Some(groups) = pattern.captures(uri) else { return (0..uri.len(), 0..0) };
    let range = |group: usize| match groups.get(group) {
        Some(Some((start, end))) => *start as usize..*end as usize,
        _ => 0..0,
    };
    (range(1), range(2))
}

/// Appends `$fastcgi_script_name`.
pub(super) fn write_script_name(r: &Request, out: &mut Vec<u8>) {
    let start = out.len();
    let Some(names) = r.loc().settings::<ScriptNames>() else {
        out.extend_from_slice(&r.uri.borrow());
        return;
    };
    match &names.split {
        None => out.extend_from_slice(&r.uri.borrow()),
        Some(pattern) => {
            let parts = parts(r, pattern);
            out.extend_from_slice(parts.uri.get(parts.script.clone()).unwrap_or_default());
        }
    }
    // What stood before belongs to others.
    if out.get(start..).is_some_and(|name| name.ends_with(b"/")) {
        out.extend_from_slice(&names.index);
    }
}

/// Appends `$fastcgi_path_info`.
pub(super) fn write_path_info(r: &Request, out: &mut Vec<u8>) {
    let Some(names) = r.loc().settings::<ScriptNames>() else { return };
    if let Some(pattern) = &names.split {
        let parts = parts(r, pattern);
        out.extend_from_slice(parts.uri.get(parts.info.clone()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, uri: &str, script: &str, info: &str) {
        let pattern = Pattern::compile(pattern.as_bytes(), false).unwrap();
        let (first, second) = split(&pattern, uri.as_bytes());
        assert_eq!((&uri[first], &uri[second]), (script, info));
    }

    #[test]
    fn matching_uri_is_split_at_the_captures() {
        check(r"^(.+\.php)(/.*)$", "/a.php/b/c", "/a.php", "/b/c");
        check(r"^(.+?\.php)(/.+)?$", "/a.php", "/a.php", "");
    }

    #[test]
    fn other_uri_is_all_script_name() {
        check(r"^(.+\.php)(/.*)$", "/a/b", "/a/b", "");
    }
}
