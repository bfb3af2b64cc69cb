//! The tests of `if`. nginx's counterpart: `ngx_http_rewrite_if_condition`.

use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use headwater_conf::{Cx, Directive, Result};

use crate::flow::error_log::Level;
use crate::request::{PatternWithNames, Request};
use crate::script::{Complex, VarIndex, Variables};

/// A condition.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// A variable that is neither empty nor `0`.
    True(VarIndex),
    /// A variable that equals a value, or does not.
    Equal(VarIndex, Complex, bool),
    /// A variable that matches, or does not.
    Match(VarIndex, Box<PatternWithNames>, bool),
    /// A path that is something, or is not.
    File(Complex, FileTest, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileTest {
    File,
    Directory,
    Exists,
    Executable,
}

impl Condition {
    /// Reads `(…)`, which may be spread over several words.
    pub(super) fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut words: Vec<Vec<u8>> = directive.args.iter().map(|word| word.text.clone()).collect();
        let invalid = |index: usize| {
            let text = directive.word(index).str().into_owned();
            // nginx shows the first word without the bracket that it has read past.
            let text =
                if index == 0 && text.len() > 1 { text.strip_prefix('(').unwrap_or(&text) } else { &text };
            directive.error_at(index, format!("invalid condition \"{text}\""))
        };
        match words.first_mut() {
            Some(first) if first.first() == Some(&b'(') => {
                first.remove(0);
            }
            _ => return Err(invalid(0)),
        }
        let last_index = words.len().saturating_sub(1);
        match words.last_mut() {
            Some(last) if last.last() == Some(&b')') => {
                last.pop();
            }
            _ => return Err(invalid(last_index)),
        }
        words.retain(|word| !word.is_empty());
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        match words.as_slice() {
            [variable] if variable.starts_with(b"$") && directive.args.len() <= 3 => {
                Ok(Condition::True(variable_index(cx, directive, variable)?))
            }
            [test, path] if test.starts_with(b"-") || test.starts_with(b"!-") => {
                file_condition(cx, directive, test, path)
            }
            [variable, operator, value] if variable.starts_with(b"$") => {
                let variable = variable_index(cx, directive, variable)?;
                comparison(cx, directive, variable, operator, value)
            }
            [variable, operator]
                if variable.starts_with(b"$")
                    && (*operator == b"=" || *operator == b"!=")
                    && directive.args.len() == 4 =>
            {
                // The value was an empty quoted word, which the closing bracket follows as a word of its own.
                let variable = variable_index(cx, directive, variable)?;
                comparison(cx, directive, variable, operator, b"")
            }
            _ => Err(invalid(0)),
        }
    }

    /// Whether the condition holds now.
    pub(super) fn holds(&self, r: &Request) -> bool {
        let read = |variable: VarIndex| {
            let mut out = Vec::new();
            r.exchange.generation.variables.write(variable, r, &mut out);
            out
        };
        match self {
            Condition::True(variable) => {
                let value = read(*variable);
                !value.is_empty() && value != b"0"
            }
            Condition::Equal(variable, value, wanted) => {
                (read(*variable) == value.value(r).as_ref()) == *wanted
            }
            Condition::Match(variable, pattern, wanted) => {
                let subject = Bytes::from(read(*variable));
                let matched =
                    if *wanted { pattern.matches(r, &subject) } else { pattern.pattern.is_match(&subject) };
                matched == *wanted
            }
            Condition::File(path, test, wanted) => {
                let path = path.value(r);
                file_test(r, &path, *test) == *wanted
            }
        }
    }
}

fn variable_index(cx: &mut Cx<'_>, directive: &Directive, word: &[u8]) -> Result<VarIndex> {
    let name = word.strip_prefix(b"$").and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("");
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    if name.is_empty() {
        return Err(directive.error_at(0, "invalid variable name \"$\"".to_owned()));
    }
    Ok(cx.state::<Variables>().index(name))
}

fn comparison(
    cx: &mut Cx<'_>,
    directive: &Directive,
    variable: VarIndex,
    operator: &[u8],
    value: &[u8],
) -> Result<Condition> {
    let pattern = |cx: &mut Cx<'_>, ignore_case| {
        PatternWithNames::compile(cx, directive, directive.args.len().saturating_sub(1), value, ignore_case)
            .map(Box::new)
    };
    let complex = |cx: &mut Cx<'_>| {
        Complex::compile_text(cx.state(), value).map_err(|message| directive.error_at(0, message))
    };
    Ok(match operator {
        b"=" => Condition::Equal(variable, complex(cx)?, true),
        b"!=" => Condition::Equal(variable, complex(cx)?, false),
        b"~" => Condition::Match(variable, pattern(cx, false)?, true),
        b"~*" => Condition::Match(variable, pattern(cx, true)?, true),
        b"!~" => Condition::Match(variable, pattern(cx, false)?, false),
        b"!~*" => Condition::Match(variable, pattern(cx, true)?, false),
        _ => {
            let text = String::from_utf8_lossy(operator).into_owned();
            return Err(directive.error_at(1, format!("unexpected \"{text}\" in condition")));
        }
    })
}

fn file_condition(cx: &mut Cx<'_>, directive: &Directive, test: &[u8], path: &[u8]) -> Result<Condition> {
    let (wanted, letter) = match test {
        [b'-', letter] => (true, *letter),
        [b'!', b'-', letter] => (false, *letter),
        _ => (true, 0),
    };
    let test = match letter {
        b'f' => FileTest::File,
        b'd' => FileTest::Directory,
        b'e' => FileTest::Exists,
        b'x' => FileTest::Executable,
        _ => {
            let text = directive.word(0).str().into_owned();
            return Err(directive.error_at(0, format!("invalid condition \"{text}\"")));
        }
    };
    let path = Complex::compile_text(cx.state(), path).map_err(|message| directive.error_at(0, message))?;
    Ok(Condition::File(path, test, wanted))
}

fn file_test(r: &Request, path: &[u8], test: FileTest) -> bool {
    let metadata = match crate::modules::open_files::test(r, path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let missing = matches!(error.raw_os_error(), Some(2 | 20 | 36));
            if !missing {
                let shown = String::from_utf8_lossy(path).into_owned();
                let text = crate::flow::os_error(&error);
                r.log(Level::Error, format_args!("stat() \"{shown}\" failed {text}"));
            }
            return false;
        }
    };
    match test {
        FileTest::File => metadata.is_file(),
        FileTest::Directory => metadata.is_dir(),
        FileTest::Exists => true,
        FileTest::Executable => metadata.permissions().mode() & 0o111 != 0,
    }
}
