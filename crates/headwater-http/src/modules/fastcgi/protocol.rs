//! FastCGI as protocol callbacks. nginx's counterpart: `ngx_http_fastcgi_process_header`, `ngx_http_fastcgi_input_filter`,
//! `ngx_http_fastcgi_non_buffered_filter`.
//!
//! Records are taken apart as they come, so the engine never keeps bytes of the head: `process_header` uses up all it sees.

use std::sync::Arc;

use headwater_wire::cgi::CgiHeadParser;
use headwater_wire::fastcgi::{self, Event, HEADER, Kind, Params, RecordParser};
use headwater_wire::headers::HeaderList;
use headwater_wire::http1::Progress;

use super::super::cgi::response::{Rest, invalid_line, take_head};
use super::FastcgiLocation;
use crate::flow::error_log::Level;
use crate::request::Request;
use crate::upstream::protocol::{Header, Piece, Protocol, ResponseHead, log};

const SCHEME: &str = "fastcgi://";

/// One request to a FastCGI server.
pub(super) struct FastCgi {
    location: Arc<FastcgiLocation>,
    records: RecordParser,
    /// The head so far, from the content of STDOUT records.
    head: Vec<u8>,
    parser: CgiHeadParser,
    /// What the head takes of `fastcgi_buffer_size`, bytes; 0 before STDOUT begins.
    head_size: usize,
    /// The content of a STDERR record so far.
    stderr: Vec<u8>,
    rest: Rest,
    /// Nothing more is wanted of the server.
    complete: bool,
    /// END_REQUEST was read to its end.
    ended: bool,
}

impl FastCgi {
    pub(super) fn new(location: Arc<FastcgiLocation>) -> Self {
        Self {
            location,
            records: RecordParser::default(),
            head: Vec::new(),
            parser: CgiHeadParser::default(),
            head_size: 0,
            stderr: Vec::new(),
            rest: Rest::Unknown,
            complete: false,
            ended: false,
        }
    }

    /// Logs a record of STDERR; whether `fastcgi_catch_stderr` names a part of it.
    fn take_stderr(&mut self, r: &Request) -> bool {
        let text = std::mem::take(&mut self.stderr);
        if text.is_empty() {
            return false;
        }
        let trailing = text.iter().skip(1).rev().take_while(|byte| b"\r\n. ".contains(byte)).count();
        let text = text.get(..text.len().saturating_sub(trailing)).unwrap_or_default();
        let shown = String::from_utf8_lossy(text);
        log(r, SCHEME, b"", Level::Error, format_args!("FastCGI sent in stderr: \"{shown}\""));
        let named = |part: &[u8]| part.is_empty() || text.windows(part.len()).any(|window| window == part);
        self.location.catch_stderr.iter().any(|part| named(part))
    }

    /// Takes content of STDOUT that belongs to the head; `None` while the head is incomplete, else how many bytes of the content are body.
    fn head_bytes(&mut self, content: &[u8]) -> Result<Option<usize>, String> {
        self.head.extend_from_slice(content);
        self.head_size = self.head_size.saturating_add(content.len());
        match self.parser.parse(&self.head) {
            Ok(Progress::Partial) => Ok(None),
            Ok(Progress::Complete { len }) => {
                let body = self.head.len().saturating_sub(len);
                self.head.truncate(len);
                self.head_size = self.head_size.saturating_sub(body);
                Ok(Some(body))
            }
            Err(error) => Err(invalid_line(error, self.parser.offending(), &self.head)),
        }
    }

    /// Says what the complete head means.
    fn take_head(&mut self, r: &Request, head: &mut ResponseHead) -> Result<(), String> {
        let headers = HeaderList::adopt(std::mem::take(&mut self.head), self.parser.take());
        self.rest = take_head(r, headers, None, head)?;
        Ok(())
    }

    /// Looks at one event before the head is complete. `Some` when the head is complete or cannot be.
    fn head_event(
        &mut self,
        r: &Request,
        buffer: &[u8],
        used: usize,
        event: Event,
        head: &mut ResponseHead,
    ) -> Option<Header> {
        let invalid = |text: String| Some(Header::Invalid(text));
        match event {
            Event::Begin(Kind::EndRequest, _) => {
                let number = Kind::EndRequest.number();
                return invalid(format!("upstream sent unexpected FastCGI record: {number}"));
            }
            Event::Begin(Kind::Stdout, 0) => {
                return invalid("upstream prematurely closed FastCGI stdout".into());
            }
            Event::Begin(kind, _) => {
                if kind == Kind::Stdout || self.head_size > 0 {
                    self.head_size = self.head_size.saturating_add(HEADER);
                }
            }
            Event::Content(Kind::Stdout, range) => {
                let content = buffer.get(range).unwrap_or_default();
                match self.head_bytes(content) {
                    Ok(None) => {}
                    Ok(Some(body)) => {
                        self.records.unread(body);
                        let taken = self.take_head(r, head);
                        return Some(match taken {
                            Ok(()) => Header::Ok(used.saturating_sub(body)),
                            Err(text) => Header::Invalid(text),
                        });
                    }
                    Err(text) => return invalid(text),
                }
            }
            Event::Content(_, range) => self.stderr.extend_from_slice(buffer.get(range).unwrap_or_default()),
            // What was wrong is in the log already.
            Event::End(Kind::Stderr) if self.take_stderr(r) => return invalid(String::new()),
            Event::End(_) | Event::More => {}
        }
        None
    }

