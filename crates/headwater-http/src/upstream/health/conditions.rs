//! What an answer to a health check must be like: the conditions of a `match` block.
//!
//! Read by `modules::health_check`, asked by `upstream::health` for each answer. nginx's counterpart: `match` of its commercial version.

use headwater_conf::{Cx, Directive, Result};
use headwater_wire::headers::HeaderList;

use crate::request::Request;
use crate::script::{Complex, Pattern};

/// The conditions of one `match` block, all of which must hold.
#[derive(Debug, Default)]
pub struct Conditions {
    status: Vec<StatusCondition>,
    headers: Vec<HeaderCondition>,
    bodies: Vec<BodyCondition>,
    required: Vec<Complex>,
}

/// An answer as conditions see it.
pub struct Answer<'a> {
    /// The check's request, for variables.
    pub request: &'a Request,
    /// The status.
    pub status: u16,
    /// The headers as received.
    pub headers: &'a HeaderList,
    /// The beginning of the body.
    pub body: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
struct StatusCondition {
    ranges: Vec<(u16, u16)>,
    negated: bool,
}

#[derive(Debug)]
struct HeaderCondition {
    name: Box<[u8]>,
    test: Test,
    negated: bool,
}

#[derive(Debug)]
enum Test {
    Present,
    Equals(Box<[u8]>),
    Matches(Pattern),
}

#[derive(Debug)]
struct BodyCondition {
    pattern: Pattern,
    negated: bool,
}

impl Conditions {
    /// What holds without a `match`: the status is 2xx or 3xx.
    #[must_use]
    pub fn usual() -> Self {
        Self { status: vec![StatusCondition { ranges: vec![(200, 399)], negated: false }], ..Self::default() }
    }

    /// Reads one line of a `match` block.
    ///
    /// # Errors
    /// For a line that is no condition.
    pub fn add(&mut self, cx: &mut Cx<'_>, line: &Directive) -> Result<()> {
        let words: Vec<&[u8]> = line.args.iter().map(|word| word.text.as_slice()).collect();
        match line.name.text.as_slice() {
            b"status" => {
                let condition = status(&words);
                self.status.push(condition.ok_or_else(|| line.error("invalid \"status\" condition"))?);
            }
            b"header" => {
                let condition = header(&words).map_err(|message| line.error(message))?;
                self.headers.push(condition);
            }
            b"body" => {
                let (negated, source) = match words.as_slice() {
                    [b"~", source] => (false, *source),
                    [b"!~", source] => (true, *source),
                    _ => return Err(line.error("invalid \"body\" condition")),
                };
                let pattern = Pattern::compile(source, false).map_err(|message| line.error_at(1, message))?;
                self.bodies.push(BodyCondition { pattern, negated });
            }
            b"require" if !words.is_empty() => {
                for at in 0..words.len() {
                    self.required.push(Complex::compile(cx, line, at)?);
                }
            }
            b"require" => return Err(line.error("invalid number of arguments in \"require\" directive")),
            _ => return Err(line.error(format!("unknown directive \"{}\"", line.name()))),
        }
        Ok(())
    }

    /// Whether all conditions hold.
    ///
    /// # Errors
    /// What was being checked when one did not, in the words of the log.
    pub fn check(&self, answer: &Answer<'_>) -> std::result::Result<(), &'static str> {
        if !self.status.iter().all(|condition| condition.holds(answer.status)) {
            return Err("checking status code");
        }
        if !self.headers.iter().all(|condition| condition.holds(answer.headers)) {
            return Err("checking header");
        }
        if !self.bodies.iter().all(|body| body.pattern.is_match(answer.body) != body.negated) {
            return Err("checking body");
        }
        if !self.required.iter().all(|value| value.is_true(answer.request)) {
            return Err("checking variables");
        }
        Ok(())
    }
}

impl StatusCondition {
    fn holds(&self, status: u16) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&status)) != self.negated
    }
}

impl HeaderCondition {
    fn holds(&self, headers: &HeaderList) -> bool {
        let found = headers.get_all(&self.name).any(|value| match &self.test {
            Test::Present => true,
            Test::Equals(text) => value == &**text,
            Test::Matches(pattern) => pattern.is_match(value),
        });
        found != self.negated
    }
}

/// `200 301-303`, `! 500`.
fn status(words: &[&[u8]]) -> Option<StatusCondition> {
    let (negated, words) = match words {
        [b"!", rest @ ..] => (true, rest),
        words => (false, words),
    };
    let number = |text: &str| text.parse().ok().filter(|number: &u16| (100..=599).contains(number));
    let range = |word: &&[u8]| {
        let text = std::str::from_utf8(word).ok()?;
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        Some((number(low)?, number(high)?)).filter(|(low, high)| low <= high)
    };
    let ranges: Vec<_> = words.iter().map(range).collect::<Option<_>>()?;
    (!ranges.is_empty()).then_some(StatusCondition { ranges, negated })
}

/// `Name`, `! Name`, `Name = value`, `Name != value`, `Name ~ regex`, `Name !~ regex`.
fn header(words: &[&[u8]]) -> std::result::Result<HeaderCondition, String> {
    let (name, test, negated) = match words {
        [b"!", name] => (name, Test::Present, true),
        [name] => (name, Test::Present, false),
        [name, b"=", value] => (name, Test::Equals((*value).into()), false),
        [name, b"!=", value] => (name, Test::Equals((*value).into()), true),
        [name, b"~", source] => (name, Test::Matches(Pattern::compile(source, false)?), false),
        [name, b"!~", source] => (name, Test::Matches(Pattern::compile(source, false)?), true),
        _ => return Err("invalid \"header\" condition".to_owned()),
    };
    Ok(HeaderCondition { name: (*name).into(), test, negated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(words: &str, code: u16) -> bool {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        status(&words).expect("a condition").holds(code)
    }

    #[test]
    fn status_names_codes_and_ranges_or_what_must_not_be() {
        assert!(holds("200", 200) && !holds("200", 201));
        assert!(holds("! 500", 200) && !holds("! 500", 500));
        assert!(holds("200 204 301-303", 302) && !holds("200 204 301-303", 304));
        assert!(holds("! 400-599", 399) && !holds("! 301 400-599", 301));
        let words = |text: &'static str| text.split(' ').map(str::as_bytes).collect::<Vec<_>>();
        for wrong in ["", "!", "abc", "99", "600", "300-200", "200-", "-200", "!500"] {
            assert_eq!(status(&words(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn header_is_present_equal_or_matched() {
        let list = {
            let mut list = HeaderList::with_capacity(64, 2);
            list.push(b"Content-Type", b"text/html");
            list.push(b"X-A", b"one");
            list.push(b"X-A", b"two");
            list
        };
        let check = |text: &str| {
            let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
            header(&words).expect("a condition").holds(&list)
        };
        assert!(check("x-a") && !check("x-b") && check("! x-b") && !check("! x-a"));
        assert!(check("content-type = text/html") && !check("content-type = text"));
        assert!(check("content-type != text") && check("x-b != any"));
        assert!(check("x-a = two") && !check("x-a != two"));
        assert!(check("x-a ~ ^t") && !check("x-a !~ ^t") && check("x-b !~ ."));
        assert!(header(&[b"a", b"b", b"c"]).is_err());
        assert!(header(&[b"a", b"~", b"("]).is_err());
    }
}
