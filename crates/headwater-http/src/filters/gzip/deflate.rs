//! The compressing body filter.
//!
//! Put into a response's chain by the gzip header filter. nginx's counterpart: `ngx_http_gzip_body_filter` and what it calls.

use std::cell::Cell;

use flate2::{Compress, CompressError, Compression, FlushCompress, Status};

use crate::filters::{BodyFilter, Chunk, End, Next};
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::request::Request;

thread_local! {
    /// The compressor that the last response of this worker used: making one costs as much as compressing a short response.
    static SPARE: Cell<Option<Compressor>> = const { Cell::new(None) };
}

/// How one response is compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// 1 to 9.
    pub(super) level: u32,
    /// Logarithm of the window's size, 9 to 15.
    pub(super) window: u8,
    /// Compressed data is passed on when there is this much, bytes.
    pub(super) buffer: usize,
    /// At most this much of it waits while a chunk is worked on, bytes.
    pub(super) most: usize,
    /// How much of the response is collected before compression starts, bytes.
    pub(super) postpone: usize,
    /// Whether compressed data is passed on however little it is.
    pub(super) no_buffer: bool,
}

/// Sizes of a body before and after, for `$gzip_ratio`; bytes.
pub(super) struct Ratio {
    pub(super) before: u64,
    pub(super) after: u64,
}

struct Compressor {
    level: u32,
    window: u8,
    stream: Compress,
}

impl Compressor {
    fn take(plan: &Plan) -> Self {
        match SPARE.try_with(Cell::take).ok().flatten() {
            Some(spare) if spare.level == plan.level && spare.window == plan.window => spare,
            _ => Self {
                level: plan.level,
                window: plan.window,
                stream: Compress::new_gzip(Compression::new(plan.level), plan.window.clamp(9, 15)),
            },
        }
    }

    fn give_back(mut self) {
        self.stream.reset();
        // A thread that is going away keeps nothing.
        let _ = SPARE.try_with(|slot| slot.set(Some(self)));
    }
}

/// What takes compressed data: the next filter.
type Emit<'e> = &'e mut dyn FnMut(&[u8]) -> Result<(), SendError>;

/// The compressor and what it has made; knows no requests.
struct Packer {
    plan: Plan,
    compressor: Option<Compressor>,
    out: Vec<u8>,
}

impl Packer {
    /// Compresses bytes; with a flush mark until all that the compressor has is in `out`. Full buffers are passed on.
    fn feed(&mut self, input: &[u8], flush: FlushCompress, emit: Emit<'_>) -> Result<(), PackError> {
        let mut rest = input;
        loop {
            if self.out.len() >= self.plan.most {
                emit(&self.out)?;
                self.out.clear();
            }
            if self.out.len() == self.out.capacity() {
                self.out.reserve(self.plan.buffer.max(64));
            }
            let plan = self.plan;
            let stream = &mut self.compressor.get_or_insert_with(|| Compressor::take(&plan)).stream;
            let (consumed, produced) = (stream.total_in(), self.out.len());
            let status = stream.compress_vec(rest, &mut self.out, flush)?;
            let consumed = usize::try_from(stream.total_in().saturating_sub(consumed)).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            let room = self.out.len() < self.out.capacity();
            if status == Status::StreamEnd || (rest.is_empty() && room && flush != FlushCompress::Finish) {
                return Ok(());
            }
            if room && consumed == 0 && self.out.len() == produced {
                return Err(PackError::Stuck);
            }
        }
    }

    /// Gives the compressor back when the stream is complete.
    fn finish(&mut self) -> Option<Ratio> {
        let compressor = self.compressor.take()?;
        let (before, after) = (compressor.stream.total_in(), compressor.stream.total_out());
        compressor.give_back();
        Some(Ratio { before, after })
    }
}

/// Why compression could not go on.
#[derive(Debug)]
enum PackError {
    Send(SendError),
    Deflate(CompressError),
    Stuck,
}

impl From<SendError> for PackError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<CompressError> for PackError {
    fn from(error: CompressError) -> Self {
        Self::Deflate(error)
    }
}

impl PackError {
    fn report(self, r: &Request) -> SendError {
        match self {
            Self::Send(error) => return error,
            Self::Deflate(error) => r.log(Level::Alert, format_args!("deflate() failed: {error}")),
            Self::Stuck => r.log(Level::Alert, format_args!("deflate() failed: no progress")),
        }
        SendError::Broken
    }
}

/// Compresses one response.
pub(super) struct Deflate {
    packer: Packer,
    /// What was collected before compression starts.
    held: Vec<u8>,
    holding: bool,
}

impl Deflate {
    pub(super) fn new(plan: Plan) -> Self {
        let packer = Packer { plan, compressor: None, out: Vec::new() };
        Self { packer, held: Vec::new(), holding: plan.postpone > 0 }
    }

