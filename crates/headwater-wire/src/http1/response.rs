//! The response head parser: status line and header lines from an HTTP/1 back end.
//!
//! The proxy calls [`ResponseParser::parse`] with all bytes received so far; the parser remembers how far it got. Size
//! is the caller's limit (`proxy_buffer_size`). nginx counterparts: `ngx_http_parse_status_line`,
//! `ngx_http_proxy_process_status_line`, `ngx_http_proxy_process_header`.

use memchr::memchr2;

use super::header_line::{Event, HeaderLineParser, Rules};
use super::request::Progress;
use crate::headers::{Line, Span};

/// A parsed status line; spans point into the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusLine {
    /// The major version; 0 for a response without status line.
    pub version_major: u16,
    /// The minor version; 9 for a response without status line.
    pub version_minor: u16,
    /// The status; 200 for a response without status line.
    pub status: u16,
    /// Code and reason: `200 OK`.
    pub text: Span,
    /// There is no valid status line: nginx logs `upstream sent no valid HTTP/1.0 header` and takes every byte for
    /// body until the connection is closed. The head is 0 bytes long.
    pub http09: bool,
}

/// Why a response head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// A header line holds a character that is never allowed, or its name one that is not allowed in names; see
    /// [`ResponseParser::offending`].
    InvalidHeader,
}

impl ResponseError {
    /// nginx's error-log text, without the bytes that follow it.
    #[must_use]
    pub fn message(&self) -> &'static str {
        "upstream sent invalid header"
    }
}

impl std::fmt::Display for ResponseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ResponseError {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Inside `HTTP/`: how many of its bytes were seen.
    Protocol(u8),
    MajorFirst,
    Major,
    MinorFirst,
    Minor,
    /// In the code: how many of its digits were seen.
    Status(u8),
    AfterStatus,
    Reason,
    LineEnd,
    Headers,
    Done,
    Failed,
    #[default]
    Start,
}

/// A resumable parser of one response head.
#[derive(Clone, Debug, Default)]
pub struct ResponseParser {
    state: State,
    /// Offset of the next byte to look at.
    pos: usize,
    text_start: usize,
    text_end: Option<usize>,
    status: StatusLine,
    header: HeaderLineParser,
    lines: Vec<Line>,
}

impl ResponseParser {
    /// A parser before the first byte of a head.
    #[must_use]
    pub fn new() -> Self {
        // Room for a usual head at once rather than by doubling.
        Self { lines: Vec::with_capacity(16), ..Self::default() }
    }

