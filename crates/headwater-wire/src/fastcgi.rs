//! FastCGI records: what a responder is sent, and what comes back.
//!
//! [`begin_request`], [`Params`] and [`encode_stdin`] append a request to a buffer; [`RecordParser`] takes the answer apart as it comes, whatever
//! its pieces. One request at a time uses a connection, so its id is always 1. Called by the FastCGI module. nginx counterparts:
//! `ngx_http_fastcgi_create_request`, `ngx_http_fastcgi_process_record`. Source: FastCGI Specification 1.0, sections 3.3 to 5.

use std::fmt;
use std::ops::Range;

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// The role of the application in a request for a response.
const RESPONDER: u8 = 1;
/// The flag that keeps the connection open.
const KEEP_CONN: u8 = 1;
/// The id of every request.
const REQUEST_ID: u8 = 1;

/// Bytes of a record's header.
pub const HEADER: usize = 8;
/// The largest content of a record, bytes.
pub const MAX_CONTENT: usize = 65_535;
/// The content of one STDIN record at most, bytes; nginx cuts bodies so.
const STDIN_PIECE: usize = 32 * 1024;

/// Appends the BEGIN_REQUEST record of a responder.
pub fn begin_request(keep_connection: bool, out: &mut Vec<u8>) {
    header(BEGIN_REQUEST, 8, 0, out);
    out.extend_from_slice(&[0, RESPONDER, if keep_connection { KEEP_CONN } else { 0 }, 0, 0, 0, 0, 0]);
}

/// Appends a body, or a piece of one, as STDIN records.
pub fn encode_stdin(data: &[u8], out: &mut Vec<u8>) {
    for piece in data.chunks(STDIN_PIECE) {
        let padding = padding(piece.len());
        header(STDIN, piece.len(), padding, out);
        out.extend_from_slice(piece);
        pad(padding, out);
    }
}

/// Appends the empty STDIN record that ends a body.
pub fn end_stdin(out: &mut Vec<u8>) {
    header(STDIN, 0, 0, out);
}

/// Writes the one PARAMS record of a request.
#[derive(Debug)]
pub struct Params<'o> {
    out: &'o mut Vec<u8>,
    /// Where the content starts.
    start: usize,
}

/// The parameters do not fit into one record; holds their size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig(pub usize);

impl<'o> Params<'o> {
    /// Starts the record.
    #[must_use]
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        header(PARAMS, 0, 0, out);
        let start = out.len();
        Self { out, start }
    }

    /// Appends a parameter.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        length(name.len(), self.out);
        length(value.len(), self.out);
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(value);
    }

    /// Ends the record and appends the empty one that ends all parameters.
    ///
    /// # Errors
    /// The content is longer than a record may be.
    pub fn finish(self) -> Result<(), TooBig> {
        let size = self.out.len().saturating_sub(self.start);
        let Ok(short) = u16::try_from(size) else { return Err(TooBig(size)) };
        let padding = padding(size);
        pad(padding, self.out);
        let [high, low] = short.to_be_bytes();
        let lengths = self.start.saturating_sub(4)..self.start.saturating_sub(1);
        if let Some(lengths) = self.out.get_mut(lengths) {
            lengths.copy_from_slice(&[high, low, padding]);
        }
        header(PARAMS, 0, 0, self.out);
        Ok(())
    }
}

/// Appends the length of a name or value: one byte up to 127, else four.
fn length(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short) if short < 128 => out.push(short),
        _ => {
            let long = u32::try_from(length).unwrap_or(u32::MAX) | 0x8000_0000;
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
}

/// Appends a record's header; `length` is at most [`MAX_CONTENT`].
fn header(kind: u8, length: usize, padding: u8, out: &mut Vec<u8>) {
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[VERSION, kind, 0, REQUEST_ID, high, low, padding, 0]);
}

/// How many bytes fill a content up to a multiple of eight.
fn padding(length: usize) -> u8 {
    // The remainder is below eight.
    u8::try_from(8_usize.saturating_sub(length % 8) % 8).unwrap_or(0)
}

fn pad(padding: u8, out: &mut Vec<u8>) {
    out.resize(out.len().saturating_add(usize::from(padding)), 0);
}

/// The kinds of record that an application sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of the response.
    Stdout,
    /// Text for the error log.
    Stderr,
    /// The request is over.
    EndRequest,
}

