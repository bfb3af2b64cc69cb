//! Request paths: decoding and normalising, and the check of URIs that come from back ends.
//!
//! The routing room normalises the target of a request whose line is marked complex; the upstream engine checks
//! `X-Accel-Redirect`, the SSI module its includes. nginx counterparts: `ngx_http_parse_complex_uri`,
//! `ngx_http_parse_unsafe_uri`, `ngx_http_set_exten`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr2, memrchr};

use crate::escape::{Unescape, unescape};

/// The URI is malformed or leads above the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadUri;

impl fmt::Display for BadUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid URI")
    }
}

impl std::error::Error for BadUri {}

/// A decoded, normalised path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Normalized {
    /// The path, beginning with `/` if the input did or was empty.
    pub path: Vec<u8>,
    /// The arguments behind the first `?`, without fragment, as a range of the input.
    pub args: Option<Range<usize>>,
    /// The extension, as a range of `path`; see [`exten`].
    pub exten: Option<Range<usize>>,
}

/// Whether `raw` (path and maybe `?args`) means the same before and after [`normalize`]: its path begins with `/` and
/// holds no `%`, `//` or `/.`, and there is no fragment.
#[must_use]
pub fn is_simple(raw: &[u8]) -> bool {
    if raw.first() != Some(&b'/') || memchr(b'#', raw).is_some() {
        return false;
    }
    let path = memchr(b'?', raw).and_then(|at| raw.get(..at)).unwrap_or(raw);
    let mut behind_slash = false;
    for &byte in path {
        if byte == b'%' || (behind_slash && (byte == b'/' || byte == b'.')) {
            return false;
        }
        behind_slash = byte == b'/';
    }
    true
}

/// Checks a target that did not pass through the HTTP/1 request line (`:path` of HTTP/2): it begins with `/` and holds
/// no controls and no space. nginx counterpart: `ngx_http_parse_uri`.
///
/// # Errors
/// It is no such target.
pub fn check_target(raw: &[u8]) -> Result<(), BadUri> {
    let valid = raw.first() == Some(&b'/') && raw.iter().all(|&byte| byte > 0x20 && byte != 0x7f);
    if valid { Ok(()) } else { Err(BadUri) }
}

/// Decodes `%XX`, resolves `.` and `..`, merges slashes if `merge_slashes`, cuts the fragment off and splits the
/// arguments (which stay as they are). An escaped `?`, `#` or `%` is an ordinary character; an escaped `.` or `/`
/// counts as the real one.
///
/// # Errors
/// A malformed escape, NUL or `%00`, or a path that leads above the root.
pub fn normalize(raw: &[u8], merge_slashes: bool) -> Result<Normalized, BadUri> {
    let (end, args) = split(raw);
    let raw_path = raw.get(..end).unwrap_or_default();
    let mut path = Vec::with_capacity(raw_path.len() + 1);
    if raw_path.is_empty() {
        path.push(b'/');
    }
    // the segment being read begins here; none before the first slash
    let mut segment = None;
    let mut rest = raw_path;
    while let Some((byte, left)) = decode_byte(rest)? {
        rest = left;
        if byte != b'/' {
            path.push(byte);
            continue;
        }
        if let Some(start) = segment
            && end_segment(&mut path, start, merge_slashes)?
        {
            segment = Some(path.len());
            continue;
        }
        path.push(b'/');
        segment = Some(path.len());
    }
    if let Some(start) = segment {
        end_segment(&mut path, start, false)?;
    }
    // a segment that begins with ".." has an extension only behind a third dot
    let dots = segment.filter(|&start| path.get(start..).is_some_and(|last| last.starts_with(b"..")));
    let exten = exten(&path).filter(|exten| dots.is_none_or(|start| exten.start > start + 3));
    Ok(Normalized { path, args, exten })
}

