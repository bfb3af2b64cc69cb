//! The request head parser: request line, header lines, and nginx's limits on both.
//!
//! The head-reading room calls [`RequestParser::parse`] with all bytes of the head each time more arrived; the parser
//! remembers how far it got, so one byte at a time costs no more than all at once. It checks syntax and size only; the
//! meaning of the headers is [`super::semantics`]. nginx counterparts: `ngx_http_process_request_line`,
//! `ngx_http_process_request_headers`, `ngx_http_alloc_large_header_buffer`.

use super::header_line::{Event, HeaderLineParser, Rules};
use super::request_line::RequestLineParser;
use crate::headers::{Line, Span};
use crate::method::Method;

/// Limits on a head, in bytes where not said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// `client_header_buffer_size`.
    pub first_buffer: usize,
    /// Size of one of `large_client_header_buffers`: no line may be longer.
    pub line: usize,
    /// Number of `large_client_header_buffers`.
    pub buffers: usize,
    /// `max_headers`: number of header lines.
    pub max_headers: usize,
}

impl Default for HeadLimits {
    /// nginx's defaults: 1k, 4 × 8k, 1000 lines.
    fn default() -> Self {
        Self { first_buffer: 1024, line: 8192, buffers: 4, max_headers: 1000 }
    }
}

/// What header names are valid.
#[derive(Clone, Copy, Debug)]
pub struct HeadOptions {
    /// `underscores_in_headers`.
    pub underscores: bool,
    /// `ignore_invalid_headers`: drop lines with invalid names instead of passing them on.
    pub ignore_invalid: bool,
}

impl Default for HeadOptions {
    fn default() -> Self {
        Self { underscores: false, ignore_invalid: true }
    }
}

/// Version of the protocol a request was sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A request line without version: no headers, no status line in the response.
    #[default]
    Http09,
    /// `HTTP/1.0`
    Http10,
    /// `HTTP/1.1`, or any later minor version of 1.
    Http11,
}

impl Version {
    /// The major number: 0 or 1.
    #[must_use]
    pub fn major(self) -> u16 {
        u16::from(self != Self::Http09)
    }

    /// The minor number: 9, 0 or 1. A later minor version is 1; its own number is [`RequestLine::minor`].
    #[must_use]
    pub fn minor(self) -> u16 {
        match self {
            Self::Http09 => 9,
            Self::Http10 => 0,
            Self::Http11 => 1,
        }
    }
}

/// A parsed request line; spans point into the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLine {
    /// The method.
    pub method: Method,
    /// The method as sent.
    pub method_text: Span,
    /// The target as sent without scheme and authority (`$request_uri`). `host:port` of CONNECT; a lone `/` for an
    /// absolute form without path.
    pub target: Span,
    /// The whole line without its line end (`$request`).
    pub request: Span,
    /// The version.
    pub version: Version,
    /// The minor version as sent: `HTTP/1.7` gives 7.
    pub minor: u16,
    /// The version as sent (`$server_protocol`); empty for HTTP/0.9.
    pub protocol: Span,
    /// Scheme of an absolute form.
    pub schema: Option<Span>,
    /// Host of an absolute form or of CONNECT, without port; an IPv6 address with its brackets. Not yet validated as
    /// a whole: see [`super::semantics::check`].
    pub host: Option<Span>,
    /// Port digits of an absolute form or of CONNECT, possibly none.
    pub port: Option<Span>,
    /// The path needs [`crate::uri::normalize`] with the whole target: it holds `%`, `//`, `/.` or `#`, or is empty.
    pub complex: bool,
    /// What stands between `?` and the end or `#`.
    pub args: Option<Span>,
    /// The target up to `?` or `#`; empty for CONNECT.
    pub path: Span,
}

