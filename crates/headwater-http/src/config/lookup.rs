//! Finding the server for a host and the location for a URI.
//!
//! Built by `config::build`, asked by `flow::route`. nginx's counterpart: `ngx_http_find_virtual_server`, `ngx_http_core_find_location`.

use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::decl::{LocId, ServerId};
use crate::request::{PatternWithNames, Request};
use crate::script::pattern_list::PatternList;

/// The servers of one listening address by name.
#[derive(Debug, Default)]
pub struct ServerNames {
    /// The server for requests that no name matches.
    pub default: ServerId,
    exact: FxHashMap<Box<[u8]>, ServerId>,
    /// `*.example.com` under `.example.com`.
    leading: FxHashMap<Box<[u8]>, ServerId>,
    /// `www.example.*` under `www.example.`.
    trailing: FxHashMap<Box<[u8]>, ServerId>,
    regexes: PatternList<ServerId>,
}

impl ServerNames {
    /// No names yet.
    #[must_use]
    pub fn with_default(default: ServerId) -> Self {
        Self { default, ..Self::default() }
    }

    /// Adds a plain name; `false` when the same name is there already (nginx: `conflicting server name`).
    pub fn add(&mut self, name: &str, server: ServerId) -> bool {
        let (map, keys): (_, Vec<&str>) = if let Some(suffix) = name.strip_prefix('*') {
            (&mut self.leading, vec![suffix])
        } else if let Some(bare) = name.strip_prefix('.') {
            let fresh = insert(&mut self.exact, bare, server);
            return insert(&mut self.leading, name, server) && fresh;
        } else if let Some(prefix) = name.strip_suffix('*') {
            (&mut self.trailing, vec![prefix])
        } else {
            (&mut self.exact, vec![name])
        };
        keys.into_iter().all(|key| insert(map, key, server))
    }

    /// The server that has a plain name.
    #[must_use]
    pub fn owner(&self, name: &str) -> Option<ServerId> {
        let (map, key) = if let Some(suffix) = name.strip_prefix('*') {
            (&self.leading, suffix)
        } else if name.starts_with('.') {
            (&self.leading, name)
        } else if let Some(prefix) = name.strip_suffix('*') {
            (&self.trailing, prefix)
        } else {
            (&self.exact, name)
        };
        map.get(key.as_bytes()).copied()
    }

    /// Adds a regular expression.
    pub fn add_regex(&mut self, pattern: PatternWithNames, server: ServerId) {
        self.regexes.push(pattern, server);
    }

    /// Called once when all names are added.
    pub fn finish(&mut self) {
        self.regexes.finish();
    }

    /// Whether every request goes to the default server.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.exact.is_empty()
            && self.leading.is_empty()
            && self.trailing.is_empty()
            && self.regexes.is_empty()
    }

    /// The server for a lower-case host without port. A regular expression that matches is returned too: its captures belong to
    /// the request.
    #[must_use]
    pub fn find(&self, host: &[u8]) -> Option<(ServerId, Option<&PatternWithNames>)> {
        if let Some(server) = self.exact.get(host) {
            return Some((*server, None));
        }
        if !self.leading.is_empty() {
            let mut from = 0;
            while let Some(at) = host.get(from..).and_then(|rest| memchr::memchr(b'.', rest)) {
                let at = from.saturating_add(at);
                if at > 0
                    && let Some(server) = host.get(at..).and_then(|suffix| self.leading.get(suffix))
                {
                    return Some((*server, None));
                }
                from = at.saturating_add(1);
            }
        }
        if !self.trailing.is_empty() {
            let mut end = host.len();
            while let Some(at) = host.get(..end).and_then(|rest| memchr::memrchr(b'.', rest)) {
                let server = host.get(..=at).and_then(|prefix| self.trailing.get(prefix));
                if at.saturating_add(1) < host.len()
                    && let Some(server) = server
                {
                    return Some((*server, None));
                }
                end = at;
            }
        }
        self.regexes.find(host).map(|(pattern, server)| (*server, Some(pattern)))
    }
}

fn insert(map: &mut FxHashMap<Box<[u8]>, ServerId>, key: &str, server: ServerId) -> bool {
    match map.entry(key.as_bytes().into()) {
        std::collections::hash_map::Entry::Occupied(_) => false,
        std::collections::hash_map::Entry::Vacant(slot) => {
            slot.insert(server);
            true
        }
    }
}

/// The locations of one level.
#[derive(Debug, Default, Clone)]
pub struct Locations {
    exact: FxHashMap<Box<[u8]>, LocId>,
    /// Prefixes in byte order, each with the longest other one that it starts with.
    prefixes: Vec<Prefix>,
    /// Prefixes that end in a slash, under their text without it.
    slashed: FxHashMap<Box<[u8]>, LocId>,
    regexes: PatternList<LocId>,
}

#[derive(Debug, Clone)]
struct Prefix {
    text: Box<[u8]>,
    location: LocId,
    /// Whether a `^~` stops the search for regular expressions.
    stops: bool,
    parent: Option<usize>,
}

/// What a search at one level found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// `location =`.
    Exact(LocId),
    /// The longest prefix; `true` when regular expressions are not to be tried.
    Prefix(LocId, bool),
}

