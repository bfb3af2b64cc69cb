//! Variables, texts with variables, and expressions of pages. nginx's counterpart: `ngx_http_ssi_get_variable`,
//! `ngx_http_ssi_evaluate_string`, `ngx_http_ssi_regex_match`, the expressions of `ngx_http_ssi_if`.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;

use super::TimeFormat;
use crate::flow::error_log::Level;
use crate::request::Request;
use crate::script::Pattern;
use crate::script::pattern::Groups;

/// The most expressions that are kept compiled for one request.
const PATTERNS: usize = 64;

/// What all pages of one client's request have in common.
#[derive(Default)]
pub(super) struct Shared {
    variables: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    blocks: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The groups of the last expression that matched, and what it matched.
    captures: RefCell<(Vec<u8>, Groups)>,
    patterns: RefCell<HashMap<Vec<u8>, Pattern>>,
}

impl Shared {
    /// Sets a variable.
    pub(super) fn set(&self, name: &[u8], value: Vec<u8>) {
        let name = name.to_ascii_lowercase();
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name, value)),
        }
    }

    /// Makes a variable that is empty for the time being, unless it exists.
    pub(super) fn declare(&self, name: &[u8]) {
        let name = name.to_ascii_lowercase();
        let mut variables = self.variables.borrow_mut();
        if !variables.iter().any(|(known, _)| *known == name) {
            variables.push((name, Vec::new()));
        }
    }

    /// A group of the last match, a variable of the pages, or one of the server.
    pub(super) fn variable(&self, r: &Request, name: &[u8]) -> Option<Vec<u8>> {
        let name = name.to_ascii_lowercase();
        if let [digit @ b'0'..=b'9'] = name.as_slice() {
            let captures = self.captures.borrow();
            let (subject, groups) = &*captures;
            if let Some(group) = groups.get(usize::from(digit - b'0')) {
                let range = group.map_or(0..0, |(start, end)| start as usize..end as usize);
                return Some(subject.get(range).unwrap_or_default().to_vec());
            }
        }
        if let Some((_, value)) = self.variables.borrow().iter().find(|(known, _)| *known == name) {
            return Some(value.clone());
        }
        let mut value = Vec::new();
        let name = std::str::from_utf8(&name).ok()?;
        r.exchange.generation.variables.write_named(name, r, &mut value).then_some(value)
    }

    /// Begins a block of that name.
    pub(super) fn begin_block(&self, name: &[u8]) {
        self.blocks.borrow_mut().push((name.to_vec(), Vec::new()));
    }

    /// Adds to the block begun last.
    pub(super) fn add_to_block(&self, text: &[u8]) {
        if let Some((_, block)) = self.blocks.borrow_mut().last_mut() {
            block.extend_from_slice(text);
        }
    }

    /// The first block of that name.
    pub(super) fn block(&self, name: &[u8]) -> Option<Bytes> {
        let blocks = self.blocks.borrow();
        blocks.iter().find(|(known, _)| known == name).map(|(_, text)| Bytes::copy_from_slice(text))
    }

    /// Matches a regular expression; its groups are remembered. `None` when it is none.
    fn matches(&self, r: &Request, source: &[u8], subject: &[u8]) -> Option<bool> {
        let known = self.patterns.borrow().get(source).cloned();
        let pattern = match known {
            Some(pattern) => pattern,
            None => match Pattern::compile(source, false) {
                Ok(pattern) => {
                    let mut patterns = self.patterns.borrow_mut();
                    if patterns.len() < PATTERNS {
                        patterns.insert(source.to_vec(), pattern.clone());
                    }
                    pattern
                }
                Err(text) => {
                    r.log(Level::Error, format_args!("{text}"));
                    return None;
                }
            },
        };
        let Some(groups) = pattern.captures(subject) else { return Some(false) };
        for (name, group) in pattern.names() {
            let range = groups.get(*group).copied().flatten().map_or(0..0, |(a, b)| a as usize..b as usize);
            self.set(name.as_bytes(), subject.get(range).unwrap_or_default().to_vec());
        }
        *self.captures.borrow_mut() = (subject.to_vec(), groups);
        Some(true)
    }
}

/// The time in the page's format.
pub(super) fn date(r: &Request, utc: bool, out: &mut Vec<u8>) -> bool {
    let format = r.extension::<TimeFormat>();
    let format = format
        .as_ref()
        .map_or_else(|| b"%A, %d-%b-%Y %H:%M:%S %Z".to_vec(), |format| format.0.borrow().clone());
    let now = headwater_io::clock::unix_seconds();
    if format == b"%s" {
        out.extend_from_slice(now.to_string().as_bytes());
        return true;
    }
    match headwater_io::strftime::strftime(&format, now, utc) {
        Some(text) => {
            out.extend_from_slice(&text);
            true
        }
        None => false,
    }
}

