//! `*_types` directives: the media types that a filter works on.
//!
//! Used by gzip, charset, sub, addition and ssi. nginx's counterpart: `ngx_http_types_slot`, `ngx_http_test_content_type`.

use std::collections::HashSet;
use std::sync::Arc;

use headwater_conf::{Args, Cx, Directive, Result, Value};

use crate::request::{HeadersOut, Request};

/// A set of media types; `text/html` is always in it.
#[derive(Debug, Clone)]
pub enum MimeTypes {
    /// `*`: every response, whether it has a type or not.
    All,
    /// These types, lower-case.
    Some(Arc<HashSet<Box<[u8]>>>),
}

impl MimeTypes {
    /// `text/html` alone, which is every filter's default.
    #[must_use]
    pub fn html() -> Self {
        Self::with(&["text/html"])
    }

    /// A set of types.
    #[must_use]
    pub fn with(types: &[&str]) -> Self {
        Self::Some(Arc::new(types.iter().map(|kind| kind.as_bytes().into()).collect()))
    }

    /// Whether a response's type is in the set.
    ///
    /// A `charset` parameter does not count when it came from a back end; one that the configuration wrote into a type does, as in nginx.
    #[must_use]
    pub fn matches(&self, r: &Request, out: &HeadersOut) -> bool {
        let Some(kind) = out.content_type.as_deref().filter(|kind| !kind.is_empty()) else {
            return matches!(self, Self::All);
        };
        let from_upstream = !r.upstream.borrow().states.is_empty();
        self.contains(if from_upstream { without_charset(kind) } else { kind })
    }

    /// Whether a type is in the set, whatever its case.
    #[must_use]
    pub fn contains(&self, kind: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Some(types) => {
                types.contains(kind)
                    || (kind.iter().any(u8::is_ascii_uppercase)
                        && types.contains(kind.to_ascii_lowercase().as_slice()))
            }
        }
    }
}

/// The part of a `Content-Type` before its `charset` parameter. Other parameters stay: nginx compares them too.
#[must_use]
pub fn without_charset(kind: &[u8]) -> &[u8] {
    for (at, _) in kind.iter().enumerate().filter(|(_, byte)| **byte == b';') {
        let (head, tail) = kind.split_at(at);
        let parameter = tail.get(1..).unwrap_or_default().trim_ascii_start();
        if parameter.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"charset=")) {
            return head;
        }
    }
    kind
}

impl Value for MimeTypes {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or_else(Self::html))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        for word in &directive.args {
            let Self::Some(types) = slot.get_or_insert_with(Self::html) else { break };
            if word.text == b"*" {
                *slot = Some(Self::All);
                break;
            }
            if !Arc::make_mut(types).insert(word.text.to_ascii_lowercase().into()) {
                let shown = word.str().to_ascii_lowercase();
                cx.warn(directive, format!("duplicate MIME type \"{shown}\""));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charset_parameter_is_cut_off_and_others_are_not() {
        assert_eq!(without_charset(b"text/html; charset=utf-8"), b"text/html");
        assert_eq!(without_charset(b"text/html;CHARSET=utf-8"), b"text/html");
        assert_eq!(without_charset(b"text/html; a=b; charset=x"), b"text/html; a=b");
        assert_eq!(without_charset(b"text/html; a=b"), b"text/html; a=b");
        assert_eq!(without_charset(b"text/html;"), b"text/html;");
    }

    #[test]
    fn types_are_compared_without_regard_to_case() {
        let types = MimeTypes::with(&["text/html", "text/css"]);
        assert!(types.contains(b"Text/CSS"));
        assert!(!types.contains(b"text/plain"));
        assert!(MimeTypes::All.contains(b"anything"));
    }
}
