//! One header line at a time, resumable at any byte: the part request heads and response heads share.
//!
//! Called by [`super::request`], [`super::response`] and [`crate::cgi`]. A line ends with LF, any number of CR may precede it; the
//! value loses spaces (not tabs) at both ends; a control character in a name or a NUL anywhere ends the parse.
//! nginx counterpart: `ngx_http_parse_header_line`.

use memchr::memchr3;

use crate::headers::{KnownHeader, Line, Span};

/// Where in a line the parser stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Name,
    SpaceBeforeValue,
    Value,
    IgnoredLine,
    LineEnd,
    HeadEnd,
}

/// What characters a name may hold beyond letters, digits and `-`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// `_` is a valid character.
    pub(crate) underscores: bool,
    /// Skip further `HTTP/…` lines: some back ends send the status line twice.
    pub(crate) skip_status_lines: bool,
}

/// What [`HeaderLineParser::feed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The bytes ran out inside of, or before, a line.
    More,
    /// A whole line; read it with [`HeaderLineParser::line`].
    Line,
    /// The empty line that ends the head.
    End,
}

/// A character that ends the parse of the head: it stands where the parser stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidLine;

/// The state of one line; reset by itself after each.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderLineParser {
    state: State,
    /// Offset of the name's first byte.
    pub(crate) start: usize,
    name_end: usize,
    value_start: usize,
    value_end: usize,
    /// The name holds a character that is not allowed, but not one that ends the parse.
    pub(crate) invalid: bool,
}

const VALID: u8 = 0;
const UNDERSCORE: u8 = 1;
const COLON: u8 = 2;
const LINE_END: u8 = 3;
const FATAL: u8 = 4;
const DUBIOUS: u8 = 5;

static NAME_CLASS: [u8; 256] = name_classes();

const fn name_classes() -> [u8; 256] {
    let mut table = [DUBIOUS; 256];
    let mut byte = 0;
    while byte < 256 {
        let ch = byte as u8;
        table[byte] = match ch {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => VALID,
            b'_' => UNDERSCORE,
            b':' => COLON,
            b'\r' | b'\n' => LINE_END,
            0..=0x20 | 0x7f => FATAL,
            _ => DUBIOUS,
        };
        byte += 1;
    }
    table
}

impl HeaderLineParser {
    /// Whether the parser stands before the first byte of a line.
    pub(crate) fn at_line_start(&self) -> bool {
        self.state == State::Start
    }

    /// The line just found; `known` is left to the caller's lookup so that dropped lines cost none.
    pub(crate) fn line(&self, buf: &[u8]) -> Line {
        let name = Span::between(self.start, self.name_end);
        let known = if self.invalid { KnownHeader::Other } else { KnownHeader::lookup(name.get(buf)) };
        Line { name, value: Span::between(self.value_start, self.value_end), known }
    }

    /// The line just found without its line end, as it is logged: name, colon, value.
    pub(crate) fn text(&self) -> Span {
        Span::between(self.start, self.value_end)
    }

    /// Goes on at `*pos` until a line ends or `buf` does; moves `*pos` behind what was read (onto the offending
    /// byte for an error).
    pub(crate) fn feed(&mut self, buf: &[u8], pos: &mut usize, rules: Rules) -> Result<Event, InvalidLine> {
        if self.state == State::Start && self.usual_line(buf, pos).is_some() {
            return Ok(Event::Line);
        }
        while let Some(&byte) = buf.get(*pos) {
            match self.state {
                State::Start => {
                    self.begin(byte, *pos)?;
                    if byte != b'\r' {
                        continue;
                    }
                }
                State::Name => {
                    if !self.name(buf, pos, rules)? {
                        return Ok(Event::More);
                    }
                    continue;
                }
                State::SpaceBeforeValue if byte == b' ' => {}
                State::SpaceBeforeValue => {
                    self.value_start = *pos;
                    self.state = State::Value;
                    continue;
                }
                State::Value => {
                    if !self.value(buf, pos)? {
                        return Ok(Event::More);
                    }
                    continue;
                }
                State::IgnoredLine if byte == b'\n' => self.state = State::Start,
                State::IgnoredLine => {}
                State::LineEnd if byte == b'\n' => return Ok(self.finish(pos, Event::Line)),
                State::LineEnd if byte == b'\r' => {}
                State::HeadEnd if byte == b'\n' => return Ok(self.finish(pos, Event::End)),
                State::LineEnd | State::HeadEnd => return Err(InvalidLine),
            }
            *pos += 1;
        }
        Ok(Event::More)
    }

