//! The chunked transfer coding (RFC 9112 §7.1): an incremental decoder and the few bytes of an encoder.
//!
//! Called by the request-body room and the upstream body readers. Every line end must be CRLF: a lone LF is an error
//! (nginx ≥ 1.29.4), and so is anything but CRLF behind a chunk. Extensions are skipped. nginx counterpart:
//! `ngx_http_parse_chunked`.

use std::fmt;
use std::ops::Range;

use super::header_line::{Event, HeaderLineParser, Rules};
use crate::headers::HeaderList;

/// The last chunk with an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Bytes behind the data of the last non-empty chunk at least: CRLF and the last chunk.
const TAIL: u64 = 7;

/// One step of the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input dealt with, the data included.
    pub consumed: usize,
    /// Body bytes found, as a range of the input.
    pub data: Option<Range<usize>>,
    /// The last chunk and the trailer section are over; bytes behind `consumed` belong to what follows.
    pub done: bool,
}

/// Why a chunked body was refused. The decoder gives the same error on any further call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkedError {
    /// The framing is malformed.
    InvalidFraming,
    /// A chunk size does not fit an `i64`.
    SizeOverflow,
    /// A collected trailer line is malformed.
    InvalidTrailer,
    /// The collected trailer section is larger than its limit.
    TrailersTooLarge,
}

impl fmt::Display for ChunkedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidFraming => "invalid chunked body",
            Self::SizeOverflow => "too large chunk size",
            Self::InvalidTrailer => "invalid trailer",
            Self::TrailersTooLarge => "too large trailer section",
        })
    }
}

impl std::error::Error for ChunkedError {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    SizeStart,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
    Failed(ChunkedError),
}

/// An incremental decoder of one chunked body.
#[derive(Clone, Debug, Default)]
pub struct ChunkedDecoder {
    state: State,
    /// Size of the chunk while its size is read, then what is left of it; bytes.
    size: u64,
    /// Trailer bytes kept at most; 0: trailers are skipped.
    limit: usize,
    raw: Vec<u8>,
    trailers: HeaderList,
}

impl ChunkedDecoder {
    /// A decoder that skips the trailer section, as nginx does for requests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder that keeps the trailers, at most `limit` bytes of them.
    #[must_use]
    pub fn with_trailers(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Reads framing up to the next body bytes, the end of the body, or the end of `input`. Call again with the
    /// bytes behind `consumed` until it is done or consumes everything.
    ///
    /// # Errors
    /// The framing or a collected trailer is invalid.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkedError> {
        let mut pos = 0;
        while let Some(&byte) = input.get(pos) {
            match self.state {
                State::Done => break,
                State::Failed(error) => return Err(error),
                State::Data => return Ok(self.data(pos, input.len())),
                _ => {}
            }
            if let Err(error) = self.framing(byte) {
                self.state = State::Failed(error);
                return Err(error);
            }
            pos += 1;
        }
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        Ok(Step { consumed: pos, data: None, done: self.state == State::Done })
    }

    /// The trailers, whole once the decoder is done; none unless they are kept.
    #[must_use]
    pub fn trailers(&self) -> &HeaderList {
        &self.trailers
    }

    /// Gives the trailers away.
    #[must_use]
    pub fn take_trailers(&mut self) -> HeaderList {
        std::mem::take(&mut self.trailers)
    }

    /// The body is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes of coded body must follow at least: nginx reads that much ahead without fear of reading
    /// what follows the body.
    #[must_use]
    pub fn min_remaining(&self) -> u64 {
        match self.state {
            State::SizeStart => 5,
            State::Size | State::Extension if self.size > 0 => self.size.saturating_add(2 + TAIL),
            State::Size | State::Extension | State::Trailer => 4,
            State::SizeLf if self.size > 0 => self.size.saturating_add(1 + TAIL),
            State::SizeLf | State::TrailerLf => 3,
            State::Data => self.size.saturating_add(TAIL),
            State::DataCr => TAIL,
            State::DataLf => TAIL - 1,
            State::TrailerStart => 2,
            State::EndLf => 1,
            State::Done | State::Failed(_) => 0,
        }
    }

