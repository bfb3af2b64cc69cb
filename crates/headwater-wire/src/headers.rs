//! A list of header lines in one arena: a byte buffer and line records that point into it.
//!
//! The request and response rooms adopt the bytes of a parsed head (no copy per line) and later push, set or remove
//! lines. nginx counterpart: `ngx_list_t` of `ngx_table_elt_t` in `headers_in` and `headers_out`.

pub use crate::known::KnownHeader;
pub use crate::span::Span;

/// One header line: where its name and value lie in the arena, and the name's identity if it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The name as sent.
    pub name: Span,
    /// The value without the spaces around it.
    pub value: Span,
    /// The identity of the name.
    pub known: KnownHeader,
}

/// A borrowed view of one header line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The name as sent or pushed.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// The identity of the name.
    pub known: KnownHeader,
}

/// Header lines in one arena: one byte buffer and line spans into it, in the order they were sent or pushed.
///
/// Bytes are only ever appended (until [`HeaderList::clear`]), so a [`Span`] into the arena stays valid whatever
/// lines are pushed or removed.
#[derive(Default, Clone, Debug)]
pub struct HeaderList {
    buf: Vec<u8>,
    lines: Vec<Line>,
    /// One bit for each known name that a line has or had: most look-ups are for names that are not there.
    seen: u64,
}

impl HeaderList {
    /// An empty list that has allocated nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { buf: Vec::new(), lines: Vec::new(), seen: 0 }
    }

    /// An empty list with room for `bytes` bytes of names and values and for `lines` lines.
    #[must_use]
    pub fn with_capacity(bytes: usize, lines: usize) -> Self {
        Self { buf: Vec::with_capacity(bytes), lines: Vec::with_capacity(lines), seen: 0 }
    }

    /// Takes over the bytes of a parsed head and its lines. The spans of `lines` point into `buf`.
    #[must_use]
    pub fn adopt(buf: Vec<u8>, lines: Vec<Line>) -> Self {
        let seen = lines.iter().fold(0, |seen, line| seen | line.known.bit());
        Self { buf, lines, seen }
    }

    /// Whether a line may have this known name; `false` is certain.
    #[must_use]
    pub fn may_have(&self, known: KnownHeader) -> bool {
        self.seen & known.bit() != 0
    }

    /// Appends a line. The bytes are copied into the arena as they are: the caller answers for their validity.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.push_line(name, value, KnownHeader::lookup(name));
    }

    /// Appends a line with a known name in its usual spelling.
    pub fn push_known(&mut self, known: KnownHeader, value: &[u8]) {
        self.push_line(known.canonical().as_bytes(), value, known);
    }

    /// Gives `value` to the first line called `name` and removes the others; appends a line when there is none.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        let known = KnownHeader::lookup(name);
        let Some(first) = self.lines.iter().position(|line| line.is_called(&self.buf, known, name)) else {
            self.push(name, value);
            return;
        };
        let value = self.append(value);
        let buf = &self.buf;
        let mut at = 0;
        self.lines.retain_mut(|line| {
            let here = at;
            at += 1;
            if here == first {
                line.value = value;
            }
            here <= first || !line.is_called(buf, known, name)
        });
    }

    /// Gives the first line with this known name another value, in its place; whether there is one.
    pub fn replace_known(&mut self, known: KnownHeader, value: &[u8]) -> bool {
        let value = self.append(value);
        let line = self.lines.iter_mut().find(|line| line.known == known && known != KnownHeader::Other);
        line.map(|line| line.value = value).is_some()
    }

    /// Removes every line called `name` (ASCII case ignored); the number of lines removed.
    pub fn remove(&mut self, name: &[u8]) -> usize {
        match KnownHeader::lookup(name) {
            KnownHeader::Other => {
                let before = self.lines.len();
                let buf = &self.buf;
                self.lines.retain(|line| !line.is_called(buf, KnownHeader::Other, name));
                before - self.lines.len()
            }
            known => self.remove_known(known),
        }
    }

    /// Removes every line with this known name; the number of lines removed. `Other` removes nothing.
    pub fn remove_known(&mut self, known: KnownHeader) -> usize {
        if known == KnownHeader::Other || !self.may_have(known) {
            return 0;
        }
        let before = self.lines.len();
        self.lines.retain(|line| line.known != known);
        before - self.lines.len()
    }

    /// Keeps the lines for which `keep(name, value, known)` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8], KnownHeader) -> bool) {
        let buf = &self.buf;
        self.lines.retain(|line| keep(line.name.get(buf), line.value.get(buf), line.known));
    }

    /// The value of the first line called `name` (ASCII case ignored).
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The value of the first line with this known name.
    #[must_use]
    pub fn get_known(&self, known: KnownHeader) -> Option<&[u8]> {
        if !self.may_have(known) {
            return None;
        }
        self.get_all_known(known).next()
    }

    /// The values of all lines called `name` (ASCII case ignored), in order.
    pub fn get_all<'a>(&'a self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        let known = KnownHeader::lookup(name);
        let matches = move |line: &&Line| line.is_called(&self.buf, known, name);
        self.lines.iter().filter(matches).map(|line| line.value.get(&self.buf))
    }

    /// The values of all lines with this known name, in order. `Other` gives none.
    pub fn get_all_known(&self, known: KnownHeader) -> impl Iterator<Item = &[u8]> + '_ {
        let matches = move |line: &&Line| line.known == known && known != KnownHeader::Other;
        self.lines.iter().filter(matches).map(|line| line.value.get(&self.buf))
    }

    /// How many lines have this known name.
    #[must_use]
    pub fn count_known(&self, known: KnownHeader) -> usize {
        self.get_all_known(known).count()
    }

    /// All lines in order.
    pub fn iter(&self) -> impl Iterator<Item = HeaderRef<'_>> + '_ {
        self.lines.iter().map(|line| self.line(line))
    }

    /// The view of one line record of this list.
    #[must_use]
    pub fn line(&self, line: &Line) -> HeaderRef<'_> {
        HeaderRef { name: line.name.get(&self.buf), value: line.value.get(&self.buf), known: line.known }
    }

    /// The number of lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are no lines.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Removes all lines and their bytes; keeps the allocations. Earlier spans become invalid.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.lines.clear();
        self.seen = 0;
    }

    /// The arena: the adopted head, then whatever was pushed.
    #[must_use]
    pub fn buffer(&self) -> &[u8] {
        &self.buf
    }

    /// The bytes of a span of this arena (also those of a request or status line parsed from the adopted head).
    #[must_use]
    pub fn span(&self, span: Span) -> &[u8] {
        span.get(&self.buf)
    }

    /// The line records.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    fn push_line(&mut self, name: &[u8], value: &[u8], known: KnownHeader) {
        self.buf.reserve(name.len().saturating_add(value.len()));
        let name = self.append(name);
        let value = self.append(value);
        self.lines.push(Line { name, value, known });
        self.seen |= known.bit();
    }

    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.buf.len();
        self.buf.extend_from_slice(bytes);
        Span::between(start, self.buf.len())
    }
}

