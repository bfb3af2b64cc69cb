//! Complex values: text with variables and captures, compiled at load, written into a buffer at run time.
//!
//! Used by nearly every module. nginx's counterpart: `ngx_http_compile_complex_value`, `ngx_http_script.c`.

use std::borrow::Cow;

use headwater_conf::{Args, Cx, Directive, Result, Value};

use super::variables::{VarIndex, Variables};
use crate::request::Request;

/// A value that may hold variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complex {
    parts: Box<[Part]>,
}

/// One piece of a complex value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Plain bytes.
    Text(Box<[u8]>),
    /// A variable's value.
    Variable(VarIndex),
    /// A capture of the last regular expression that matched, `$1`.
    Capture(u8),
}

impl Complex {
    /// A value without variables.
    #[must_use]
    pub fn text(text: &[u8]) -> Self {
        let parts = if text.is_empty() { Vec::new() } else { vec![Part::Text(text.into())] };
        Self { parts: parts.into() }
    }

    /// A value from pieces.
    #[must_use]
    pub fn from_parts(parts: Vec<Part>) -> Self {
        Self { parts: parts.into() }
    }

    /// Compiles an argument.
    pub fn compile(cx: &mut Cx<'_>, directive: &Directive, index: usize) -> Result<Self> {
        Self::compile_text(cx.state::<Variables>(), directive.arg(index))
            .map_err(|message| directive.error_at(index, message))
    }

    /// Compiles any text; the error is nginx's message without a position.
    pub fn compile_text(variables: &mut Variables, text: &[u8]) -> std::result::Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'$', rest) {
            let (head, tail) = rest.split_at(at);
            plain.extend_from_slice(head);
            let tail = tail.get(1..).unwrap_or_default();
            let (part, after) = reference(variables, tail)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(part);
            rest = after;
        }
        plain.extend_from_slice(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// The pieces.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The bytes, when there are no variables.
    #[must_use]
    pub fn as_text(&self) -> Option<&[u8]> {
        match self.parts.as_ref() {
            [] => Some(&[]),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the value.
    pub fn write(&self, r: &Request, out: &mut Vec<u8>) {
        for part in &self.parts {
            part.write(r, out);
        }
    }

    /// The value; borrowed when there are no variables.
    #[must_use]
    pub fn value<'a>(&'a self, r: &Request) -> Cow<'a, [u8]> {
        match self.as_text() {
            Some(text) => Cow::Borrowed(text),
            None => {
                let mut out = Vec::new();
                self.write(r, &mut out);
                Cow::Owned(out)
            }
        }
    }

    /// nginx's test of `if=`, `proxy_cache_bypass` and the like: neither empty nor `0`.
    #[must_use]
    pub fn is_true(&self, r: &Request) -> bool {
        let value = self.value(r);
        !value.is_empty() && value.as_ref() != b"0"
    }
}

impl Part {
    /// Appends the piece's value.
    pub fn write(&self, r: &Request, out: &mut Vec<u8>) {
        match self {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Variable(index) => {
                r.exchange.generation.variables.write(*index, r, out);
            }
            Part::Capture(group) => r.write_capture(usize::from(*group), out),
        }
    }
}

/// Reads what follows a `$`.
fn reference<'t>(variables: &mut Variables, tail: &'t [u8]) -> std::result::Result<(Part, &'t [u8]), String> {
    if let [digit @ b'1'..=b'9', rest @ ..] = tail {
        return Ok((Part::Capture(digit.saturating_sub(b'0')), rest));
    }
    let (name_area, braced) = match tail {
        [b'{', rest @ ..] => (rest, true),
        _ => (tail, false),
    };
    let length = name_area.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let (name, after) = name_area.split_at(length);
    let after = match (braced, after) {
        (true, [b'}', rest @ ..]) => rest,
        (true, _) => {
            let name = String::from_utf8_lossy(name);
            return Err(format!("the closing bracket in \"{name}\" variable is missing"));
        }
        (false, rest) => rest,
    };
    if name.is_empty() {
        return Err("invalid variable name".to_owned());
    }
    if braced && let [digit @ b'1'..=b'9'] = name {
        return Ok((Part::Capture(digit.saturating_sub(b'0')), after));
    }
    let name = String::from_utf8_lossy(name);
    Ok((Part::Variable(variables.index(&name)), after))
}

impl Value for Complex {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Self::compile(cx, directive, 0)
    }
}

/// `field value`, as in `proxy_set_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameValue {
    /// The name as written.
    pub name: Box<[u8]>,
    /// The value.
    pub value: Complex,
}

impl Value for NameValue {
    const ARGS: Args = Args::exactly(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self { name: directive.arg(0).into(), value: Complex::compile(cx, directive, 1)? })
    }
}

/// A directive whose arguments are all predicates: true when any is neither empty nor `0` (nginx: `ngx_http_test_predicates`).
#[derive(Debug, Clone, Default)]
pub struct Predicates(pub Vec<Complex>);

impl Predicates {
    /// Whether any of them is true.
    #[must_use]
    pub fn any(&self, r: &Request) -> bool {
        self.0.iter().any(|value| value.is_true(r))
    }
}

impl Value for Predicates {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        (0..directive.args.len())
            .map(|at| Complex::compile(cx, directive, at))
            .collect::<Result<_>>()
            .map(Self)
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let more = Self::parse(cx, directive)?;
        slot.get_or_insert_default().0.extend(more.0);
        Ok(())
    }
}
