//! The `Range` header against a known length.
//!
//! Called by the range filter and the slice module. RFC 9110 §14 with nginx's rules: too many ranges, or ranges that
//! add up to more than the whole, give the whole. nginx counterpart: `ngx_http_range_parse`.

use std::ops::Range;

/// What a `Range` header asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RangeOutcome {
    /// The header is to be ignored: send everything with 200.
    Full,
    /// 416: malformed, or no range overlaps the content.
    NotSatisfiable,
    /// These ranges of bytes, in the order asked for, at least one, each not empty and inside the content.
    Ranges(Vec<Range<u64>>),
}

/// Reads a `Range` value for content of `length` bytes; `max_ranges` is the directive's value (0 turns ranges off;
/// `usize::MAX` for no limit).
#[must_use]
pub fn parse(value: &[u8], length: u64, max_ranges: usize) -> RangeOutcome {
    let specs = match value.split_at_checked(6) {
        Some((unit, specs)) if unit.eq_ignore_ascii_case(b"bytes=") && !specs.is_empty() => specs,
        _ => return RangeOutcome::Full,
    };
    if max_ranges == 0 {
        return RangeOutcome::Full;
    }
    let mut ranges = Vec::new();
    let mut size: u64 = 0;
    for spec in specs.split(|&byte| byte == b',') {
        let Some(range) = parse_spec(spec, length) else {
            return RangeOutcome::NotSatisfiable;
        };
        if range.start < range.end {
            size = match size.checked_add(range.end - range.start) {
                Some(size) if size <= MAX => size,
                _ => return RangeOutcome::NotSatisfiable,
            };
            if ranges.len() >= max_ranges {
                return RangeOutcome::Full;
            }
            ranges.push(range);
        } else if range.start == 0 {
            // only content of no bytes
            return RangeOutcome::Full;
        }
    }
    if ranges.is_empty() {
        RangeOutcome::NotSatisfiable
    } else if size > length {
        RangeOutcome::Full
    } else {
        RangeOutcome::Ranges(ranges)
    }
}

const MAX: u64 = i64::MAX as u64;

/// One of the comma-separated parts: `first-last`, `first-` or `-suffix`, spaces around each number.
fn parse_spec(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    let (first, last) = spec.split_at_checked(dash)?;
    let last = last.get(1..)?;
    if first.iter().all(|&byte| byte == b' ') {
        // no space may stand between "-" and the suffix length
        let suffix = parse_number(trim_end(last))?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let start = parse_number(trim_start(trim_end(first)))?;
    let last = trim_start(trim_end(last));
    if last.is_empty() {
        return Some(start..length.max(start));
    }
    let end = parse_number(last)?;
    let end = if end >= length { length } else { end + 1 };
    Some(start..end)
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    crate::http1::semantics::parse_length(digits)
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = text {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

/// What a `Content-Range` header says (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes.
    pub range: Range<u64>,
    /// The length of the whole, unless it is `*`.
    pub complete: Option<u64>,
}

/// Reads a `Content-Range` of bytes that are there: `bytes 0-99/1000`. `None` for anything else, unsatisfied ranges included.
#[must_use]
pub fn parse_content_range(value: &[u8]) -> Option<ContentRange> {
    let text = value.strip_prefix(b"bytes ")?;
    let (first, rest) = split_at_byte(text, b'-')?;
    let (last, complete) = split_at_byte(rest, b'/')?;
    let (first, last) = (parse_number(first.trim_ascii())?, parse_number(last.trim_ascii())?);
    let complete = match complete.trim_ascii() {
        b"*" => None,
        digits => Some(parse_number(digits)?),
    };
    let end = last.checked_add(1)?;
    (first < end).then_some(ContentRange { range: first..end, complete })
}

fn split_at_byte(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|other| *other == byte)?;
    Some((text.get(..at)?, text.get(at.checked_add(1)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> RangeOutcome {
        RangeOutcome::Ranges(list.iter().map(|&(start, end)| start..end).collect())
    }

    fn check(value: &str, length: u64, expect: RangeOutcome) {
        assert_eq!(parse(value.as_bytes(), length, usize::MAX), expect, "{value} of {length}");
    }

    #[test]
    fn parse_good_ranges_gives_them() {
        check("bytes=0-0", 10, ranges(&[(0, 1)]));
        check("BYTES=0-99", 10, ranges(&[(0, 10)]));
        check("bytes=5-", 10, ranges(&[(5, 10)]));
        check("bytes=-3", 10, ranges(&[(7, 10)]));
        check("bytes=-30", 10, ranges(&[(0, 10)]));
        check("bytes= 1 - 2 , 4-5", 10, ranges(&[(1, 3), (4, 6)]));
        check("bytes=20-30,1-1", 10, ranges(&[(1, 2)]));
        check("bytes=0-9", 10, ranges(&[(0, 10)]));
    }

    #[test]
    fn parse_unsatisfiable_or_malformed_gives_416() {
        for value in [
            "bytes=10-",
            "bytes=5-4",
            "bytes=-0",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2x",
            "bytes=1-2,",
            "bytes=,1-2",
            "bytes=- 5",
            "bytes=9223372036854775808-",
            "bytes=--1",
            "bytes=1 2-3",
            "bytes= ",
            "bytes=0-1-2",
        ] {
            check(value, 10, RangeOutcome::NotSatisfiable);
        }
    }

    #[test]
    fn parse_foreign_or_excessive_gives_full() {
        check("items=0-1", 10, RangeOutcome::Full);
        check("bytes=", 10, RangeOutcome::Full);
        check("bytes=0-9,0-9", 10, RangeOutcome::Full);
        check("bytes=0-", 0, RangeOutcome::Full);
        check("bytes=-5", 0, RangeOutcome::Full);
        assert_eq!(parse(b"bytes=0-1,3-4", 10, 1), RangeOutcome::Full);
        assert_eq!(parse(b"bytes=0-1", 10, 0), RangeOutcome::Full);
        assert_eq!(parse(b"bytes=0-1,30-40", 10, 1), ranges(&[(0, 2)]));
    }

    #[test]
    fn content_ranges_are_read_and_others_refused() {
        let read =
            |text: &str| parse_content_range(text.as_bytes()).map(|found| (found.range, found.complete));
        assert_eq!(read("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(read("bytes  5 - 5 / *"), Some((5..6, None)));
        for text in [
            "",
            "bytes */10",
            "bytes 5-4/10",
            "bytes 0-9",
            "bytes 0-x/9",
            "items 0-1/2",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
