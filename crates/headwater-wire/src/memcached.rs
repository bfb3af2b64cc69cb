//! memcached's text protocol, as far as one key is asked for: the request, the line before a value, the end behind it.
//!
//! [`write_get`] appends a request, [`HeadParser`] finds the first line of the answer, [`BodyDecoder`] takes value and trailer apart as they come. Called by
//! the memcached module. nginx counterparts: `ngx_http_memcached_create_request`, `ngx_http_memcached_process_header`, `ngx_http_memcached_filter`. Source:
//! memcached's `doc/protocol.txt`, retrieval commands.

use std::ops::Range;

use memchr::memchr;

use crate::escape::{Escape, escape_uri};
use crate::span::Span;

/// What stands behind a value.
const TRAILER: &[u8] = b"\r\nEND\r\n";

/// Appends the request for a key, with the bytes escaped that would end it; gives where the key stands.
pub fn write_get(key: &[u8], out: &mut Vec<u8>) -> Span {
    out.extend_from_slice(b"get ");
    let start = out.len();
    escape_uri(key, Escape::Memcached, out);
    let end = out.len();
    out.extend_from_slice(b"\r\n");
    Span::between(start, end)
}

/// The first line of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A value follows.
    Value {
        /// What was stored with the value; 0 unless it was asked for.
        flags: u64,
        /// Bytes of the value.
        length: u64,
    },
    /// There is no such key.
    NotFound,
}

/// Why the first line of an answer was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The value is that of another key.
    Key,
    /// The flags are no number.
    Flags,
    /// The length is no number.
    Length,
    /// It is no answer to this question.
    Response,
}

/// Finds the first line of an answer.
#[derive(Clone, Debug, Default)]
pub struct HeadParser {
    /// Bytes that hold no line feed.
    seen: usize,
}

impl HeadParser {
    /// Looks at `buf`, which holds all bytes of the answer so far; `key` is escaped, `flags` says whether they matter. `None` until the line is there, then how
    /// long it is and what it says.
    pub fn parse(&mut self, buf: &[u8], key: &[u8], flags: bool) -> Option<(usize, Result<Head, HeadError>)> {
        let fresh = buf.get(self.seen..).unwrap_or_default();
        let Some(at) = memchr(b'\n', fresh) else {
            self.seen = buf.len();
            return None;
        };
        let end = self.seen.saturating_add(at);
        let line = buf.get(..end).unwrap_or_default();
        Some((end.saturating_add(1), head(line, key, flags)))
    }
}

/// A line as it is logged: without the line feed that `length` counts, and without the CR before that.
#[must_use]
pub fn shown_line(buf: &[u8], length: usize) -> &[u8] {
    let line = buf.get(..length.saturating_sub(1)).unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Reads a line without its line feed.
fn head(line: &[u8], key: &[u8], wants_flags: bool) -> Result<Head, HeadError> {
    let line = line.strip_suffix(b"\r").ok_or(HeadError::Response)?;
    if line == b"END" {
        return Ok(Head::NotFound);
    }
    let rest = line.strip_prefix(b"VALUE ").ok_or(HeadError::Response)?;
    let rest = rest.strip_prefix(key).ok_or(HeadError::Key)?;
    let rest = rest.strip_prefix(b" ").ok_or(HeadError::Response)?;
    let space = memchr(b' ', rest).ok_or(HeadError::Response)?;
    let (flags, length) = rest.split_at_checked(space).ok_or(HeadError::Response)?;
    let flags = if wants_flags { number(flags).ok_or(HeadError::Flags)? } else { 0 };
    let length = length.strip_prefix(b" ").and_then(number).ok_or(HeadError::Length)?;
    Ok(Head::Value { flags, length })
}

/// A decimal number below 2^63.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte.saturating_sub(b'0')));
    let sum = digits.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(10)?.checked_add(digit(byte)?))?;
    i64::try_from(sum).is_ok().then_some(sum)
}

/// One step of [`BodyDecoder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// Where in the input bytes of the value stand.
    pub data: Option<Range<usize>>,
    /// What is known of the answer's end.
    pub end: End,
}

/// How an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// More is to come.
    More,
    /// Value and trailer were complete and right.
    Complete,
    /// What follows the value is not the trailer.
    Invalid,
}

/// Takes a value and the trailer behind it apart.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    left: u64,
    /// Bytes of the trailer that came.
    trailer: usize,
    end: End,
}

impl BodyDecoder {
    /// A decoder before the first byte of a value; bytes of the value.
    #[must_use]
    pub fn new(length: u64) -> Self {
        Self { left: length, trailer: 0, end: End::More }
    }

    /// Bytes of the value to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes bytes of the value as read without being shown them.
    pub fn skip(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
    }

    /// Takes bytes; all of them, unless the answer ends before.
    pub fn decode(&mut self, input: &[u8]) -> Step {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        self.left = self.left.saturating_sub(count as u64);
        let data = (count > 0).then_some(0..count);
        let rest = input.get(count..).unwrap_or_default();
        let mut consumed = count;
        if self.left == 0 && self.end == End::More {
            let wanted = TRAILER.get(self.trailer..).unwrap_or_default();
            let same = wanted.iter().zip(rest).take_while(|(wanted, came)| wanted == came).count();
            self.trailer = self.trailer.saturating_add(same);
            consumed = consumed.saturating_add(same);
            if same == wanted.len() {
                self.end = End::Complete;
            } else if same < rest.len() {
                self.end = End::Invalid;
            }
        }
        Step { consumed, data, end: self.end }
    }
}

#[cfg(test)]
mod tests;