/// How far a head has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// The head is whole.
    Complete {
        /// Bytes of the head from its first byte, the final line end included.
        len: usize,
    },
}

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The method holds a character other than A–Z, `_`, `-`.
    InvalidMethod,
    /// The request line is malformed.
    InvalidRequest,
    /// The major version is above 1.
    InvalidVersion,
    /// A request without version whose method is not GET.
    InvalidHttp09Method,
    /// The request line does not fit a large buffer.
    UriTooLong,
    /// A header line holds a character that is never allowed; see [`RequestParser::offending`].
    InvalidHeaderLine,
    /// A header line does not fit a large buffer, or the large buffers are used up; see [`RequestParser::offending`].
    HeaderLineTooLong,
    /// The buffers are used up before the first header line, or by empty lines before the request line.
    RequestTooLarge,
    /// More lines than `max_headers`.
    TooManyHeaders,
}

impl HeadError {
    /// The status nginx ends the request with. 494 is internal: the client sees 400 unless `error_page` maps it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidMethod
            | Self::InvalidRequest
            | Self::InvalidHttp09Method
            | Self::InvalidHeaderLine => 400,
            Self::InvalidVersion => 505,
            Self::UriTooLong => 414,
            Self::HeaderLineTooLong | Self::RequestTooLarge | Self::TooManyHeaders => 494,
        }
    }

    /// nginx's error-log text, without the bytes and the context that follow it.
    #[must_use]
    pub fn message(&self) -> &'static str {
        match self {
            Self::InvalidMethod => "client sent invalid method",
            Self::InvalidRequest => "client sent invalid request",
            Self::InvalidVersion => "client sent invalid version",
            Self::InvalidHttp09Method => "client sent invalid method in HTTP/0.9 request",
            Self::UriTooLong => "client sent too long URI",
            Self::InvalidHeaderLine => "client sent invalid header line",
            Self::HeaderLineTooLong => "client sent too long header line",
            Self::RequestTooLarge => "client sent too large request",
            Self::TooManyHeaders => "client sent too many header lines",
        }
    }
}

impl std::fmt::Display for HeadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for HeadError {}

/// Room for this many lines is made at once: browsers send about as many.
const USUAL_LINES: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    RequestLine,
    Headers,
    Done,
    Failed(HeadError),
}

/// A resumable parser of one request head.
#[derive(Clone, Debug, Default)]
pub struct RequestParser {
    phase: Phase,
    /// Offset of the next byte to look at.
    pos: usize,
    /// Offset at which the buffer nginx would be filling ends; 0 before the first call.
    window: usize,
    /// How many large buffers nginx would have used.
    large: usize,
    request: RequestLineParser,
    line_whole: bool,
    header: HeaderLineParser,
    /// A header line has begun, so that running out of buffers is that line's fault.
    in_headers: bool,
    lines: Vec<Line>,
    invalid: Vec<Span>,
}

impl RequestParser {
    /// A parser before the first byte of a head.
    #[must_use]
    pub fn new() -> Self {
        // Room for a usual head at once rather than by doubling.
        Self { lines: Vec::with_capacity(16), ..Self::default() }
    }

    /// Looks at `buf`, which holds all bytes of this head from its first byte and maybe more; may be called again
    /// with the same bytes and more behind them. Empty lines before the request line are skipped and belong to the
    /// head.
    ///
    /// # Errors
    /// The head is refused; further calls give the same error.
    pub fn parse(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        options: &HeadOptions,
    ) -> Result<Progress, HeadError> {
        let result = self.advance(buf, limits, options);
        if let Err(error) = result {
            self.phase = Phase::Failed(error);
        }
        result
    }

    /// The request line once it is whole, before the headers are; also after an error in the headers, for the log.
    /// nginx refuses a bad path or host as soon as the line is whole, so the caller may want to look at it after each
    /// call.
    #[must_use]
    pub fn request_line(&self) -> Option<&RequestLine> {
        self.line_whole.then_some(&self.request.line)
    }

    /// Where the request line begins: behind the empty lines before it.
    #[must_use]
    pub fn start(&self) -> usize {
        self.request.start
    }

    /// The request line and the header lines (after an error: those before it); leaves the parser empty and ready for the next head.
    #[must_use]
    pub fn take(&mut self) -> (RequestLine, Vec<Line>) {
        let parser = std::mem::take(self);
        (parser.request.line, parser.lines)
    }