    /// Takes a whole line at once that has the form of nearly all: a name of letters, digits and `-`, a colon, a value, CR LF. `None`
    /// leaves the line to the states.
    fn usual_line(&mut self, buf: &[u8], pos: &mut usize) -> Option<()> {
        let line = buf.get(*pos..)?;
        let name_len = line.iter().position(|byte| NAME_CLASS[*byte as usize] != VALID)?;
        let (name, value) = line.split_at_checked(name_len)?;
        if name.is_empty() || value.first() != Some(&b':') {
            return None;
        }
        let end = memchr3(b'\n', b'\r', 0, value)?;
        if value.get(end..)?.first_chunk() != Some(b"\r\n") {
            return None;
        }
        let is_space = |at: usize| value.get(at) == Some(&b' ');
        let mut value_start = 1;
        while is_space(value_start) {
            value_start += 1;
        }
        let mut value_end = end;
        while value_end > value_start && is_space(value_end - 1) {
            value_end -= 1;
        }
        self.start = *pos;
        self.name_end = *pos + name_len;
        self.value_start = self.name_end + value_start;
        self.value_end = self.name_end + value_end;
        self.invalid = false;
        *pos = self.name_end + end + 2;
        Some(())
    }

    /// Takes the LF that ends a line or the head.
    fn finish(&mut self, pos: &mut usize, event: Event) -> Event {
        *pos += 1;
        self.state = State::Start;
        event
    }

    /// Looks at the first byte of a line; takes it only if it is CR.
    fn begin(&mut self, byte: u8, pos: usize) -> Result<(), InvalidLine> {
        self.start = pos;
        self.value_end = pos;
        self.invalid = false;
        self.state = match NAME_CLASS[byte as usize] {
            LINE_END => State::HeadEnd,
            FATAL | COLON => return Err(InvalidLine),
            _ => State::Name,
        };
        Ok(())
    }

    /// The rest of a name; false if the bytes ran out.
    fn name(&mut self, buf: &[u8], pos: &mut usize, rules: Rules) -> Result<bool, InvalidLine> {
        loop {
            let rest = buf.get(*pos..).unwrap_or_default();
            *pos += rest.iter().position(|&byte| NAME_CLASS[byte as usize] != VALID).unwrap_or(rest.len());
            let Some(&byte) = buf.get(*pos) else { return Ok(false) };
            match NAME_CLASS[byte as usize] {
                UNDERSCORE => self.invalid |= !rules.underscores,
                COLON => {
                    self.name_end = *pos;
                    self.state = State::SpaceBeforeValue;
                    *pos += 1;
                    return Ok(true);
                }
                LINE_END => {
                    self.name_end = *pos;
                    self.value_start = *pos;
                    self.value_end = *pos;
                    self.state = State::LineEnd;
                    return Ok(true);
                }
                FATAL => return Err(InvalidLine),
                _ if byte == b'/'
                    && rules.skip_status_lines
                    && buf.get(self.start..*pos) == Some(b"HTTP") =>
                {
                    self.state = State::IgnoredLine;
                    return Ok(true);
                }
                _ => self.invalid = true,
            }
            *pos += 1;
        }
    }

    /// The rest of a value; false if the bytes ran out.
    fn value(&mut self, buf: &[u8], pos: &mut usize) -> Result<bool, InvalidLine> {
        let rest = buf.get(*pos..).unwrap_or_default();
        let Some(found) = memchr3(b'\n', b'\r', 0, rest) else {
            *pos = buf.len();
            return Ok(false);
        };
        *pos += found;
        if buf.get(*pos) == Some(&0) {
            return Err(InvalidLine);
        }
        let value = buf.get(self.value_start..*pos).unwrap_or_default();
        let trailing = value.iter().rev().take_while(|&&byte| byte == b' ').count();
        self.value_end = pos.saturating_sub(trailing);
        self.state = State::LineEnd;
        Ok(true)
    }
}
