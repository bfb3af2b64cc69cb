//! Regular expressions with PCRE's meaning: the `regex` crate where it means the same, PCRE2 for the rest.
//!
//! Used by server names, locations, `rewrite`, `if`, `map` and others. nginx's counterpart: `ngx_regex.c`.

use std::fmt;

/// Capture positions: start and end of each group in the subject, group 0 being the whole match.
pub type Groups = Vec<Option<(u32, u32)>>;

/// A compiled regular expression.
#[derive(Clone)]
pub struct Pattern {
    engine: Engine,
    source: Box<str>,
    ignore_case: bool,
    names: Box<[(String, usize)]>,
}

#[derive(Clone)]
enum Engine {
    Linear(regex::bytes::Regex),
    Backtracking(Box<pcre2::bytes::Regex>),
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

impl Pattern {
    /// Compiles; the error is nginx's text without the position.
    pub fn compile(source: &[u8], ignore_case: bool) -> Result<Self, String> {
        let Ok(text) = std::str::from_utf8(source) else {
            return Err(format!(
                "pcre2_compile() failed: the pattern is not UTF-8 in \"{}\"",
                String::from_utf8_lossy(source)
            ));
        };
        if !differs_from_pcre(text)
            && let Ok(regex) =
                regex::bytes::RegexBuilder::new(text).case_insensitive(ignore_case).unicode(false).build()
        {
            let names = names(regex.capture_names());
            return Ok(Self { engine: Engine::Linear(regex), source: text.into(), ignore_case, names });
        }
        let regex = pcre2::bytes::RegexBuilder::new()
            .caseless(ignore_case)
            .jit_if_available(true)
            .build(text)
            .map_err(|error| {
                let rest = error.offset().and_then(|at| text.get(at..)).unwrap_or("");
                let reason = error.to_string();
                let reason = reason.rsplit(": ").next().unwrap_or(&reason).to_owned();
                if rest.is_empty() {
                    format!("pcre2_compile() failed: {reason} in \"{text}\"")
                } else {
                    format!("pcre2_compile() failed: {reason} in \"{text}\" at \"{rest}\"")
                }
            })?;
        let names = names(regex.capture_names().iter().map(Option::as_deref));
        Ok(Self { engine: Engine::Backtracking(Box::new(regex)), source: text.into(), ignore_case, names })
    }

    /// The pattern as written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The pattern with its case rule as text, when the linear-time engine runs it.
    #[must_use]
    pub(super) fn linear_source(&self) -> Option<String> {
        let flag = if self.ignore_case { "(?i)" } else { "" };
        matches!(self.engine, Engine::Linear(_)).then(|| format!("{flag}{}", self.source))
    }

    /// Named groups and their numbers.
    #[must_use]
    pub fn names(&self) -> &[(String, usize)] {
        &self.names
    }

    /// How many groups besides the whole match.
    #[must_use]
    pub fn group_count(&self) -> usize {
        match &self.engine {
            Engine::Linear(regex) => regex.captures_len().saturating_sub(1),
            Engine::Backtracking(regex) => regex.captures_len().saturating_sub(1),
        }
    }

    /// Whether the subject matches. A pattern that exceeds PCRE's limits does not match.
    #[must_use]
    pub fn is_match(&self, subject: &[u8]) -> bool {
        match &self.engine {
            Engine::Linear(regex) => regex.is_match(subject),
            Engine::Backtracking(regex) => regex.is_match(subject).unwrap_or(false),
        }
    }

    /// Matches and gives the groups.
    #[must_use]
    pub fn captures(&self, subject: &[u8]) -> Option<Groups> {
        let pair = |start: usize, end: usize| Some((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
        match &self.engine {
            Engine::Linear(regex) => {
                if regex.captures_len() == 1 {
                    let found = regex.find(subject)?;
                    return Some(vec![pair(found.start(), found.end())]);
                }
                let mut locations = regex.capture_locations();
                regex.captures_read(&mut locations, subject)?;
                Some((0..locations.len()).map(|at| locations.get(at).and_then(|(s, e)| pair(s, e))).collect())
            }
            Engine::Backtracking(regex) => {
                let mut locations = regex.capture_locations();
                regex.captures_read(&mut locations, subject).ok()??;
                Some((0..locations.len()).map(|at| locations.get(at).and_then(|(s, e)| pair(s, e))).collect())
            }
        }
    }
}

fn names<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Box<[(String, usize)]> {
    names.enumerate().filter_map(|(at, name)| Some((name?.to_owned(), at))).collect()
}

/// Whether the `regex` crate would accept the pattern but read it in another way than PCRE: possessive quantifiers, set
/// operations in classes, word-boundary escapes.
fn differs_from_pcre(text: &str) -> bool {
    const OTHER: [&str; 9] = ["++", "*+", "?+", "}+", "&&", "--", "~~", "\\<", "\\>"];
    if OTHER.iter().any(|part| text.contains(part)) {
        return true;
    }
    // A bracket inside a class opens a nested class in one and is a plain character in the other.
    let mut in_class = false;
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'[' if !in_class => {
                in_class = true;
                if bytes.peek() == Some(&b'^') {
                    bytes.next();
                }
                if bytes.peek() == Some(&b']') {
                    bytes.next();
                }
            }
            b'[' if bytes.peek() != Some(&b':') => return true,
            b']' if in_class => in_class = false,
            b':' if in_class && bytes.peek() == Some(&b']') => {
                // The end of a POSIX class name.
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(pattern: &str, subject: &str) -> Option<Vec<String>> {
        let groups =
            Pattern::compile(pattern.as_bytes(), false).expect("compiles").captures(subject.as_bytes())?;
        let text = |pair: Option<(u32, u32)>| {
            pair.map_or(String::new(), |(s, e)| subject[s as usize..e as usize].into())
        };
        Some(groups.into_iter().map(text).collect())
    }

    #[test]
    fn both_engines_give_groups() {
        assert_eq!(groups(r"^/(a|b)/(\d+)$", "/a/12"), Some(vec!["/a/12".into(), "a".into(), "12".into()]));
        assert_eq!(groups(r"^/(?!x)(.*)$", "/abc"), Some(vec!["/abc".into(), "abc".into()]));
        assert_eq!(groups(r"^/(?!x)(.*)$", "/xbc"), None);
        assert_eq!(groups(r"(a)\1", "aa"), Some(vec!["aa".into(), "a".into()]));
    }

    #[test]
    fn pcre_meaning_wins_where_the_engines_differ() {
        assert_eq!(groups(r"^a++a$", "aaa"), None);
        assert!(Pattern::compile(br"^[[:alpha:]]+$", false).expect("compiles").is_match(b"abc"));
        assert!(Pattern::compile(br"[a&&b]", false).expect("compiles").is_match(b"&"));
        assert!(Pattern::compile(br"\/x\_y", false).expect("compiles").is_match(b"/x_y"));
    }

    #[test]
    fn a_broken_pattern_has_nginx_text() {
        let error = Pattern::compile(b"^/(a", false).expect_err("broken");
        assert!(
            error.starts_with("pcre2_compile() failed: missing closing parenthesis in \"^/(a\""),
            "{error}"
        );
    }
}