impl Line {
    /// Whether this line is called `name`, whose identity is `known`.
    fn is_called(&self, buf: &[u8], known: KnownHeader, name: &[u8]) -> bool {
        self.known == known && (known != KnownHeader::Other || self.name.get(buf).eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> HeaderList {
        let mut list = HeaderList::with_capacity(64, 4);
        list.push(b"Host", b"a");
        list.push(b"X-One", b"1");
        list.push(b"x-one", b"2");
        list.push_known(KnownHeader::ContentLength, b"0");
        list
    }

    #[test]
    fn get_in_other_case_finds_first_line() {
        let list = sample();
        assert_eq!(list.get(b"X-ONE"), Some(&b"1"[..]));
        assert_eq!(list.get(b"content-length"), Some(&b"0"[..]));
        assert_eq!(list.get_known(KnownHeader::Host), Some(&b"a"[..]));
        assert_eq!(list.get(b"absent"), None);
        assert_eq!(list.get_known(KnownHeader::Other), None);
        assert_eq!(list.get_all(b"x-one").collect::<Vec<_>>(), [b"1", b"2"]);
    }

    #[test]
    fn set_replaces_all_lines_of_that_name() {
        let mut list = sample();
        list.set(b"X-One", b"3");
        assert_eq!(list.get_all(b"x-one").collect::<Vec<_>>(), [b"3"]);
        assert_eq!(list.len(), 3);
        list.set(b"x-new", b"4");
        assert_eq!(list.get(b"X-New"), Some(&b"4"[..]));
        assert_eq!(list.iter().nth(1).map(|line| line.value), Some(&b"3"[..]));
        list.set(b"host", b"b");
        assert_eq!(list.get_known(KnownHeader::Host), Some(&b"b"[..]));
        assert_eq!(list.count_known(KnownHeader::Host), 1);
    }

    #[test]
    fn replace_known_keeps_the_line_in_its_place() {
        let mut list = sample();
        assert!(list.replace_known(KnownHeader::Host, b"longer"));
        assert!(!list.replace_known(KnownHeader::Other, b"x"));
        assert!(!list.replace_known(KnownHeader::Etag, b"x"));
        let values: Vec<&[u8]> = list.iter().map(|line| line.value).collect();
        assert_eq!(values, [&b"longer"[..], b"1", b"2", b"0"]);
    }

    #[test]
    fn remove_known_other_removes_nothing() {
        let mut list = sample();
        assert_eq!(list.remove_known(KnownHeader::Other), 0);
        assert_eq!(list.remove(b"X-oNe"), 2);
        assert_eq!(list.remove(b"HOST"), 1);
        assert_eq!(list.remove_known(KnownHeader::ContentLength), 1);
        assert!(list.is_empty());
    }

    #[test]
    fn adopted_head_keeps_its_bytes_when_lines_are_pushed() {
        let line = Line {
            name: Span { start: 0, len: 1 },
            value: Span { start: 3, len: 2 },
            known: KnownHeader::Other,
        };
        let mut list = HeaderList::adopt(b"A: bc\r\n".to_vec(), vec![line]);
        list.push(b"B", b"d");
        list.retain(|name, _, _| name == b"A");
        assert_eq!(list.iter().map(|h| h.value).collect::<Vec<_>>(), [b"bc"]);
        assert_eq!(list.span(Span { start: 3, len: 2 }), b"bc");
        list.clear();
        assert_eq!(list.buffer(), b"");
    }
}