    /// Lines dropped because of invalid header names; the caller logs
    /// `client sent invalid header line: "…"` for each.
    #[must_use]
    pub fn invalid_lines(&self) -> &[Span] {
        &self.invalid
    }

    /// After [`HeadError::InvalidHeaderLine`]: the line up to the offending byte, which stands at the span's end.
    /// After [`HeadError::HeaderLineTooLong`]: what was read of the line. After an error in the request line: what
    /// was read of it.
    #[must_use]
    pub fn offending(&self) -> Span {
        let start = if self.in_headers { self.header.start } else { self.request.start };
        Span::between(start, self.pos)
    }

    fn advance(
        &mut self,
        buf: &[u8],
        limits: &HeadLimits,
        options: &HeadOptions,
    ) -> Result<Progress, HeadError> {
        if self.window == 0 {
            self.window = limits.first_buffer.max(1);
        }
        loop {
            let visible = buf.get(..self.window).unwrap_or(buf);
            match self.phase {
                Phase::Done => return Ok(Progress::Complete { len: self.pos }),
                Phase::Failed(error) => return Err(error),
                Phase::RequestLine => {
                    if self.request.feed(visible, &mut self.pos)? {
                        self.line_whole = true;
                        let last = self.request.line.version == Version::Http09;
                        self.phase = if last { Phase::Done } else { Phase::Headers };
                        continue;
                    }
                }
                Phase::Headers => {
                    if self.headers(visible, limits, options)? {
                        self.phase = Phase::Done;
                        continue;
                    }
                }
            }
            if self.pos < self.window {
                return Ok(Progress::Partial);
            }
            self.next_buffer(limits)?;
        }
    }

    /// Reads header lines; true behind the empty line that ends the head.
    fn headers(&mut self, buf: &[u8], limits: &HeadLimits, options: &HeadOptions) -> Result<bool, HeadError> {
        let rules = Rules { underscores: options.underscores, skip_status_lines: false };
        loop {
            self.in_headers |= self.pos < buf.len();
            match self.header.feed(buf, &mut self.pos, rules) {
                Err(_) => return Err(HeadError::InvalidHeaderLine),
                Ok(Event::More) => return Ok(false),
                Ok(Event::End) => return Ok(true),
                Ok(Event::Line) if self.header.invalid && options.ignore_invalid => {
                    self.invalid.push(self.header.text());
                }
                Ok(Event::Line) => {
                    if self.lines.len() >= limits.max_headers {
                        return Err(HeadError::TooManyHeaders);
                    }
                    if self.lines.is_empty() {
                        self.lines.reserve(USUAL_LINES);
                    }
                    self.lines.push(self.header.line(buf));
                }
            }
        }
    }

    /// The buffer nginx would be filling is full: go on as if in a large one. A line that began in the old buffer is
    /// moved to the new one as a whole, so it is the line that must fit.
    fn next_buffer(&mut self, limits: &HeadLimits) -> Result<(), HeadError> {
        let request_line = self.phase == Phase::RequestLine;
        if request_line && self.request.before_start() {
            // nginx empties its buffer; the caller keeps the bytes, so there is an end to it here
            self.window = self.pos.saturating_add(limits.first_buffer.max(1));
            let all = limits.line.saturating_mul(limits.buffers).saturating_add(limits.first_buffer);
            return if self.pos > all { Err(HeadError::RequestTooLarge) } else { Ok(()) };
        }
        let refused = match (request_line, self.in_headers) {
            (true, _) => HeadError::UriTooLong,
            (false, true) => HeadError::HeaderLineTooLong,
            (false, false) => HeadError::RequestTooLarge,
        };
        let start = if request_line {
            self.request.start
        } else if self.header.at_line_start() {
            self.pos
        } else {
            self.header.start
        };
        if self.pos.saturating_sub(start) >= limits.line || self.large >= limits.buffers {
            return Err(refused);
        }
        self.large += 1;
        self.window = start.saturating_add(limits.line);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
