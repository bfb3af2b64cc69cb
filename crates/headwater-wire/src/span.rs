//! Positions in a byte buffer, used instead of borrowed slices so that a parsed head can own its bytes.
//!
//! Made by the head parsers, read through [`crate::headers::HeaderList`]. nginx counterpart: `ngx_str_t` into
//! `header_in`.

use std::ops::Range;

/// A run of bytes in some buffer: offset and length, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// The span from `start` up to but not including `end`; empty if `end` comes before `start`. Offsets beyond
    /// 4 GiB are clamped, which makes the span point outside of any head (heads are limited to far less).
    #[must_use]
    pub fn between(start: usize, end: usize) -> Self {
        Self { start: clamp(start), len: clamp(end.saturating_sub(start)) }
    }

    /// The bytes of this span in `buf`; empty when the span does not lie inside `buf`.
    #[must_use]
    pub fn get<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        buf.get(self.range()).unwrap_or_default()
    }

    /// The span as a range of offsets.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start.saturating_add(self.len as usize)
    }

    /// Offset just behind the last byte.
    #[must_use]
    pub fn end(&self) -> usize {
        self.range().end
    }

    /// Whether the span holds no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn clamp(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_outside_buffer_is_empty() {
        assert_eq!(Span { start: 2, len: 5 }.get(b"abc"), b"");
        assert_eq!(Span { start: u32::MAX, len: u32::MAX }.get(b"abc"), b"");
        assert_eq!(Span::between(1, 3).get(b"abc"), b"bc");
        assert_eq!(Span::between(3, 1).len, 0);
    }
}