impl Kind {
    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Kind::Stdout => STDOUT,
            Kind::Stderr => STDERR,
            Kind::EndRequest => END_REQUEST,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            STDOUT => Some(Kind::Stdout),
            STDERR => Some(Kind::Stderr),
            END_REQUEST => Some(Kind::EndRequest),
            _ => None,
        }
    }
}

/// The first byte that is wrong in a record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The version is not 1.
    Version(u8),
    /// The type is none that an application sends.
    Type(u8),
    /// The request id is not 1.
    IdHigh(u8),
    /// The request id is not 1.
    IdLow(u8),
}

impl fmt::Display for RecordError {
    /// nginx's text for the error log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(byte) => write!(f, "upstream sent unsupported FastCGI protocol version: {byte}"),
            Self::Type(byte) => write!(f, "upstream sent invalid FastCGI record type: {byte}"),
            Self::IdHigh(byte) => write!(f, "upstream sent unexpected FastCGI request id high byte: {byte}"),
            Self::IdLow(byte) => write!(f, "upstream sent unexpected FastCGI request id low byte: {byte}"),
        }
    }
}

impl std::error::Error for RecordError {}

/// What [`RecordParser::step`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The bytes ran out.
    More,
    /// The header of a record with this much content, bytes.
    Begin(Kind, usize),
    /// Content, at least one byte; where it stands in the input.
    Content(Kind, Range<usize>),
    /// A record ended, padding and all.
    End(Kind),
}

/// One step of the parser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// What they were.
    pub event: Event,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// In a header: which byte comes next.
    Header(u8),
    Content(usize),
    Padding,
}

/// Takes records apart.
#[derive(Clone, Debug)]
pub struct RecordParser {
    state: State,
    kind: Kind,
    length: usize,
    padding: usize,
}

impl Default for RecordParser {
    fn default() -> Self {
        Self { state: State::Header(0), kind: Kind::Stdout, length: 0, padding: 0 }
    }
}

impl RecordParser {
    /// Looks at the next bytes. Call it again with what was not consumed until it says [`Event::More`].
    ///
    /// # Errors
    /// The header of a record is wrong; nothing behind it can be understood.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, RecordError> {
        match self.state {
            State::Header(at) => self.header(at, input),
            State::Content(0) => {
                self.state = State::Padding;
                Ok(self.skip_padding(input))
            }
            State::Content(left) => {
                let consumed = left.min(input.len());
                if consumed == 0 {
                    return Ok(Step { consumed, event: Event::More });
                }
                self.state = State::Content(left.saturating_sub(consumed));
                Ok(Step { consumed, event: Event::Content(self.kind, 0..consumed) })
            }
            State::Padding => Ok(self.skip_padding(input)),
        }
    }

    /// Takes the last bytes of the content that the last step gave back, to be given again.
    pub fn unread(&mut self, count: usize) {
        if let State::Content(left) = &mut self.state {
            *left = left.saturating_add(count);
        }
    }

    fn skip_padding(&mut self, input: &[u8]) -> Step {
        let consumed = self.padding.min(input.len());
        self.padding = self.padding.saturating_sub(consumed);
        if self.padding > 0 {
            return Step { consumed, event: Event::More };
        }
        self.state = State::Header(0);
        Step { consumed, event: Event::End(self.kind) }
    }

    fn header(&mut self, at: u8, input: &[u8]) -> Result<Step, RecordError> {
        let mut at = at;
        let mut consumed = 0_usize;
        for byte in input.iter().copied() {
            match at {
                0 if byte != VERSION => return Err(RecordError::Version(byte)),
                1 => self.kind = Kind::of(byte).ok_or(RecordError::Type(byte))?,
                2 if byte != 0 => return Err(RecordError::IdHigh(byte)),
                3 if byte != REQUEST_ID => return Err(RecordError::IdLow(byte)),
                4 => self.length = usize::from(byte) << 8,
                5 => self.length |= usize::from(byte),
                6 => self.padding = usize::from(byte),
                _ => {}
            }
            consumed = consumed.saturating_add(1);
            at = at.saturating_add(1);
            if usize::from(at) == HEADER {
                self.state = State::Content(self.length);
                return Ok(Step { consumed, event: Event::Begin(self.kind, self.length) });
            }
        }
        self.state = State::Header(at);
        Ok(Step { consumed, event: Event::More })
    }
}

#[cfg(test)]
mod tests;
