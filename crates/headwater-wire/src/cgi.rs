//! The head of a CGI response: header lines without a status line, the status in a line called `Status`.
//!
//! Called by the FastCGI, SCGI and uwsgi modules with all bytes of the head so far; the parsers remember how far they got. Lines end with LF or
//! CRLF. SCGI and uwsgi servers may put a status line of HTTP in front ([`CgiResponseParser`]). nginx counterparts: `ngx_http_fastcgi_process_header`,
//! `ngx_http_scgi_process_status_line`, `ngx_http_scgi_process_header`. Source: RFC 3875 section 6.

use crate::headers::{HeaderList, Line, Span};
use crate::http1::header_line::{Event, HeaderLineParser, Rules};
use crate::http1::response::{ResponseParser, StatusLine};
use crate::http1::{Progress, ResponseError};

/// A resumable parser of one head.
#[derive(Clone, Debug, Default)]
pub struct CgiHeadParser {
    /// Offset of the next byte to look at.
    pos: usize,
    header: HeaderLineParser,
    lines: Vec<Line>,
    failed: bool,
}

impl CgiHeadParser {
    /// Looks at `buf`, which holds all bytes of this head from its first byte and maybe more; may be called again with the same bytes and more
    /// behind them, until the head is complete.
    ///
    /// # Errors
    /// A header line is invalid; further calls give the same error.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Progress, ResponseError> {
        let rules = Rules { underscores: true, skip_status_lines: true };
        while !self.failed {
            match self.header.feed(buf, &mut self.pos, rules) {
                Ok(Event::More) => return Ok(Progress::Partial),
                Ok(Event::Line) if !self.header.invalid => self.lines.push(self.header.line(buf)),
                Ok(Event::End) => return Ok(Progress::Complete { len: self.pos }),
                Ok(Event::Line) | Err(_) => self.failed = true,
            }
        }
        Err(ResponseError::InvalidHeader)
    }

    /// The header lines; leaves the parser ready for another head.
    #[must_use]
    pub fn take(&mut self) -> Vec<Line> {
        std::mem::take(self).lines
    }

    /// After an error: the line up to the offending byte, which stands at the span's end; a line whose name holds a character not allowed
    /// there is given whole.
    #[must_use]
    pub fn offending(&self) -> Span {
        if self.header.at_line_start() {
            self.header.text()
        } else {
            Span::between(self.header.start, self.pos)
        }
    }
}

/// A resumable parser of one head that may begin with a status line of HTTP.
#[derive(Clone, Debug)]
pub struct CgiResponseParser(Form);

/// What the bytes so far look like.
#[derive(Clone, Debug)]
enum Form {
    /// A head as HTTP has it, or too little to tell.
    Http(ResponseParser),
    /// Header lines alone.
    Lines(CgiHeadParser),
}

impl Default for CgiResponseParser {
    fn default() -> Self {
        Self(Form::Http(ResponseParser::new()))
    }
}

impl CgiResponseParser {
    /// As [`CgiHeadParser::parse`].
    ///
    /// # Errors
    /// A header line is invalid; further calls give the same error.
    pub fn parse(&mut self, buf: &[u8]) -> Result<Progress, ResponseError> {
        if let Form::Http(parser) = &mut self.0 {
            let progress = parser.parse(buf)?;
            if !parser.status_line().is_some_and(|line| line.http09) {
                return Ok(progress);
            }
            // Without a status line there is a head all the same.
            self.0 = Form::Lines(CgiHeadParser::default());
        }
        match &mut self.0 {
            Form::Lines(parser) => parser.parse(buf),
            Form::Http(parser) => parser.parse(buf),
        }
    }

    /// The status line, if there was one, and the header lines; leaves the parser ready for another head.
    #[must_use]
    pub fn take(&mut self) -> (Option<StatusLine>, Vec<Line>) {
        match &mut std::mem::take(self).0 {
            Form::Http(parser) => {
                let (line, lines) = parser.take();
                (Some(line), lines)
            }
            Form::Lines(parser) => (None, parser.take()),
        }
    }

    /// As [`CgiHeadParser::offending`].
    #[must_use]
    pub fn offending(&self) -> Span {
        match &self.0 {
            Form::Http(parser) => parser.offending(),
            Form::Lines(parser) => parser.offending(),
        }
    }
}

/// The status of a CGI response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgiStatus<'h> {
    /// The code.
    pub code: u16,
    /// Code and reason, when the application gave a reason.
    pub line: Option<&'h [u8]>,
}

