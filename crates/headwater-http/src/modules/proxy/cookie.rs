//! `proxy_cookie_domain`, `proxy_cookie_path`, `proxy_cookie_flags`: rewriting `Set-Cookie`.
//!
//! Called by `protocol` for each `Set-Cookie` of a response. nginx's counterpart: `ngx_http_proxy_rewrite_cookie` and what it calls.

use std::borrow::Cow;

use bytes::Bytes;
use headwater_conf::{Args, Cx, Directive, Result, Value};

use crate::config::flags::flags;
use crate::request::{PatternWithNames, Request};
use crate::script::{Complex, Variables};

/// The rules of one block, or `off`.
#[derive(Debug, Clone)]
pub struct Rules<T>(Vec<T>);

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// One rule as an own directive value.
pub trait Rule: Clone + Send + Sync + 'static {
    /// How many arguments, `off` included.
    const ARGS: Args;
    /// Reads a directive that is not `off`.
    fn read(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self>;
}

impl<T: Rule> Value for Rules<T> {
    const ARGS: Args = T::ARGS;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or_default())
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        // No rules means that `off` was said.
        if slot.as_ref().is_some_and(|rules| rules.0.is_empty()) {
            return Err(directive.duplicate());
        }
        if directive.args.len() == 1 {
            return match directive.arg(0) {
                b"off" if slot.is_some() => Err(directive.duplicate()),
                b"off" => {
                    *slot = Some(Self::default());
                    Ok(())
                }
                _ => Err(directive.invalid_parameter(0)),
            };
        }
        let rule = T::read(cx, directive)?;
        slot.get_or_insert_default().0.push(rule);
        Ok(())
    }
}

fn compile(cx: &mut Cx<'_>, directive: &Directive, index: usize, text: &[u8]) -> Result<Complex> {
    Complex::compile_text(cx.state::<Variables>(), text).map_err(|message| directive.error_at(index, message))
}

fn pattern(cx: &mut Cx<'_>, directive: &Directive, source: &[u8], caseless: bool) -> Result<Matcher> {
    PatternWithNames::compile(cx, directive, 0, source, caseless).map(|p| Matcher::Pattern(Box::new(p)))
}

#[derive(Debug, Clone)]
enum Matcher {
    Text(Complex),
    Pattern(Box<PatternWithNames>),
}

/// One `proxy_cookie_domain`.
#[derive(Debug, Clone)]
pub struct Domain {
    from: Matcher,
    to: Complex,
}

impl Rule for Domain {
    const ARGS: Args = Args::range(1, 2);

    fn read(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (from, to) = (directive.arg(0), directive.arg(1));
        if let Some(source) = from.strip_prefix(b"~") {
            let from = pattern(cx, directive, source, true)?;
            return Ok(Self { from, to: compile(cx, directive, 1, to)? });
        }
        let from = compile(cx, directive, 0, from.strip_prefix(b".").unwrap_or(from))?;
        let to = compile(cx, directive, 1, to.strip_prefix(b".").unwrap_or(to))?;
        Ok(Self { from: Matcher::Text(from), to })
    }
}

impl Domain {
    /// A leading dot of the cookie's domain stays.
    fn rewrite(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        match &self.from {
            Matcher::Pattern(pattern) => matched(r, pattern, value, &self.to),
            Matcher::Text(from) => {
                let (dot, bare) = match value.strip_prefix(b".") {
                    Some(bare) => (b".".as_slice(), bare),
                    None => (b"".as_slice(), value),
                };
                let hit = from.value(r).eq_ignore_ascii_case(bare);
                hit.then(|| [dot, self.to.value(r).as_ref()].concat())
            }
        }
    }
}

/// One `proxy_cookie_path`.
#[derive(Debug, Clone)]
pub struct Path {
    from: Matcher,
    to: Complex,
}

impl Rule for Path {
    const ARGS: Args = Args::range(1, 2);

    fn read(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let text = directive.arg(0);
        let from = match (text.strip_prefix(b"~*"), text.strip_prefix(b"~")) {
            (Some(source), _) => pattern(cx, directive, source, true)?,
            (None, Some(source)) => pattern(cx, directive, source, false)?,
            (None, None) => Matcher::Text(compile(cx, directive, 0, text)?),
        };
        Ok(Self { from, to: compile(cx, directive, 1, directive.arg(1))? })
    }
}