/// Resolves the segment that begins at `start`, behind a slash; true if nothing is left of it, so that the slash
/// before it already ends the path.
fn end_segment(path: &mut Vec<u8>, start: usize, merge_slashes: bool) -> Result<bool, BadUri> {
    match path.get(start..).unwrap_or_default() {
        b"" => Ok(merge_slashes),
        b"." => {
            path.truncate(start);
            Ok(true)
        }
        b".." => {
            let before = start.checked_sub(1).and_then(|slash| path.get(..slash)).unwrap_or_default();
            let parent = memrchr(b'/', before).ok_or(BadUri)?;
            path.truncate(parent + 1);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Where the path ends, and the range of the arguments.
fn split(raw: &[u8]) -> (usize, Option<Range<usize>>) {
    let Some(at) = memchr2(b'?', b'#', raw) else {
        return (raw.len(), None);
    };
    if raw.get(at) == Some(&b'#') {
        return (at, None);
    }
    let args = raw.get(at + 1..).unwrap_or_default();
    let end = memchr(b'#', args).unwrap_or(args.len());
    (at, Some(at + 1..at + 1 + end))
}

/// The first byte of `text`, decoded, and what is left.
fn decode_byte(text: &[u8]) -> Result<Option<(u8, &[u8])>, BadUri> {
    match text {
        [] => Ok(None),
        [0, ..] => Err(BadUri),
        [b'%', high, low, rest @ ..] => {
            let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low);
            match byte {
                None | Some(0) => Err(BadUri),
                Some(byte) => Ok(Some((byte, rest))),
            }
        }
        [b'%', ..] => Err(BadUri),
        [byte, rest @ ..] => Ok(Some((*byte, rest))),
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The extension of a normalised path: what stands behind the last dot of its last segment, unless that dot begins
/// the segment. A range of `path`, possibly empty.
#[must_use]
pub fn exten(path: &[u8]) -> Option<Range<usize>> {
    let at = path.iter().rposition(|&byte| byte == b'.' || byte == b'/')?;
    let before = at.checked_sub(1).and_then(|before| path.get(before));
    if path.get(at) != Some(&b'.') || before.is_none_or(|&byte| byte == b'/') {
        return None;
    }
    Some(at + 1..path.len())
}

/// A URI that passed [`parse_unsafe_uri`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeUri<'a> {
    /// The decoded path; not normalised.
    pub path: Cow<'a, [u8]>,
    /// The arguments behind the first `?`, as a range of the input.
    pub args: Option<Range<usize>>,
}

/// Splits and decodes a URI given by a back end or a page (`X-Accel-Redirect`, SSI `include`, `Destination`).
///
/// # Errors
/// It is empty, begins with `?`, holds NUL (also `%00`), or has a `..` segment before or after decoding. nginx logs
/// `unsafe URI "…" was detected`.
pub fn parse_unsafe_uri(uri: &[u8]) -> Result<UnsafeUri<'_>, BadUri> {
    let question = memchr(b'?', uri);
    let raw = question.and_then(|at| uri.get(..at)).unwrap_or(uri);
    let args = question.map(|at| at + 1..uri.len());
    if raw.is_empty() || !is_safe(raw) {
        return Err(BadUri);
    }
    if memchr(b'%', raw).is_none() {
        return Ok(UnsafeUri { path: Cow::Borrowed(raw), args });
    }
    let mut path = Vec::with_capacity(raw.len());
    unescape(raw, Unescape::All, &mut path);
    if path.is_empty() || !is_safe(&path) {
        return Err(BadUri);
    }
    Ok(UnsafeUri { path: Cow::Owned(path), args })
}

fn is_safe(path: &[u8]) -> bool {
    memchr(0, path).is_none() && path.split(|&byte| byte == b'/').all(|segment| segment != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(raw: &str, merge: bool, expect: Option<(&str, Option<&str>, Option<&str>)>) {
        let got = normalize(raw.as_bytes(), merge).ok();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got = got.map(|uri| {
            let args = uri.args.clone().map(|range| text(&raw.as_bytes()[range]));
            (text(&uri.path), args, uri.exten.clone().map(|range| text(&uri.path[range])))
        });
        let expect =
            expect.map(|(path, args, exten)| (path.into(), args.map(Into::into), exten.map(Into::into)));
        assert_eq!(got, expect, "{raw}");
    }

    #[test]
    fn normalize_resolves_and_decodes() {
        check("/", true, Some(("/", None, None)));
        check("/a/./b/../c.html?x=%20#f", true, Some(("/a/c.html", Some("x=%20"), Some("html"))));
        check("/a//b///c", true, Some(("/a/b/c", None, None)));
        check("/a//b///c", false, Some(("/a//b///c", None, None)));
        check("/a//../b", false, Some(("/a/b", None, None)));
        check("/a//../b", true, Some(("/b", None, None)));
        check("/a/..", true, Some(("/", None, None)));
        check("/a/.", true, Some(("/a/", None, None)));
        check("/a/b/..?x", true, Some(("/a/", Some("x"), None)));
        check("/%2e%2E/x", true, None);
        check("/a/%2e./x", true, Some(("/x", None, None)));
        check("/a%2F..%2fb", true, Some(("/b", None, None)));
        check("/a%2F%2fb", true, Some(("/a/b", None, None)));
        check("/%25%23%3f?", true, Some(("/%#?", Some(""), None)));
        check("/%252e%252e/x", true, Some(("/%2e%2e/x", None, None)));
        check("?a=b", true, Some(("/", Some("a=b"), None)));
        check("", true, Some(("/", None, None)));
        check("/a#b?c", true, Some(("/a", None, None)));
        check("/a?b?c#d#e", true, Some(("/a", Some("b?c"), None)));
    }

    #[test]
    fn normalize_extension_as_nginx_finds_it() {
        check("/a.b/c", true, Some(("/a.b/c", None, None)));
        check("/.htaccess", true, Some(("/.htaccess", None, None)));
        check("/.a.b", true, Some(("/.a.b", None, Some("b"))));
        check("/..a", true, Some(("/..a", None, None)));
        check("/...", true, Some(("/...", None, None)));
        check("/a.", true, Some(("/a.", None, Some(""))));
        check("/a.b/./", true, Some(("/a.b/", None, None)));
    }

    #[test]
    fn normalize_bad_uris_fails() {
        for raw in [
            "/..",
            "/../",
            "/a/../..",
            "/%00",
            "/%",
            "/%4",
            "/%g0",
            "/%0g",
            "/a/../../b",
            "/..?x",
            "/..#x",
            "/\0",
        ] {
            check(raw, true, None);
        }
    }

    #[test]
    fn check_target_refuses_controls_and_other_forms() {
        for (raw, good) in
            [("/", true), ("/\u{e9}?a#b", true), ("", false), ("a", false), ("/ ", false), ("/\x7f", false)]
        {
            assert_eq!(check_target(raw.as_bytes()).is_ok(), good, "{raw}");
        }
    }

    #[test]
    fn is_simple_only_without_specials() {
        for raw in ["/", "/a/b.c", "/a?x=%20&y=//..", "/a+b", "/a."] {
            assert!(is_simple(raw.as_bytes()), "{raw}");
        }
        for raw in ["", "a", "/a//b", "/./a", "/.a", "/%41", "/a#b", "/a?b#c", "?a"] {
            assert!(!is_simple(raw.as_bytes()), "{raw}");
        }
    }

    #[test]
    fn parse_unsafe_uri_decodes_or_refuses() {
        let uri = parse_unsafe_uri(b"/a%20b/c?d=%20").unwrap();
        assert_eq!((&*uri.path, uri.args), (&b"/a b/c"[..], Some(9..14)));
        assert!(matches!(parse_unsafe_uri(b"/a/..b").unwrap().path, Cow::Borrowed(b"/a/..b")));
        for raw in [
            "", "?a", "..", "../a", "/../a", "/a/..", "/a/../b", "/%2e%2e/", "%2e%2e", "/a%00", "/a\0b",
            "/a%2f..", "/a/..?b",
        ] {
            assert_eq!(parse_unsafe_uri(raw.as_bytes()), Err(BadUri), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn normalize_simple_uri_changes_nothing(raw in "/[a-z./?%#]{0,20}") {
            if is_simple(raw.as_bytes()) {
                let uri = normalize(raw.as_bytes(), true).unwrap();
                let path = raw.split('?').next().unwrap();
                prop_assert_eq!(uri.path, path.as_bytes());
                prop_assert_eq!(uri.exten, exten(path.as_bytes()));
            }
        }

        #[test]
        fn normalize_result_stays_below_root(raw in "/([a.%/?#25eEfF0]|%2e|%2f|%00){0,24}", merge in any::<bool>()) {
            if let Ok(uri) = normalize(raw.as_bytes(), merge) {
                prop_assert_eq!(uri.path.first(), Some(&b'/'));
                prop_assert!(!uri.path.contains(&0));
                let mut segments = uri.path.split(|&byte| byte == b'/');
                prop_assert!(segments.all(|segment| segment != b".." && segment != b"."));
                prop_assert!(!merge || uri.path.windows(2).all(|pair| pair != b"//"));
            }
        }
    }
}