/// The status by `Status`, else 302 with a `Location`, else 200.
///
/// # Errors
/// `Status` does not start with a code; the error is its value.
pub fn status(headers: &HeaderList) -> Result<CgiStatus<'_>, &[u8]> {
    let Some(value) = headers.get(b"status") else {
        let code = if headers.get(b"location").is_some() { 302 } else { 200 };
        return Ok(CgiStatus { code, line: None });
    };
    let code = value.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let code = code.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let code = code.filter(|code| *code >= 100).ok_or(value)?;
    Ok(CgiStatus { code, line: (value.len() > 3).then_some(value) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(input: &[u8], split: usize) -> Result<(Progress, HeaderList), ResponseError> {
        let mut parser = CgiHeadParser::default();
        let mut progress = Progress::Partial;
        let mut end = 0;
        while end < input.len() && progress == Progress::Partial {
            end = (end + split).min(input.len());
            progress = parser.parse(&input[..end])?;
        }
        Ok((progress, HeaderList::adopt(input.to_vec(), parser.take())))
    }

    fn status_of(head: &str) -> Option<(u16, Option<String>)> {
        let (_, headers) = parse(head.as_bytes(), usize::MAX / 2).unwrap();
        let status = status(&headers).ok()?;
        Some((status.code, status.line.map(|line| String::from_utf8_lossy(line).into_owned())))
    }

    /// The status and text of the line, and the header lines.
    type Found = (Progress, Option<(u16, Vec<u8>)>, Vec<Line>);

    fn parse_response(input: &[u8], split: usize) -> Result<Found, (Vec<u8>, ResponseError)> {
        let mut parser = CgiResponseParser::default();
        let mut progress = Progress::Partial;
        let mut end = 0;
        while end < input.len() && progress == Progress::Partial {
            end = (end + split).min(input.len());
            let outcome = parser.parse(&input[..end]);
            progress = outcome.map_err(|error| (parser.offending().get(input).to_vec(), error))?;
        }
        let (line, lines) = parser.take();
        let line = line.filter(|_| progress != Progress::Partial);
        Ok((progress, line.map(|line| (line.status, line.text.get(input).to_vec())), lines))
    }

    #[test]
    fn status_line_of_http_gives_the_status() {
        let head = b"HTTP/1.0 404 Not here\r\nStatus: 200\r\n\r\nbody";
        let (progress, line, lines) = parse_response(head, 1).unwrap();
        assert_eq!(progress, Progress::Complete { len: head.len() - 4 });
        assert_eq!(line, Some((404, b"404 Not here".to_vec())));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn lines_that_only_start_like_a_status_line_are_headers() {
        for head in ["H: 1\r\n\r\n", "HTTP: 1\n\n", "Host: 1\n\n", "\r\n"] {
            let (progress, line, _) = parse_response(head.as_bytes(), 1).unwrap();
            assert_eq!((progress, line), (Progress::Complete { len: head.len() }, None), "{head:?}");
        }
        let (.., lines) = parse_response(b"HTTP/x\nA: 1\n\n", 1).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(parse_response(b"HTTP\x01: 1\n\n", 1).unwrap_err().0, b"HTTP");
    }

    #[test]
    fn status_header_gives_code_and_reason() {
        assert_eq!(status_of("Status: 404 Gone away\r\n\r\n"), Some((404, Some("404 Gone away".into()))));
        assert_eq!(status_of("Status: 204\n\n"), Some((204, None)));
    }

    #[test]
    fn missing_status_is_200_or_with_location_302() {
        assert_eq!(status_of("X: y\n\n"), Some((200, None)));
        assert_eq!(status_of("Location: /x\r\n\r\n"), Some((302, None)));
        assert_eq!(status_of("Location: /x\r\nStatus: 301\r\n\r\n"), Some((301, None)));
    }

    #[test]
    fn status_without_code_is_refused() {
        assert_eq!(status_of("Status: no\r\n\r\n"), None);
        assert_eq!(status_of("Status: 2\r\n\r\n"), None);
        assert_eq!(status_of("Status: 099\r\n\r\n"), None);
    }

    #[test]
    fn bare_line_feeds_end_lines_and_head() {
        let (progress, headers) = parse(b"A: 1\nB: 2\r\n\nbody", 100).unwrap();
        assert_eq!(progress, Progress::Complete { len: 12 });
        assert_eq!(headers.get(b"b"), Some(&b"2"[..]));
    }

    #[test]
    fn status_line_before_the_headers_is_skipped() {
        let (_, headers) = parse(b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", 100).unwrap();
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn invalid_line_gives_the_text_up_to_the_byte() {
        let mut parser = CgiHeadParser::default();
        let head = b"A: b\r\nX: \0y\r\n";
        assert_eq!(parser.parse(head), Err(ResponseError::InvalidHeader));
        assert_eq!(parser.offending().get(head), b"X: ");
        assert_eq!(parser.parse(head), Err(ResponseError::InvalidHeader));
    }

    proptest! {
        #[test]
        fn any_split_of_a_head_gives_the_same(
            lines in proptest::collection::vec("[A-Za-z_/-]{1,8}(: ?[ -~]{0,10})?(\r)?\n", 0..6),
            tail in "(\r)?\n?[ -~]{0,8}",
            split in 1_usize..9,
        ) {
            let input = format!("{}{tail}", lines.concat()).into_bytes();
            let whole = parse(&input, input.len().max(1)).map(|(progress, list)| (progress, list.lines().to_vec()));
            let pieces = parse(&input, split).map(|(progress, list)| (progress, list.lines().to_vec()));
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn any_split_of_a_response_gives_the_same(
            start in "(HTTP/1\\.[01] [0-9]{3}( [ -~]{0,5})?\r?\n|HT?T?P?/?1?)?",
            lines in proptest::collection::vec("[A-Za-z_/-]{1,8}(: ?[ -~]{0,10})?(\r)?\n", 0..4),
            tail in "(\r)?\n?[ -~]{0,8}",
            split in 1_usize..9,
        ) {
            let input = format!("{start}{}{tail}", lines.concat()).into_bytes();
            prop_assert_eq!(parse_response(&input, split), parse_response(&input, input.len().max(1)));
        }
    }
}
