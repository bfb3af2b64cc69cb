//! Entity tags against the lists of `If-Match`, `If-None-Match` and `If-Range`.
//!
//! Called by the not-modified and range filters. nginx counterpart: `ngx_http_test_if_match`.

/// Whether `list` (the value of the header) holds `etag`, or is `*`. Weak comparison, which ignores `W/`, is for
/// `If-None-Match`; strong for `If-Match`. Without an `etag` only `*` matches.
#[must_use]
pub fn matches(list: &[u8], etag: Option<&[u8]>, weak: bool) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(etag) = etag else {
        return false;
    };
    let etag = if weak { without_weak(etag) } else { etag };
    let mut rest = list;
    while !rest.is_empty() {
        if weak {
            rest = without_weak(rest);
        }
        if let Some(behind) = rest.strip_prefix(etag) {
            rest = trim_start(behind, b" \t");
            if matches!(rest, [] | [b',', ..]) {
                return true;
            }
        }
        let comma = memchr::memchr(b',', rest).unwrap_or(rest.len());
        rest = trim_start(rest.get(comma..).unwrap_or_default(), b" \t,");
    }
    false
}

/// The tag without `W/`, unless nothing would be left.
fn without_weak(tag: &[u8]) -> &[u8] {
    match tag {
        [b'W', b'/', strong @ ..] if !strong.is_empty() => strong,
        _ => tag,
    }
}

fn trim_start<'a>(mut text: &'a [u8], set: &[u8]) -> &'a [u8] {
    while let [first, rest @ ..] = text
        && set.contains(first)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, etag: &str, strong: bool, weak: bool) {
        assert_eq!(matches(list.as_bytes(), Some(etag.as_bytes()), false), strong, "strong {list} {etag}");
        assert_eq!(matches(list.as_bytes(), Some(etag.as_bytes()), true), weak, "weak {list} {etag}");
    }

    #[test]
    fn matches_listed_tags() {
        check("\"a\"", "\"a\"", true, true);
        check("\"b\" ,\t\"a\" , \"c\"", "\"a\"", true, true);
        check("W/\"a\"", "\"a\"", false, true);
        check("\"a\"", "W/\"a\"", false, true);
        check("W/\"a\"", "W/\"a\"", true, true);
        check("*", "\"x\"", true, true);
    }

    #[test]
    fn matches_not_other_tags() {
        check("\"ab\"", "\"a\"", false, false);
        check("\"a\"x", "\"a\"", false, false);
        check("", "\"a\"", false, false);
        check(",,,", "\"a\"", false, false);
        check("*, \"b\"", "\"a\"", false, false);
        assert!(!matches(b"\"a\"", None, true));
        assert!(matches(b"*", None, true));
    }
}
