//! The compressing body filter.
//!
//! Put into a response's chain by the gzip header filter. nginx's counterpart: `ngx_http_gzip_body_filter` and what it calls.

use std::cell::Cell;

use flate2::{Compress, Compression, FlushCompress, Status};

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

/// Compresses one response.
pub(super) struct Deflate {
    plan: Plan,
    compressor: Option<Compressor>,
    /// What was collected before compression starts.
    held: Vec<u8>,
    holding: bool,
    out: Vec<u8>,
}

impl Deflate {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, compressor: None, held: Vec::new(), holding: plan.postpone > 0, out: Vec::new() }
    }

    /// Compresses bytes; with a flush mark until all that the compressor has is in `out`. Full buffers are passed on.
    fn feed(
        &mut self,
        r: &Request,
        input: &[u8],
        flush: FlushCompress,
        next: &mut Next<'_>,
    ) -> Result<(), SendError> {
        let mut rest = input;
        loop {
            if self.out.len() >= self.plan.most {
                self.pass_on(r, End::More, next)?;
            }
            if self.out.len() == self.out.capacity() {
                self.out.reserve(self.plan.buffer.max(64));
            }
            let plan = self.plan;
            let stream = &mut self.compressor.get_or_insert_with(|| Compressor::take(&plan)).stream;
            let (consumed, produced) = (stream.total_in(), self.out.len());
            let status = stream.compress_vec(rest, &mut self.out, flush).map_err(|error| {
                r.log(Level::Alert, format_args!("deflate() failed: {error}"));
                SendError::Broken
            })?;
            let consumed = usize::try_from(stream.total_in().saturating_sub(consumed)).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            let room = self.out.len() < self.out.capacity();
            if status == Status::StreamEnd || (rest.is_empty() && room && flush != FlushCompress::Finish) {
                return Ok(());
            }
            if room && consumed == 0 && self.out.len() == produced {
                r.log(Level::Alert, format_args!("deflate() failed: no progress"));
                return Err(SendError::Broken);
            }
        }
    }

    fn pass_on(&mut self, r: &Request, end: End, next: &mut Next<'_>) -> Result<(), SendError> {
        if self.out.is_empty() && end == End::More {
            return Ok(());
        }
        let outcome = next.push(r, Chunk::Slice(&self.out), end);
        self.out.clear();
        outcome
    }

    /// Keeps bytes while there are too few to start with. Gives whether they were kept.
    fn hold(&mut self, chunk: &Chunk<'_>, end: End) -> Result<bool, SendError> {
        let total = (self.held.len() as u64).saturating_add(chunk.len());
        if !self.holding || end != End::More || total > self.plan.postpone as u64 {
            self.holding = false;
            return Ok(false);
        }
        chunk.read(|bytes| {
            self.held.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(true)
    }

    fn finish(&mut self, r: &Request) {
        if let Some(compressor) = self.compressor.take() {
            let (before, after) = (compressor.stream.total_in(), compressor.stream.total_out());
            r.set_extension(Ratio { before, after });
            compressor.give_back();
        }
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
            End::More if self.plan.no_buffer || self.out.len() >= self.plan.buffer => {
                self.pass_on(r, End::More, next)
            }
            End::More => Ok(()),
            End::Flush => {
                self.feed(r, &[], FlushCompress::Sync, next)?;
                self.pass_on(r, End::Flush, next)
            }
            End::Last => {
                self.feed(r, &[], FlushCompress::Finish, next)?;
                self.finish(r);
                self.pass_on(r, End::Last, next)
            }
        }
    }
}
