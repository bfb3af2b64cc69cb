//! What a scripted name server answers to what.
//!
//! Called by the case parser and the name server; calls nothing. nginx counterpart: none.
//!
//! ```text
//! on name [TYPE]     what follows answers questions for the name (`*`: any); with a type (A, AAAA, SRV) only those, and with all the records
//! a 10.0.0.1         a record; without a type in the `on` line only records of the asked type and aliases are sent
//! aaaa ::1
//! cname b.test
//! srv 10 5 80 b.test
//! txt anything
//! many 300           so many A records, 127.0.0.1 each
//! ttl 60             seconds the records hold (default 60)
//! code 3             the response code; an unknown name gets 3
//! truncate           over UDP nothing but the mark that it does not fit
//! pause 50           waits so many milliseconds first
//! drop               no answer over UDP
//! droptcp            no answer over TCP
//! repeat 100         sends what is forged so many times
//! forge id           before the answer sends a false one: wrong `id`, `question`, `source`, cut `short`, `flags` of a question, or any `text`
//! ```
//!
//! Rules for the same name and type are used one after the other; the last one repeats.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A false answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// With another id.
    Id,
    /// To another question.
    Question,
    /// From another port.
    Source,
    /// Cut off.
    Short,
    /// Marked as a question.
    Flags,
    /// No message at all.
    Text,
}

/// What is said to one question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Types and data.
    pub records: Vec<(u16, Vec<u8>)>,
    /// Seconds.
    pub ttl: u32,
    /// The response code.
    pub code: u8,
    /// Whether UDP gets nothing but the mark.
    pub truncated: bool,
    /// How long to wait.
    pub pause: Duration,
    /// Whether there is no answer over UDP.
    pub silent: bool,
    /// Whether there is no answer over TCP.
    pub silent_tcp: bool,
    /// What is sent before.
    pub forgeries: Vec<Forgery>,
    /// How often that is sent; 0 is once.
    pub repeat: usize,
}

/// The rules of one name server.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    name: String,
    kind: Option<u16>,
    answer: Answer,
    /// The types of questions it was used for.
    used: Vec<u16>,
}

impl Rules {
    /// Parses the lines of a section.
    ///
    /// # Errors
    /// When a line is none of the forms above.
    pub fn parse(lines: &[String]) -> io::Result<Self> {
        let bad = |line: &str| io::Error::other(format!("not a rule of a name server: {line}"));
        let mut rules: Vec<Rule> = Vec::new();
        for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("on ") {
                let (name, kind) = match rest.trim().split_once(' ') {
                    Some((name, kind)) => (name, Some(type_number(kind.trim()).ok_or_else(|| bad(line))?)),
                    None => (rest.trim(), None),
                };
                let answer = Answer { ttl: 60, ..Answer::default() };
                rules.push(Rule { name: name.to_owned(), kind, answer, used: Vec::new() });
                continue;
            }
            let rule = rules.last_mut().ok_or_else(|| bad(line))?;
            add(&mut rule.answer, line).ok_or_else(|| bad(line))?;
        }
        Ok(Self(rules))
    }

    /// The answer to a question; "no such name" when no rule fits.
    pub fn choose(&mut self, name: &str, kind: u16) -> Answer {
        let fits = |rule: &Rule, wanted: &str| {
            rule.name.eq_ignore_ascii_case(wanted) && rule.kind.is_none_or(|own| own == kind)
        };
        let wanted = if self.0.iter().any(|rule| fits(rule, name)) { name } else { "*" };
        let mut found: Vec<&mut Rule> = self.0.iter_mut().filter(|rule| fits(rule, wanted)).collect();
        let Some(last) = found.len().checked_sub(1) else {
            return Answer { code: 3, ..Answer::default() };
        };
        let at = found.iter().position(|rule| !rule.used.contains(&kind)).unwrap_or(last);
        let rule = &mut found[at];
        rule.used.push(kind);
        let mut answer = rule.answer.clone();
        if rule.kind.is_none() {
            answer.records.retain(|(own, _)| *own == kind || *own == CNAME);
        }
        answer
    }
}

const CNAME: u16 = 5;

fn type_number(name: &str) -> Option<u16> {
    Some(match name {
        "A" => 1,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        _ => return None,
    })
}

/// The name of a type of records.
#[must_use]
pub fn type_name(kind: u16) -> &'static str {
    ["A", "TXT", "AAAA", "SRV"].into_iter().find(|name| type_number(name) == Some(kind)).unwrap_or("?")
}

fn add(answer: &mut Answer, line: &str) -> Option<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "a" => answer.records.push((1, rest.parse::<Ipv4Addr>().ok()?.octets().to_vec())),
        "aaaa" => answer.records.push((28, rest.parse::<Ipv6Addr>().ok()?.octets().to_vec())),
        "cname" => answer.records.push((CNAME, encode_name(rest)?)),
        "txt" => answer.records.push((16, [&[u8::try_from(rest.len()).ok()?], rest.as_bytes()].concat())),
        "srv" => {
            let words: Vec<&str> = rest.split(' ').collect();
            let mut data = Vec::new();
            for word in words.get(..3)? {
                data.extend_from_slice(&word.parse::<u16>().ok()?.to_be_bytes());
            }
            data.extend(encode_name(words.get(3)?)?);
            answer.records.push((33, data));
        }
        "many" => {
            let count: usize = rest.parse().ok()?;
            answer.records.extend(vec![(1, vec![127, 0, 0, 1]); count]);
        }
        "ttl" => answer.ttl = rest.parse().ok()?,
        "code" => answer.code = rest.parse().ok()?,
        "repeat" => answer.repeat = rest.parse().ok()?,
        "truncate" => answer.truncated = true,
        "pause" => answer.pause = Duration::from_millis(rest.parse().ok()?),
        "drop" => answer.silent = true,
        "droptcp" => answer.silent_tcp = true,
        "forge" => answer.forgeries.push(match rest {
            "id" => Forgery::Id,
            "question" => Forgery::Question,
            "source" => Forgery::Source,
            "short" => Forgery::Short,
            "flags" => Forgery::Flags,
            "text" => Forgery::Text,
            _ => return None,
        }),
        _ => return None,
    }
    Some(())
}

fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).ok()?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_used_in_turn_for_each_type() {
        let lines = ["on a", "a 10.0.0.1", "aaaa ::1", "on a", "code 2", "on * SRV", "srv 1 2 3 x"];
        let mut rules = Rules::parse(&lines.map(str::to_owned)).unwrap();
        assert_eq!(rules.choose("A", 1).records, [(1, vec![10, 0, 0, 1])]);
        assert_eq!(rules.choose("a", 28).records.len(), 1);
        assert_eq!(rules.choose("a", 1).code, 2);
        assert_eq!(rules.choose("a", 1).code, 2);
        assert_eq!(rules.choose("b", 1).code, 3);
        assert_eq!(rules.choose("b", 33).records, [(33, b"\0\x01\0\x02\0\x03\x01x\0".to_vec())]);
    }

    #[test]
    fn unknown_rule_fails() {
        assert!(Rules::parse(&["on a".to_owned(), "what".to_owned()]).is_err());
        assert!(Rules::parse(&["a 1.2.3.4".to_owned()]).is_err());
    }
}