/// A text with its variables and escapes replaced; with `prefix`, one that does not begin with a slash is put behind the directory of the page. `None` when it is wrong,
/// which is logged.
pub(super) fn evaluate(r: &Request, shared: &Shared, text: &[u8], prefix: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte == b'$' {
            at = variable(r, shared, text, at, &mut out)?;
        } else {
            at = literal(text, at, &mut out);
        }
    }
    if prefix && out.first() != Some(&b'/') {
        let uri = r.uri.borrow();
        let directory = uri.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash.saturating_add(1));
        let mut whole = uri.get(..directory).unwrap_or_default().to_vec();
        whole.append(&mut out);
        return Some(whole);
    }
    Some(out)
}

/// Copies up to the next variable; a backslash before `\`, `'`, `"` and `$` goes.
fn literal(text: &[u8], from: usize, out: &mut Vec<u8>) -> usize {
    let mut quoted = false;
    let mut at = from;
    while let Some(&byte) = text.get(at) {
        match (quoted, byte) {
            (false, b'\\') => quoted = true,
            (false, b'$') => return at,
            (false, byte) => out.push(byte),
            (true, byte) => {
                quoted = false;
                if !matches!(byte, b'\\' | b'\'' | b'"' | b'$') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
        }
        at = at.saturating_add(1);
    }
    at
}

/// Appends the value of the variable that begins at the `$`; gives where the text goes on.
fn variable(r: &Request, shared: &Shared, text: &[u8], dollar: usize, out: &mut Vec<u8>) -> Option<usize> {
    let invalid = || {
        let text = String::from_utf8_lossy(text);
        r.log(Level::Error, format_args!("invalid variable name in \"{text}\""));
        None
    };
    let after = dollar.saturating_add(1);
    let bracket = text.get(after) == Some(&b'{');
    let start = if bracket { after.saturating_add(1) } else { after };
    let rest = text.get(start..).unwrap_or_default();
    if rest.is_empty() {
        return invalid();
    }
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let length = rest.iter().position(|byte| !is_name(byte)).unwrap_or(rest.len());
    let name = rest.get(..length).unwrap_or_default();
    let mut end = start.saturating_add(length);
    if bracket {
        if text.get(end) != Some(&b'}') {
            let name = String::from_utf8_lossy(name);
            r.log(Level::Error, format_args!("the closing bracket in \"{name}\" variable is missing"));
            return None;
        }
        end = end.saturating_add(1);
    }
    if name.is_empty() {
        return invalid();
    }
    if let Some(value) = shared.variable(r, name) {
        out.extend_from_slice(&value);
    }
    Some(end)
}

/// Whether an expression holds: a text that is not empty, or `text = text`, `!=`, with `/…/` for a regular expression. `None` when it is wrong, which is logged.
pub(super) fn holds(r: &Request, shared: &Shared, expression: &[u8]) -> Option<bool> {
    let is_left = |byte: &u8| byte.is_ascii_alphanumeric() || b"${}_\"'".contains(byte);
    let length = expression.iter().position(|byte| !is_left(byte)).unwrap_or(expression.len());
    let (left, rest) = expression.split_at_checked(length)?;
    let left = evaluate(r, shared, &left.to_ascii_lowercase(), false)?;
    let rest = strip_spaces(rest);
    if rest.is_empty() {
        return Some(!left.is_empty());
    }
    let (right, wanted) = match (rest.strip_prefix(b"="), rest.strip_prefix(b"!=")) {
        (Some(right), _) => (right, true),
        (_, Some(right)) => (right, false),
        _ => return invalid(r, expression),
    };
    let right = strip_spaces(right);
    let found = match right {
        [b'/', pattern @ .., b'/'] => {
            let pattern = evaluate(r, shared, pattern, false)?;
            shared.matches(r, &pattern, &left)?
        }
        [b'/', _, ..] => return invalid(r, expression),
        [b'\\', rest @ ..] if rest.len() > 1 && rest.first() == Some(&b'/') => {
            evaluate(r, shared, rest, false)? == left
        }
        right => evaluate(r, shared, right, false)? == left,
    };
    Some(found == wanted)
}

fn strip_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

fn invalid(r: &Request, expression: &[u8]) -> Option<bool> {
    let expression = String::from_utf8_lossy(expression);
    r.log(Level::Error, format_args!("invalid expression in \"{expression}\""));
    None
}