impl Locations {
    /// Adds `location =`; `false` when it is there already.
    pub fn add_exact(&mut self, text: &[u8], location: LocId) -> bool {
        self.exact.insert(text.into(), location).is_none()
    }

    /// Adds a prefix; `false` when it is there already.
    pub fn add_prefix(&mut self, text: &[u8], location: LocId, stops: bool) -> bool {
        if self.prefixes.iter().any(|prefix| prefix.text.as_ref() == text) {
            return false;
        }
        self.prefixes.push(Prefix { text: text.into(), location, stops, parent: None });
        true
    }

    /// Adds a regular expression.
    pub fn add_regex(&mut self, pattern: PatternWithNames, location: LocId) {
        self.regexes.push(pattern, location);
    }

    /// Sorts the prefixes and links them; called once when all are added.
    pub fn finish(&mut self) {
        self.regexes.finish();
        self.prefixes.sort_by(|a, b| a.text.cmp(&b.text));
        let slashed = self
            .prefixes
            .iter()
            .filter_map(|prefix| Some((prefix.text.strip_suffix(b"/")?, prefix.location)));
        self.slashed =
            slashed.filter(|(text, _)| !text.is_empty()).map(|(text, id)| (text.into(), id)).collect();
        let mut chain: Vec<usize> = Vec::new();
        for at in 0..self.prefixes.len() {
            let text = self.prefixes[at].text.clone();
            while chain.last().is_some_and(|outer| !text.starts_with(&self.prefixes[*outer].text)) {
                chain.pop();
            }
            self.prefixes[at].parent = chain.last().copied();
            chain.push(at);
        }
    }

    /// The exact location or the longest prefix.
    #[must_use]
    pub fn find_static(&self, uri: &[u8]) -> Option<Found> {
        if !self.exact.is_empty()
            && let Some(location) = self.exact.get(uri)
        {
            return Some(Found::Exact(*location));
        }
        let after = self.prefixes.partition_point(|prefix| prefix.text.as_ref() <= uri);
        let mut at = after.checked_sub(1);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if uri.starts_with(&prefix.text) {
                return Some(Found::Prefix(prefix.location, prefix.stops));
            }
            at = prefix.parent;
        }
        None
    }

    /// A prefix that is this URI with a slash behind it.
    #[must_use]
    pub fn find_with_slash(&self, uri: &[u8]) -> Option<LocId> {
        if self.slashed.is_empty() {
            return None;
        }
        self.slashed.get(uri).copied()
    }

    /// Whether this level has regular expressions.
    #[must_use]
    pub fn has_regexes(&self) -> bool {
        !self.regexes.is_empty()
    }

    /// The first regular expression that matches; its groups go to the request.
    pub fn find_regex(&self, r: &Request, uri: &Bytes) -> Option<LocId> {
        self.regexes.find_for(r, uri).copied()
    }

    /// Whether this level has no location at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_exact_comes_first() {
        let mut locations = Locations::default();
        for (id, text) in ["/", "/a", "/a/b", "/a/b/", "/ab", "/z/"].iter().enumerate() {
            assert!(locations.add_prefix(text.as_bytes(), LocId(id as u32), *text == "/ab"));
        }
        assert!(!locations.add_prefix(b"/a", LocId(9), false));
        assert!(locations.add_exact(b"/a", LocId(20)));
        locations.finish();
        let find = |uri: &str| locations.find_static(uri.as_bytes());
        assert_eq!(find("/a"), Some(Found::Exact(LocId(20))));
        assert_eq!(find("/a/b/c"), Some(Found::Prefix(LocId(3), false)));
        assert_eq!(find("/a/bc"), Some(Found::Prefix(LocId(2), false)));
        assert_eq!(find("/abz"), Some(Found::Prefix(LocId(4), true)));
        assert_eq!(find("/az"), Some(Found::Prefix(LocId(1), false)));
        assert_eq!(find("/zz"), Some(Found::Prefix(LocId(0), false)));
        assert_eq!(find("x"), None);
        assert_eq!(locations.find_with_slash(b"/z"), Some(LocId(5)));
    }

    #[test]
    fn server_names_match_exact_then_wildcards_longest_first() {
        let mut names = ServerNames::default();
        let add =
            [("a.com", 1), ("*.a.com", 2), ("*.b.a.com", 3), (".c.com", 4), ("www.*", 5), ("www.x.*", 6)];
        for (name, id) in add {
            assert!(names.add(name, ServerId(id)));
        }
        assert!(!names.add("a.com", ServerId(7)));
        let find = |host: &str| names.find(host.as_bytes()).map(|(server, _)| server.0);
        assert_eq!(find("a.com"), Some(1));
        assert_eq!(find("x.a.com"), Some(2));
        assert_eq!(find("y.b.a.com"), Some(3));
        assert_eq!(find("c.com"), Some(4));
        assert_eq!(find("z.c.com"), Some(4));
        assert_eq!(find("www.q.org"), Some(5));
        assert_eq!(find("www.x.org"), Some(6));
        assert_eq!(find("other"), None);
    }
}
