//! The request line, resumable at any byte.
//!
//! Called by [`super::request`] only. Accepts what nginx accepts: empty lines before it, several spaces between the
//! parts, bare LF, HTTP/0.9 (`GET /path` alone), origin form, absolute form, and `host:port` for CONNECT. Errors are
//! found at the byte that makes them, not at the end of the line. nginx counterpart: `ngx_http_parse_request_line`.

use memchr::memchr;

use super::request::{HeadError, RequestLine, Version};
use crate::headers::Span;
use crate::host::{is_host_char, is_literal_char};
use crate::method::Method;

/// Where in the line the parser stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Method,
    BeforeTarget,
    Scheme,
    SchemeSlash,
    SchemeSlashSlash,
    HostStart,
    Host,
    HostLiteral,
    HostEnd,
    Port,
    Path,
    /// Behind `?`, or in a path already known to be complex.
    Rest,
    AfterTarget,
    /// Inside `HTTP/`: how many of its bytes were seen.
    Protocol(u8),
    MajorFirst,
    Major,
    MinorFirst,
    Minor,
    AfterVersion,
    LineEnd,
}

/// The state of the line and the marks made so far.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestLineParser {
    state: State,
    /// Offset of the method's first byte (of the last empty-line byte while none was seen).
    pub(super) start: usize,
    /// Where the scheme, host or port being read begins.
    mark: usize,
    target_start: usize,
    /// Offset of the latest slash of the path.
    slash: usize,
    /// Offset of the CR that ends the line.
    cr: Option<usize>,
    minor: Option<u16>,
    /// What is known so far; whole once [`RequestLineParser::feed`] said so.
    pub(super) line: RequestLine,
}

const USUAL: u8 = 0;
const CONTROL: u8 = 1;
const SPECIAL: u8 = 2;

/// Bytes of a target that need a look: space, `#`, `%`, `.`, `/`, `?`, and controls (which include CR and LF).
static TARGET_CLASS: [u8; 256] = target_classes();

const fn target_classes() -> [u8; 256] {
    let mut table = [USUAL; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0..=0x1f | 0x7f => CONTROL,
            b' ' | b'#' | b'%' | b'.' | b'/' | b'?' => SPECIAL,
            _ => USUAL,
        };
        byte += 1;
    }
    table
}

fn is_method_char(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'_' || byte == b'-'
}

impl RequestLineParser {
    /// Whether the parser still stands before the method.
    pub(super) fn before_start(&self) -> bool {
        self.state == State::Start
    }

    /// Goes on at `*pos` until the line or `buf` ends; true when the line is whole.
    pub(super) fn feed(&mut self, buf: &[u8], pos: &mut usize) -> Result<bool, HeadError> {
        while let Some(&byte) = buf.get(*pos) {
            match self.state {
                State::Start | State::Method | State::BeforeTarget => self.method(buf, byte, *pos)?,
                State::Scheme | State::SchemeSlash | State::SchemeSlashSlash => self.scheme(byte, *pos)?,
                State::HostStart | State::Host | State::HostLiteral | State::HostEnd | State::Port => {
                    self.authority(byte, *pos)?;
                }
                State::Path | State::Rest => {
                    *pos += usual_run(buf, *pos);
                    let Some(&byte) = buf.get(*pos) else {
                        return Ok(false);
                    };
                    if self.target(byte, *pos)? {
                        return self.finish(buf, pos);
                    }
                }
                State::AfterTarget
                    if buf.get(*pos..).is_some_and(|rest| rest.starts_with(b"HTTP/1.1\r\n")) =>
                {
                    // What nearly every request says, at once.
                    self.line.protocol = Span::between(*pos, *pos);
                    self.minor = Some(1);
                    self.cr = Some(*pos + 8);
                    *pos += 9;
                    return self.finish(buf, pos);
                }
                _ => {
                    if self.version(byte, *pos)? {
                        return self.finish(buf, pos);
                    }
                }
            }
            *pos += 1;
        }
        Ok(false)
    }

