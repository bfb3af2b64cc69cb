//! Domain names in wire form, in lower case: what questions, answers and the cache are compared by.
//!
//! Made from the text of a configuration or request and from records of answers; used by `message` and `core`. nginx's counterpart: the name half of
//! `ngx_resolver_create_name_query` and `ngx_resolver_copy`.

use std::fmt;

/// Longest name in wire form, with its final zero (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

/// Longest label (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// A domain name: labels with their lengths in front, then a zero; upper case made lower.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DomainName(Box<[u8]>);

impl DomainName {
    /// Reads `www.example.com`; one dot at the end does not matter. `None` for what no server can be asked: no labels, an empty or
    /// too long label, too long a name.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        Self::from_labels(text.split(|byte| *byte == b'.'))
    }

    /// Puts labels together.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            let length = u8::try_from(label.len()).ok()?;
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(length);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        (wire.len() > 1 && wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// Takes the name of a question as a server repeated it, with its final zero.
    pub(super) fn from_wire(wire: &[u8]) -> Option<Self> {
        let name = Self(wire.to_ascii_lowercase().into());
        // Only what its own labels give back is a name.
        (Self::from_labels(name.labels()).as_ref() == Some(&name)).then_some(name)
    }

    /// The bytes as a question holds them.
    #[cfg(test)]
    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, first one first.
    pub(super) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first().filter(|(length, _)| **length > 0)?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(label)
        })
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(&String::from_utf8_lossy(label))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_names_gives_lower_case_wire_form() {
        let name = DomainName::parse(b"WWW.Example.").unwrap();
        assert_eq!(name.wire(), b"\x03www\x07example\0");
        assert_eq!(name.to_string(), "www.example");
        assert_eq!(DomainName::parse(b"_http._tcp.a").unwrap().to_string(), "_http._tcp.a");
    }

    #[test]
    fn parse_what_is_no_name_gives_none() {
        let long = [b'a'; 64];
        for text in [&b""[..], b".", b"..", b"a..b", b".a", b"a..", &long] {
            assert_eq!(DomainName::parse(text), None, "{text:?}");
        }
        let many = "abcdefg.".repeat(31);
        assert!(DomainName::parse(many.as_bytes()).is_some());
        assert_eq!(DomainName::parse(format!("{many}abcdefg").as_bytes()), None);
    }
}