    fn feed(
        &mut self,
        r: &Request,
        input: &[u8],
        flush: FlushCompress,
        next: &mut Next<'_>,
    ) -> Result<(), SendError> {
        let mut emit = |out: &[u8]| next.push(r, Chunk::Slice(out), End::More);
        self.packer.feed(input, flush, &mut emit).map_err(|error| error.report(r))
    }

    fn pass_on(&mut self, r: &Request, end: End, next: &mut Next<'_>) -> Result<(), SendError> {
        let out = &mut self.packer.out;
        if out.is_empty() && end == End::More {
            return Ok(());
        }
        let outcome = next.push(r, Chunk::Slice(out), end);
        out.clear();
        outcome
    }

    /// Keeps bytes while there are too few to start with. Gives whether they were kept.
    fn hold(&mut self, chunk: &Chunk<'_>, end: End) -> Result<bool, SendError> {
        let total = (self.held.len() as u64).saturating_add(chunk.len());
        if !self.holding || end != End::More || total > self.packer.plan.postpone as u64 {
            self.holding = false;
            return Ok(false);
        }
        chunk.read(|bytes| {
            self.held.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(true)
    }
}

impl BodyFilter for Deflate {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> Result<(), SendError> {
        if r.header_only.get() {
            return next.push(r, Chunk::Empty, end);
        }
        if self.hold(&chunk, end)? {
            return Ok(());
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.feed(r, &held, FlushCompress::None, next)?;
        }
        if !chunk.is_empty() {
            chunk.read(|bytes| self.feed(r, bytes, FlushCompress::None, next))?;
        }
        match end {
            End::More if self.packer.plan.no_buffer || self.packer.out.len() >= self.packer.plan.buffer => {
                self.pass_on(r, End::More, next)
            }
            End::More => Ok(()),
            End::Flush => {
                self.feed(r, &[], FlushCompress::Sync, next)?;
                self.pass_on(r, End::Flush, next)
            }
            End::Last => {
                self.feed(r, &[], FlushCompress::Finish, next)?;
                if let Some(ratio) = self.packer.finish() {
                    r.set_extension(ratio);
                }
                self.pass_on(r, End::Last, next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    const PLAN: Plan = Plan { level: 1, window: 15, buffer: 64, most: 128, postpone: 0, no_buffer: false };

    /// Compresses pieces, flushing after each for which it is asked; gives the whole and the length after each piece.
    fn pack(plan: Plan, pieces: &[(Vec<u8>, bool)]) -> (Vec<u8>, Vec<usize>) {
        let mut packer = Packer { plan, compressor: None, out: Vec::new() };
        let (mut whole, mut lengths) = (Vec::new(), Vec::new());
        for (piece, flush) in pieces {
            let flush = if *flush { FlushCompress::Sync } else { FlushCompress::None };
            let mut emit = |out: &[u8]| {
                whole.extend_from_slice(out);
                Ok(())
            };
            packer.feed(piece, flush, &mut emit).expect("compresses");
            lengths.push(whole.len() + packer.out.len());
        }
        let mut emit = |out: &[u8]| {
            whole.extend_from_slice(out);
            Ok(())
        };
        packer.feed(&[], FlushCompress::Finish, &mut emit).expect("ends");
        whole.extend_from_slice(&packer.out);
        let ratio = packer.finish().expect("a compressor was used");
        assert_eq!(ratio.after, whole.len() as u64);
        (whole, lengths)
    }

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut plain).expect("is gzip");
        plain
    }

    #[test]
    fn a_flush_brings_out_all_that_was_put_in() {
        let (packed, lengths) =
            pack(PLAN, &[(b"hello".to_vec(), true), (Vec::new(), true), (b"x".to_vec(), false)]);
        let mut start = vec![0; 5];
        GzDecoder::new(&packed[..lengths[0]]).read_exact(&mut start).expect("the first piece is whole");
        assert_eq!(start, b"hello");
        assert_eq!(unpacked(&packed), b"hellox");
    }

    #[test]
    fn a_used_compressor_serves_again_from_the_start() {
        let piece = [(b"some text".to_vec(), false)];
        let first = pack(PLAN, &piece).0;
        assert_eq!(pack(PLAN, &piece).0, first);
        assert_eq!(unpacked(&pack(Plan { level: 9, window: 9, ..PLAN }, &piece).0), b"some text");
    }

    #[test]
    fn an_empty_body_is_an_empty_gzip_member() {
        assert_eq!(unpacked(&pack(PLAN, &[]).0), b"");
    }

    proptest! {
        #[test]
        fn any_pieces_and_flushes_give_the_same_bytes_back(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..400), any::<bool>()), 0..8),
            level in 1_u32..=9,
            window in 9_u8..=15,
        ) {
            let plain: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.clone()).collect();
            let (packed, _) = pack(Plan { level, window, ..PLAN }, &pieces);
            prop_assert_eq!(unpacked(&packed), plain);
        }
    }
}