impl Path {
    fn rewrite(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        match &self.from {
            Matcher::Pattern(pattern) => matched(r, pattern, value, &self.to),
            Matcher::Text(from) => {
                let rest = value.strip_prefix(from.value(r).as_ref())?;
                Some([self.to.value(r).as_ref(), rest].concat())
            }
        }
    }
}

fn matched(r: &Request, pattern: &PatternWithNames, value: &[u8], to: &Complex) -> Option<Vec<u8>> {
    pattern.matches(r, &Bytes::copy_from_slice(value)).then(|| to.value(r).into_owned())
}

flags! {
    /// What `proxy_cookie_flags` does to a cookie.
    Flags {
        /// `Secure` is added.
        SECURE = 0, "secure";
        /// `Secure` is removed.
        NO_SECURE = 1, "nosecure";
        /// `HttpOnly` is added.
        HTTP_ONLY = 2, "httponly";
        /// `HttpOnly` is removed.
        NO_HTTP_ONLY = 3, "nohttponly";
        /// `SameSite=Strict` is set.
        STRICT = 4, "samesite=strict";
        /// `SameSite=Lax` is set.
        LAX = 5, "samesite=lax";
        /// `SameSite=None` is set.
        NONE = 6, "samesite=none";
        /// `SameSite` is removed.
        NO_SAME_SITE = 7, "nosamesite";
    }
}

/// One `proxy_cookie_flags`.
#[derive(Debug, Clone)]
pub struct FlagRule {
    cookie: Matcher,
    flags: Vec<Complex>,
}

impl Rule for FlagRule {
    const ARGS: Args = Args::range(1, 4);

    fn read(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let name = directive.arg(0);
        let cookie = match name.strip_prefix(b"~") {
            Some(source) => pattern(cx, directive, source, true)?,
            None => Matcher::Text(compile(cx, directive, 0, name)?),
        };
        let flags = (1..directive.args.len())
            .map(|index| Complex::compile(cx, directive, index))
            .collect::<Result<_>>()?;
        Ok(Self { cookie, flags })
    }
}

impl FlagRule {
    fn applies(&self, r: &Request, name: &[u8]) -> bool {
        match &self.cookie {
            Matcher::Pattern(pattern) => pattern.matches(r, &Bytes::copy_from_slice(name)),
            Matcher::Text(text) => text.value(r).eq_ignore_ascii_case(name),
        }
    }

    /// The flags; a value that is none does nothing.
    fn flags(&self, r: &Request) -> Flags {
        let known = self.flags.iter().filter_map(|flag| Flags::from_word(&flag.value(r)));
        known.fold(Flags::default(), Flags::and)
    }
}

/// The rules of a location.
#[derive(Debug, Clone, Default)]
pub(super) struct Cookies {
    pub(super) domains: Rules<Domain>,
    pub(super) paths: Rules<Path>,
    pub(super) flags: Rules<FlagRule>,
}

impl Cookies {
    /// Rewrites a `Set-Cookie` value; `None` leaves it as it is.
    pub(super) fn rewrite(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        if self.domains.0.is_empty() && self.paths.0.is_empty() && self.flags.0.is_empty() {
            return None;
        }
        let mut attributes: Vec<Attribute<'_>> = value.split(|byte| *byte == b';').map(attribute).collect();
        let (cookie, rest) = attributes.split_first_mut()?;
        cookie.value.as_ref()?;
        let mut changed = false;
        for attribute in rest {
            let Some(value) = attribute.value.as_deref() else { continue };
            let new = if attribute.is("domain") {
                self.domains.0.iter().find_map(|rule| rule.rewrite(r, value))
            } else if attribute.is("path") {
                self.paths.0.iter().find_map(|rule| rule.rewrite(r, value))
            } else {
                None
            };
            if let Some(new) = new {
                attribute.value = Some(Cow::Owned(new));
                changed = true;
            }
        }
        let name = attributes.first().map(|cookie| cookie.name.to_vec()).unwrap_or_default();
        if let Some(rule) = self.flags.0.iter().find(|rule| rule.applies(r, &name)) {
            let flags = rule.flags(r);
            if flags != Flags::default() {
                edit(&mut attributes, flags);
                changed = true;
            }
        }
        changed.then(|| join(&attributes))
    }
}

