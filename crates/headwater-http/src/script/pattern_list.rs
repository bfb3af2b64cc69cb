//! Regular expressions of which the first that matches counts, searched together.
//!
//! Used by locations, server names and `map`. Patterns of the linear-time engine are matched in one pass over the subject, whatever their
//! number; those that need PCRE2 are tried one by one where their place in the order makes them matter. nginx has no counterpart: it tries
//! each.

use std::sync::OnceLock;

use bytes::Bytes;
use regex::bytes::{RegexSet, RegexSetBuilder};

use crate::request::{PatternWithNames, Request};

/// How many patterns one set holds: more of them could make its automaton outgrow its cache.
const CHUNK: usize = 48;
/// Fewer patterns than this are tried one by one.
const WORTHWHILE: usize = 3;
/// From this many patterns on, the sets are made at load rather than when the first request asks. Thousands of servers have a few each, and most of
/// those are hardly asked.
const EAGER: usize = 16;
/// What the automaton of one set may take on each thread, bytes.
const CACHE: usize = 4 << 20;

/// Patterns in order, each with what it stands for.
#[derive(Debug, Clone)]
pub struct PatternList<T> {
    entries: Vec<(PatternWithNames, T)>,
    sets: OnceLock<Sets>,
}

/// How the patterns are searched.
#[derive(Debug, Clone)]
struct Sets {
    /// In the order of their members.
    sets: Vec<Set>,
    /// Entries that are in no set, in order.
    singles: Vec<usize>,
}

/// Neighbouring linear-time patterns as one automaton.
#[derive(Debug, Clone)]
struct Set {
    set: RegexSet,
    /// The entries that its patterns belong to, in order.
    members: Vec<usize>,
}

impl<T> Default for PatternList<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), sets: OnceLock::new() }
    }
}

impl<T> PatternList<T> {
    /// Adds a pattern behind the others.
    pub fn push(&mut self, pattern: PatternWithNames, value: T) {
        self.entries.push((pattern, value));
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Called once when all patterns are added: makes the sets if there are many.
    pub fn finish(&mut self) {
        if self.entries.len() >= EAGER {
            self.sets();
        }
    }

    fn sets(&self) -> &Sets {
        self.sets.get_or_init(|| self.make_sets())
    }

    fn make_sets(&self) -> Sets {
        let linear: Vec<(usize, String)> = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(at, (entry, _))| Some((at, entry.pattern.linear_source()?)))
            .collect();
        let make = |chunk: &[(usize, String)]| {
            let sources = chunk.iter().map(|(_, source)| source);
            let set = RegexSetBuilder::new(sources).unicode(false).dfa_size_limit(CACHE).build().ok()?;
            Some(Set { set, members: chunk.iter().map(|(at, _)| *at).collect() })
        };
        let sets: Vec<Set> = match linear.len() {
            ..WORTHWHILE => Vec::new(),
            _ => linear.chunks(CHUNK).filter_map(make).collect(),
        };
        let in_set = |at: &usize| sets.iter().any(|set| set.members.binary_search(at).is_ok());
        let singles = (0..self.entries.len()).filter(|at| !in_set(at)).collect();
        Sets { sets, singles }
    }

    /// The first pattern that matches.
    #[must_use]
    pub fn find(&self, subject: &[u8]) -> Option<&(PatternWithNames, T)> {
        let Sets { sets, singles } = self.sets();
        // Sets are in order, so that the first that has a match has the first match of all sets.
        let found = sets.iter().find_map(|set| set.first(subject));
        let before = singles.iter().take_while(|at| found.is_none_or(|found| **at < found));
        let single = before.filter_map(|at| self.entries.get(*at)).find(|(p, _)| p.pattern.is_match(subject));
        single.or_else(|| self.entries.get(found?))
    }

    /// The value of the first pattern that matches; its groups go to the request.
    #[must_use]
    pub fn find_for(&self, r: &Request, subject: &Bytes) -> Option<&T> {
        if self.entries.len() < WORTHWHILE {
            return self
                .entries
                .iter()
                .find(|(pattern, _)| pattern.matches(r, subject))
                .map(|(_, value)| value);
        }
        let (pattern, value) = self.find(subject)?;
        pattern.matches(r, subject).then_some(value)
    }
}

impl Set {
    /// The entry of the first member that matches.
    fn first(&self, subject: &[u8]) -> Option<usize> {
        // Usually none does, which costs no allocation this way.
        if !self.set.is_match(subject) {
            return None;
        }
        self.set.matches(subject).iter().next().and_then(|at| self.members.get(at)).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::script::Pattern;

    fn list(patterns: &[(&str, bool)]) -> PatternList<usize> {
        let mut list = PatternList::default();
        for (at, (source, ignore_case)) in patterns.iter().enumerate() {
            let pattern = Pattern::compile(source.as_bytes(), *ignore_case).expect("compiles");
            list.push(PatternWithNames { pattern, names: Box::default() }, at);
        }
        list
    }

    const SOURCES: [(&str, bool); 12] = [
        (r"^/a+$", false),
        (r"\.PHP$", true),
        (r"^/(?!x)[a-c]*$", false),
        (r"b", false),
        (r"^/x # not a comment", false),
        (r"(?x) ^ /c   # a comment", false),
        (r"(a)\1", false),
        (r"^/[^/]+\.(jpg|png)$", true),
        (r"c$", false),
        (r"^/$", false),
        (r"x", true),
        (r"p", false),
    ];

    proptest! {
        #[test]
        fn a_list_finds_what_trying_each_in_turn_finds(
            picks in prop::collection::vec(0..SOURCES.len(), 0..9),
            subject in "/[abcxX/.pPhHjg]{0,8}( # not a comment)?",
        ) {
            let patterns: Vec<_> = picks.iter().map(|at| SOURCES[*at]).collect();
            let list = list(&patterns);
            let one_by_one =
                list.entries.iter().find(|(p, _)| p.pattern.is_match(subject.as_bytes())).map(|(_, at)| *at);
            prop_assert_eq!(list.find(subject.as_bytes()).map(|(_, at)| *at), one_by_one);
        }
    }

    #[test]
    fn more_patterns_than_one_set_holds_keep_their_order() {
        let sources: Vec<String> = (0..200)
            .map(|n| if n % 50 == 7 { format!("^/(?!y)n{n}$") } else { format!("^/n{n}$") })
            .collect();
        let patterns: Vec<_> = sources.iter().map(|source| (source.as_str(), false)).collect();
        let mut list = list(&patterns);
        list.finish();
        assert_eq!(list.sets.get().map(|sets| (sets.sets.len(), sets.singles.len())), Some((5, 4)));
        for n in 0..200 {
            assert_eq!(list.find(format!("/n{n}").as_bytes()).map(|(_, at)| *at), Some(n));
        }
        assert!(list.find(b"/n200").is_none());
    }
}