    /// Looks at `buf`, which holds all bytes of this head from its first byte and maybe more; may be called again
    /// with the same bytes and more behind them.
    ///
    /// # Errors
    /// A header line is invalid; further calls give the same error.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Progress, ResponseError> {
        if self.state == State::Start && self.pos == 0 {
            self.usual_start(buf);
        }
        while let Some(&byte) = buf.get(self.pos) {
            if matches!(self.state, State::Headers | State::Done | State::Failed) {
                break;
            }
            if self.state == State::Reason {
                self.pos += reason_run(buf, self.pos);
            }
            let byte = if self.state == State::Reason { buf.get(self.pos).copied() } else { Some(byte) };
            let Some(byte) = byte else { break };
            if self.step(byte).is_none() {
                self.status =
                    StatusLine { version_minor: 9, status: 200, http09: true, ..StatusLine::default() };
                self.pos = 0;
                self.state = State::Done;
                break;
            }
            self.pos += 1;
        }
        match self.state {
            State::Done => Ok(Progress::Complete { len: self.pos }),
            State::Failed => Err(ResponseError::InvalidHeader),
            State::Headers => self.headers(buf),
            _ => Ok(Progress::Partial),
        }
    }

    /// The status line once it is whole, before the headers are.
    #[must_use]
    pub fn status_line(&self) -> Option<&StatusLine> {
        matches!(self.state, State::Headers | State::Done).then_some(&self.status)
    }

    /// The status line and the header lines; leaves the parser empty and ready for the next head (after a 1xx).
    #[must_use]
    pub fn take(&mut self) -> (StatusLine, Vec<Line>) {
        let parser = std::mem::take(self);
        (parser.status, parser.lines)
    }

    /// After an error: the line up to the offending byte, which stands at the span's end; a line whose name holds
    /// a character not allowed there is given whole.
    #[must_use]
    pub fn offending(&self) -> Span {
        if self.header.at_line_start() {
            self.header.text()
        } else {
            Span::between(self.header.start, self.pos)
        }
    }

    fn headers(&mut self, buf: &[u8]) -> Result<Progress, ResponseError> {
        let rules = Rules { underscores: true, skip_status_lines: true };
        loop {
            match self.header.feed(buf, &mut self.pos, rules) {
                Ok(Event::More) => return Ok(Progress::Partial),
                Ok(Event::Line) if !self.header.invalid => self.lines.push(self.header.line(buf)),
                Ok(Event::End) => {
                    self.state = State::Done;
                    return Ok(Progress::Complete { len: self.pos });
                }
                Ok(Event::Line) | Err(_) => {
                    self.state = State::Failed;
                    return Err(ResponseError::InvalidHeader);
                }
            }
        }
    }

    /// Takes `HTTP/1.1 200` at once, which nearly every response begins with; anything else goes byte by byte.
    fn usual_start(&mut self, buf: &[u8]) {
        let Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', code @ ..]) = buf.first_chunk::<12>()
        else {
            return;
        };
        if code.iter().all(u8::is_ascii_digit) {
            (self.status.version_major, self.status.version_minor) = (1, 1);
            self.status.status = code.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
            self.text_start = 9;
            self.pos = 12;
            self.state = State::AfterStatus;
        }
    }

    /// One byte of the status line; `None` if there can be no valid one.
    fn step(&mut self, byte: u8) -> Option<()> {
        const PROTOCOL: &[u8; 5] = b"HTTP/";
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
        self.state = match (self.state, byte, digit) {
            (State::Start, b'H', _) => State::Protocol(1),
            (State::Protocol(seen), _, _) if PROTOCOL.get(usize::from(seen)) == Some(&byte) => match seen {
                4 => State::MajorFirst,
                _ => State::Protocol(seen + 1),
            },
            (State::MajorFirst, b'1'..=b'9', Some(value)) => {
                self.status.version_major = value;
                State::Major
            }
            (State::Major, b'.', _) => State::MinorFirst,
            (State::Major, _, Some(value)) => {
                self.status.version_major = append_digit(self.status.version_major, value)?;
                State::Major
            }
            (State::MinorFirst, _, Some(value)) => {
                self.status.version_minor = value;
                State::Minor
            }
            (State::Minor, b' ', _) => State::Status(0),
            (State::Minor, _, Some(value)) => {
                self.status.version_minor = append_digit(self.status.version_minor, value)?;
                State::Minor
            }
            (State::Status(seen), b' ', _) => State::Status(seen),
            (State::Status(seen), _, Some(value)) => self.status_digit(seen, value),
            // some back ends send "403.1"
            (State::AfterStatus, b' ' | b'.', _) => State::Reason,
            (State::AfterStatus | State::Reason, b'\r', _) => {
                self.text_end = Some(self.pos);
                State::LineEnd
            }
            (State::AfterStatus | State::Reason | State::LineEnd, b'\n', _) => {
                let end = self.text_end.unwrap_or(self.pos);
                self.status.text = Span::between(self.text_start, end);
                State::Headers
            }
            (State::Reason, _, _) => State::Reason,
            _ => return None,
        };
        Some(())
    }

    fn status_digit(&mut self, seen: u8, value: u16) -> State {
        self.status.status = self.status.status.saturating_mul(10).saturating_add(value);
        if seen < 2 {
            return State::Status(seen + 1);
        }
        self.text_start = self.pos.saturating_sub(2);
        State::AfterStatus
    }
}

/// A version number with one more digit; `None` above 999.
fn append_digit(number: u16, digit: u16) -> Option<u16> {
    (number <= 99).then(|| number * 10 + digit)
}

/// How many bytes from `pos` on do not end the status line.
fn reason_run(buf: &[u8], pos: usize) -> usize {
    let rest = buf.get(pos..).unwrap_or_default();
    memchr2(b'\r', b'\n', rest).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;