    fn data(&mut self, pos: usize, end: usize) -> Step {
        let available = end.saturating_sub(pos);
        let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(available);
        self.size = self.size.saturating_sub(take as u64);
        if self.size == 0 {
            self.state = State::DataCr;
        }
        Step { consumed: pos + take, data: Some(pos..pos + take), done: false }
    }

    fn framing(&mut self, byte: u8) -> Result<(), ChunkedError> {
        let digit = hex_digit(byte);
        self.state = match (self.state, byte, digit) {
            (State::SizeStart, _, Some(value)) => {
                self.size = value;
                State::Size
            }
            (State::Size, _, Some(value)) => {
                self.size = add_digit(self.size, value).ok_or(ChunkedError::SizeOverflow)?;
                State::Size
            }
            (State::Size | State::Extension, b'\r', _) => State::SizeLf,
            (State::Size, b';' | b' ' | b'\t', _) => State::Extension,
            (State::Extension, b'\n', _) => return Err(ChunkedError::InvalidFraming),
            (State::Extension, _, _) => State::Extension,
            (State::SizeLf, b'\n', _) if self.size == 0 => State::TrailerStart,
            (State::SizeLf, b'\n', _) => State::Data,
            (State::DataCr, b'\r', _) => State::DataLf,
            (State::DataLf, b'\n', _) => State::SizeStart,
            (State::TrailerStart, b'\r', _) => State::EndLf,
            (State::Trailer, b'\r', _) => State::TrailerLf,
            (State::TrailerStart | State::Trailer, b'\n', _) => {
                return Err(ChunkedError::InvalidFraming);
            }
            (State::TrailerStart | State::Trailer, _, _) => State::Trailer,
            (State::TrailerLf, b'\n', _) => State::TrailerStart,
            (State::EndLf, b'\n', _) => State::Done,
            _ => return Err(ChunkedError::InvalidFraming),
        };
        match self.state {
            State::Trailer if self.limit > 0 => self.keep(byte),
            State::TrailerStart if self.limit > 0 => self.end_trailer(),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, byte: u8) -> Result<(), ChunkedError> {
        let total = self.raw.len().saturating_add(self.trailers.buffer().len());
        if total >= self.limit {
            return Err(ChunkedError::TrailersTooLarge);
        }
        self.raw.push(byte);
        Ok(())
    }

    /// A line is whole: make it a header line. Called behind the last chunk's own line end too, with nothing kept.
    fn end_trailer(&mut self) -> Result<(), ChunkedError> {
        if self.raw.is_empty() {
            return Ok(());
        }
        self.raw.push(b'\n');
        let rules = Rules { underscores: true, skip_status_lines: false };
        let mut parser = HeaderLineParser::default();
        let event = parser.feed(&self.raw, &mut 0, rules);
        if event != Ok(Event::Line) || parser.invalid {
            return Err(ChunkedError::InvalidTrailer);
        }
        let line = parser.line(&self.raw);
        self.trailers.push(line.name.get(&self.raw), line.value.get(&self.raw));
        self.raw.clear();
        Ok(())
    }
}

fn hex_digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// `size` with one more hexadecimal digit; `None` if the body could not be counted in an `i64` any more.
fn add_digit(size: u64, digit: u64) -> Option<u64> {
    const MAX: u64 = i64::MAX as u64 - TAIL;
    size.checked_mul(16)?.checked_add(digit).filter(|&size| size <= MAX)
}

/// Appends the line that begins a chunk of `len` bytes. The data follow, then CRLF. `len` must not be 0: that would
/// end the body.
pub fn encode_chunk_header(len: usize, out: &mut Vec<u8>) {
    push_hex(len as u64, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in lower-case hexadecimal digits without leading zeroes.
pub fn push_hex(number: u64, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(HEX[(number >> (place * 4)) as usize & 0xf]);
    }
}

#[cfg(test)]
mod tests;