/// One part of a cookie. The name and value of the cookie itself are the first.
#[derive(Debug)]
struct Attribute<'a> {
    name: &'a [u8],
    value: Option<Cow<'a, [u8]>>,
}

impl Attribute<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

fn attribute(part: &[u8]) -> Attribute<'_> {
    match part.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (name, value) = part.split_at(at);
            let value = trim(value.get(1..).unwrap_or_default());
            Attribute { name: trim(name), value: Some(Cow::Borrowed(value)) }
        }
        None => Attribute { name: trim(part), value: None },
    }
}

fn trim(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(start, |at| at.saturating_add(1));
    text.get(start..end).unwrap_or_default()
}

/// Adds, changes and removes flags. A flag that is there already stays where it is.
fn edit(attributes: &mut Vec<Attribute<'_>>, flags: Flags) {
    let same_site = [(Flags::STRICT, "Strict"), (Flags::LAX, "Lax"), (Flags::NONE, "None")]
        .into_iter()
        .find(|(flag, _)| flags.has(*flag))
        .map(|(_, value)| value);
    let mut missing = (flags.has(Flags::SECURE), flags.has(Flags::HTTP_ONLY), same_site);
    let mut first = true;
    attributes.retain_mut(|attribute| {
        if std::mem::take(&mut first) {
            true
        } else if attribute.is("secure") {
            std::mem::take(&mut missing.0) || !flags.has(Flags::NO_SECURE)
        } else if attribute.is("httponly") {
            std::mem::take(&mut missing.1) || !flags.has(Flags::NO_HTTP_ONLY)
        } else if attribute.is("samesite") {
            let Some(wanted) = missing.2.take() else { return !flags.has(Flags::NO_SAME_SITE) };
            let have = attribute.value.as_deref().unwrap_or_default();
            if !have.eq_ignore_ascii_case(wanted.as_bytes()) {
                *attribute = Attribute { name: b"SameSite", value: Some(wanted.as_bytes().into()) };
            }
            true
        } else {
            true
        }
    });
    if missing.0 {
        attributes.push(Attribute { name: b"Secure", value: None });
    }
    if missing.1 {
        attributes.push(Attribute { name: b"HttpOnly", value: None });
    }
    if let Some(wanted) = missing.2 {
        attributes.push(Attribute { name: b"SameSite", value: Some(wanted.as_bytes().into()) });
    }
}

fn join(attributes: &[Attribute<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, attribute) in attributes.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(attribute.name);
        if let Some(value) = &attribute.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(cookie: &str, flags: Flags) -> String {
        let mut attributes = cookie.as_bytes().split(|byte| *byte == b';').map(attribute).collect();
        edit(&mut attributes, flags);
        String::from_utf8_lossy(&join(&attributes)).into_owned()
    }

    #[test]
    fn flags_are_added_once_in_nginx_spelling() {
        let flags = Flags::SECURE.and(Flags::HTTP_ONLY).and(Flags::LAX);
        assert_eq!(edited("a=b", flags), "a=b; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(edited("a=b;secure; HTTPONLY", flags), "a=b; secure; HTTPONLY; SameSite=Lax");
        assert_eq!(edited("a=b; samesite = none", Flags::STRICT), "a=b; SameSite=Strict");
        assert_eq!(edited("a=b; samesite=strict", Flags::STRICT), "a=b; samesite=strict");
    }

    #[test]
    fn flags_are_removed_wherever_they_stand() {
        let flags = Flags::NO_SECURE.and(Flags::NO_HTTP_ONLY).and(Flags::NO_SAME_SITE);
        assert_eq!(
            edited("secure=1; Path=/; Secure; HttpOnly; SameSite=Lax; secure", flags),
            "secure=1; Path=/"
        );
    }

    #[test]
    fn parts_are_trimmed_and_keep_their_equals_signs() {
        assert_eq!(edited(" a = b=c ;  d ; e=", Flags::default()), "a=b=c; d; e=");
    }
}
