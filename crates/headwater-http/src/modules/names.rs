//! Exact names and host names with wildcards, each with a result.
//!
//! Used by `map` and `valid_referers`. nginx's counterpart: `ngx_hash_combined_t`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Index of a result: results that are written alike are kept once.
pub(super) type ResultIndex = usize;

/// Exact names and host names with wildcards, all lower-case.
#[derive(Default)]
pub(super) struct Names {
    exact: HashMap<Box<[u8]>, ResultIndex>,
    /// `*.example.com` and `.example.com`, by what follows the first dot; the flag says that the name itself matches too.
    heads: HashMap<Box<[u8]>, (ResultIndex, bool)>,
    /// `www.example.*`, by what stands before the last dot.
    tails: HashMap<Box<[u8]>, ResultIndex>,
}

/// Why a name was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Invalid,
    Conflict,
}

impl Names {
    pub(super) fn add(
        &mut self,
        key: &[u8],
        wildcards: bool,
        index: ResultIndex,
    ) -> std::result::Result<(), Refused> {
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

    pub(super) fn find(&self, key: &[u8]) -> Option<ResultIndex> {
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