    fn method(&mut self, buf: &[u8], byte: u8, pos: usize) -> Result<(), HeadError> {
        match self.state {
            State::Start => {
                self.start = pos;
                match byte {
                    b'\r' | b'\n' => {}
                    _ if is_method_char(byte) => self.state = State::Method,
                    _ => return Err(HeadError::InvalidMethod),
                }
            }
            State::Method if byte == b' ' => {
                self.line.method_text = Span::between(self.start, pos);
                self.line.method = Method::parse(self.line.method_text.get(buf));
                self.state = State::BeforeTarget;
            }
            State::Method if is_method_char(byte) => {}
            State::Method => return Err(HeadError::InvalidMethod),
            _ if byte == b' ' => {}
            _ if byte == b'/' => self.begin_path(pos),
            _ if self.line.method == Method::Connect => {
                self.state = State::HostStart;
                self.target_start = pos;
                self.authority(byte, pos)?;
            }
            _ if byte.is_ascii_alphabetic() => {
                self.mark = pos;
                self.state = State::Scheme;
            }
            _ => return Err(HeadError::InvalidRequest),
        }
        Ok(())
    }

    fn scheme(&mut self, byte: u8, pos: usize) -> Result<(), HeadError> {
        self.state = match (self.state, byte) {
            (State::Scheme, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.') => State::Scheme,
            (State::Scheme, b':') => {
                self.line.schema = Some(Span::between(self.mark, pos));
                State::SchemeSlash
            }
            (State::SchemeSlash, b'/') => State::SchemeSlashSlash,
            (State::SchemeSlashSlash, b'/') => State::HostStart,
            _ => return Err(HeadError::InvalidRequest),
        };
        Ok(())
    }

    fn authority(&mut self, byte: u8, pos: usize) -> Result<(), HeadError> {
        match self.state {
            State::HostStart => {
                self.mark = pos;
                if byte == b'[' {
                    self.state = State::HostLiteral;
                    return Ok(());
                }
                self.state = State::Host;
                self.authority(byte, pos)
            }
            State::Host if is_host_char(byte) => Ok(()),
            State::HostLiteral if byte == b']' => {
                self.state = State::HostEnd;
                Ok(())
            }
            State::HostLiteral if is_literal_char(byte) => Ok(()),
            State::HostLiteral => Err(HeadError::InvalidRequest),
            State::Port if byte.is_ascii_digit() => Ok(()),
            State::Port => {
                self.line.port = Some(Span::between(self.mark, pos));
                self.end_authority(byte, pos)
            }
            _ => {
                self.line.host = Some(Span::between(self.mark, pos));
                if byte == b':' {
                    self.mark = pos + 1;
                    self.state = State::Port;
                    return Ok(());
                }
                self.end_authority(byte, pos)
            }
        }
    }

    /// The byte behind host and port: the target begins, or there is none.
    fn end_authority(&mut self, byte: u8, pos: usize) -> Result<(), HeadError> {
        if self.line.method == Method::Connect {
            let whole = self.line.port.is_some_and(|port| !port.is_empty());
            if byte != b' ' || !whole {
                return Err(HeadError::InvalidRequest);
            }
            self.line.target = Span::between(self.target_start, pos);
            self.state = State::AfterTarget;
            return Ok(());
        }
        match (byte, self.line.schema) {
            (b'/', _) => self.begin_path(pos),
            (b'?', _) => {
                self.target_start = pos;
                self.line.complex = true;
                self.state = State::Rest;
            }
            // no path at all: the target is the first slash of "://", as nginx has it
            (b' ', Some(schema)) => {
                self.line.target =
                    Span { start: schema.start.saturating_add(schema.len).saturating_add(1), len: 1 };
                self.line.path = self.line.target;
                self.state = State::AfterTarget;
            }
            _ => return Err(HeadError::InvalidRequest),
        }
        Ok(())
    }

    fn begin_path(&mut self, pos: usize) {
        self.target_start = pos;
        self.slash = pos;
        self.state = State::Path;
    }

    /// A byte of the target that is not usual; true when the line ends here (HTTP/0.9).
    fn target(&mut self, byte: u8, pos: usize) -> Result<bool, HeadError> {
        let behind_slash = pos == self.slash + 1;
        match byte {
            b' ' | b'\r' | b'\n' => {
                self.line.target = Span::between(self.target_start, pos);
                self.state = if byte == b' ' { State::AfterTarget } else { State::LineEnd };
                self.cr = (byte == b'\r').then_some(pos);
                return Ok(byte == b'\n');
            }
            _ if TARGET_CLASS[byte as usize] == CONTROL => return Err(HeadError::InvalidRequest),
            b'#' => {
                self.line.complex = true;
                self.state = State::Rest;
            }
            _ if self.state == State::Rest => {}
            b'?' => self.state = State::Rest,
            b'/' if !behind_slash => self.slash = pos,
            b'.' if !behind_slash => {}
            // "%", or "." and "/" behind a slash
            _ => {
                self.line.complex = true;
                self.state = State::Rest;
            }
        }
        Ok(false)
    }

    /// Everything behind the target; true at the LF that ends the line.
    fn version(&mut self, byte: u8, pos: usize) -> Result<bool, HeadError> {
        const PROTOCOL: &[u8; 5] = b"HTTP/";
        let digit = byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
        let ends = matches!(self.state, State::AfterTarget | State::Minor | State::AfterVersion);
        self.state = match (self.state, byte, digit) {
            (State::LineEnd, b'\n', _) => return Ok(true),
            (_, b'\n', _) if ends => return Ok(true),
            (_, b'\r', _) if ends => {
                self.cr = Some(pos);
                State::LineEnd
            }
            (State::AfterTarget, b' ', _) => State::AfterTarget,
            (State::AfterTarget, b'H', _) => {
                self.line.protocol = Span::between(pos, pos);
                State::Protocol(1)
            }
            (State::Protocol(seen), _, _) if PROTOCOL.get(usize::from(seen)) == Some(&byte) => match seen {
                4 => State::MajorFirst,
                _ => State::Protocol(seen + 1),
            },
            // 1 is the only major version that passes, so "HTTP/10" fails at its second digit
            (State::MajorFirst, b'1', _) => State::Major,
            (State::MajorFirst, b'2'..=b'9', _) | (State::Major, _, Some(_)) => {
                return Err(HeadError::InvalidVersion);
            }
            (State::Major, b'.', _) => State::MinorFirst,
            (State::MinorFirst, _, Some(value)) => {
                self.minor = Some(value);
                State::Minor
            }
            (State::Minor | State::AfterVersion, b' ', _) => State::AfterVersion,
            (State::Minor, _, Some(value)) => {
                let minor = self.minor.unwrap_or(0);
                if minor > 99 {
                    return Err(HeadError::InvalidRequest);
                }
                self.minor = Some(minor * 10 + value);
                State::Minor
            }
            _ => return Err(HeadError::InvalidRequest),
        };
        Ok(false)
    }

    /// Takes the LF and completes the line.
    fn finish(&mut self, buf: &[u8], pos: &mut usize) -> Result<bool, HeadError> {
        let end = self.cr.unwrap_or(*pos);
        *pos += 1;
        self.line.request = Span::between(self.start, end);
        self.line.version = match self.minor {
            None => Version::Http09,
            Some(0) => Version::Http10,
            Some(_) => Version::Http11,
        };
        self.line.minor = self.minor.unwrap_or(9);
        if self.minor.is_some() {
            self.line.protocol = Span::between(self.line.protocol.start as usize, end);
        }
        if self.line.version == Version::Http09 && self.line.method != Method::Get {
            return Err(HeadError::InvalidHttp09Method);
        }
        self.split_target(buf);
        Ok(true)
    }

    /// Finds path and arguments: a fragment is cut off, the rest is split at the first `?`.
    fn split_target(&mut self, buf: &[u8]) {
        let authority_form = self.line.method == Method::Connect && self.line.host.is_some();
        if authority_form {
            return;
        }
        let start = self.line.target.start as usize;
        let text = self.line.target.get(buf);
        let text = memchr(b'#', text).and_then(|at| text.get(..at)).unwrap_or(text);
        let end = start + text.len();
        match memchr(b'?', text) {
            Some(at) => {
                self.line.path = Span::between(start, start + at);
                self.line.args = Some(Span::between(start + at + 1, end));
            }
            None => self.line.path = Span::between(start, end),
        }
    }
}

/// How many bytes from `pos` on need no look.
fn usual_run(buf: &[u8], pos: usize) -> usize {
    let rest = buf.get(pos..).unwrap_or_default();
    rest.iter().position(|&byte| TARGET_CLASS[byte as usize] != USUAL).unwrap_or(rest.len())
}