    /// A record begins behind the head: whether the body may end with it.
    fn begin(&mut self, kind: Kind, length: usize) -> Result<(), String> {
        let what = match (kind, length) {
            (Kind::Stdout, 0) => "stdout",
            (Kind::EndRequest, _) => "request",
            _ => return Ok(()),
        };
        if !self.complete && matches!(self.rest, Rest::Length(rest) if rest > 0) {
            return Err(format!("upstream prematurely closed FastCGI {what}"));
        }
        // A connection that will be closed has nothing more to say.
        self.complete |= !self.location.keep_conn;
        Ok(())
    }

    /// Body bytes came: how many of them count.
    fn body_bytes(&mut self, r: &Request, count: usize) -> usize {
        let counted = self.rest.take(r, SCHEME, count);
        self.complete |= counted < count;
        counted
    }
}

impl Protocol for FastCgi {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16> {
        fastcgi::begin_request(self.location.keep_conn, out);
        let mut record = Params::begin(out);
        self.location.params.write(r, &mut |name, value| record.push(name, value));
        record.finish().map_err(|fastcgi::TooBig(size)| {
            r.log(Level::Alert, format_args!("fastcgi request record is too big: {size}"));
            500_u16
        })
    }

    fn reinit_request(&mut self, r: &Request) {
        let _ = self.take_stderr(r);
        *self = Self::new(self.location.clone());
    }

    fn frames_body(&self) -> bool {
        true
    }

    fn encode_body(&mut self, data: &[u8], last: bool, out: &mut Vec<u8>) {
        fastcgi::encode_stdin(data, out);
        if last {
            fastcgi::end_stdin(out);
        }
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        let mut used = 0_usize;
        loop {
            let rest = buffer.get(used..).unwrap_or_default();
            let step = match self.records.step(rest) {
                Ok(step) => step,
                Err(error) => return Header::Invalid(error.to_string()),
            };
            used = used.saturating_add(step.consumed);
            if step.event == Event::More {
                return Header::Skip(used);
            }
            if let Some(header) = self.head_event(r, rest, used, step.event, head) {
                return header;
            }
        }
    }

    fn header_size(&self, _: usize) -> usize {
        self.head_size
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {}

    fn input_filter(&mut self, r: &Request, buffer: &[u8]) -> Result<Piece, String> {
        let mut used = 0_usize;
        loop {
            let rest = buffer.get(used..).unwrap_or_default();
            let step = match self.records.step(rest) {
                Ok(step) => step,
                // The response is there; what follows it does not matter.
                Err(_) if self.complete => {
                    return Ok(Piece { consumed: buffer.len(), data: None, done: true });
                }
                Err(error) => return Err(error.to_string()),
            };
            let start = used;
            used = used.saturating_add(step.consumed);
            match step.event {
                Event::More => return Ok(Piece { consumed: used, data: None, done: self.complete }),
                Event::Begin(kind, length) => self.begin(kind, length)?,
                Event::Content(Kind::Stdout, range) if !self.complete => {
                    let count = self.body_bytes(r, range.len());
                    if count > 0 {
                        let data = Some(start..start.saturating_add(count));
                        return Ok(Piece { consumed: used, data, done: self.complete });
                    }
                }
                Event::Content(Kind::Stderr, range) => {
                    self.stderr.extend_from_slice(rest.get(range).unwrap_or_default());
                }
                Event::End(Kind::Stderr) => {
                    let _ = self.take_stderr(r);
                }
                Event::End(Kind::EndRequest) => {
                    self.ended = true;
                    return Ok(Piece { consumed: used, data: None, done: true });
                }
                Event::Content(..) | Event::End(Kind::Stdout) => {}
            }
        }
    }

    fn input_end(&mut self, r: &Request) -> bool {
        let _ = self.take_stderr(r);
        let buffered = r.overrides.buffering.get().unwrap_or(self.location.conf.buffering);
        // Only a connection that should stay open has a wrong moment to be closed.
        !(self.location.keep_conn && buffered)
    }

    fn reusable(&self) -> bool {
        self.location.keep_conn && self.ended
    }

    fn finalize_request(&mut self, r: &Request, _: u16) {
        let _ = self.take_stderr(r);
    }
}
