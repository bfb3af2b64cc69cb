//! Byte ranges: one range as 206 with `Content-Range`, several as `multipart/byteranges`.
//!
//! nginx's counterpart: `ngx_http_range_filter_module.c`; RFC 9110 §14.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use headwater_conf::Result;
use headwater_wire::http1::request::Version;
use headwater_wire::range::{RangeOutcome, parse};
use headwater_wire::{date, etag};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::flow::output::SendError;
use crate::request::{HeadersOut, Request};

/// Numbers the boundaries of multipart responses.
static BOUNDARY: AtomicU64 = AtomicU64::new(1);

/// Every location has it: it looks only at responses that allow ranges.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    builder.location.header_filters.push(Box::new(Ranges));
    Ok(())
}

struct Ranges;

impl HeaderFilter for Ranges {
    fn filter(&self, r: &Request) -> Filtered {
        let out = &mut *r.headers_out.borrow_mut();
        if !out.allow_ranges
            || out.status() != 200
            || !(r.is_main() || out.sliced)
            || r.exchange.head.version() < Version::Http10
        {
            out.allow_ranges = false;
            return Filtered::Pass;
        }
        let max_ranges = *r.loc().core.max_ranges;
        if max_ranges == 0 {
            out.allow_ranges = false;
            return Filtered::Pass;
        }
        let (Some(length), Some(value)) = (out.content_length, r.header_in(b"range")) else {
            return Filtered::Pass;
        };
        if value.len() < 7 || !value.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes=")) {
            return Filtered::Pass;
        }
        if let Some(condition) = r.header_in(b"if-range")
            && !if_range(condition, out)
        {
            return Filtered::Pass;
        }
        let max = if out.single_range { 1 } else { max_ranges };
        match parse(value, length, max) {
            RangeOutcome::Full => Filtered::Pass,
            RangeOutcome::NotSatisfiable => {
                out.list.push(b"Content-Range", format!("bytes */{length}").as_bytes());
                out.allow_ranges = false;
                out.content_length = None;
                Filtered::Status(416)
            }
            RangeOutcome::Ranges(ranges) => {
                out.status = 206;
                out.status_line = None;
                out.allow_ranges = false;
                match ranges.as_slice() {
                    [range] => single(out, range.clone(), length),
                    _ => multipart(out, ranges, length),
                }
            }
        }
    }
}

fn if_range(condition: &[u8], out: &HeadersOut) -> bool {
    if condition.ends_with(b"\"") {
        return out
            .etag()
            .is_some_and(|tag| !tag.starts_with(b"W/") && etag::matches(condition, Some(tag), false));
    }
    out.last_modified.is_some() && date::parse(condition) == out.last_modified
}

fn single(out: &mut HeadersOut, range: Range<u64>, length: u64) -> Filtered {
    let last = range.end.saturating_sub(1);
    out.list.push(b"Content-Range", format!("bytes {}-{last}/{length}", range.start).as_bytes());
    out.content_length = Some(range.end.saturating_sub(range.start));
    let position = if out.sliced { out.content_offset } else { 0 };
    out.content_offset = range.start;
    let parts = vec![Part { head: Bytes::new(), range }];
    let cutter = Cutter { parts, tail: Bytes::new(), position, next: 0, sliced: out.sliced };
    Filtered::Install(Order::Range, Box::new(cutter))
}

fn multipart(out: &mut HeadersOut, ranges: Vec<Range<u64>>, length: u64) -> Filtered {
    let boundary = format!("{:020}", BOUNDARY.fetch_add(1, Ordering::Relaxed));
    let mut kind = out.content_type.clone().unwrap_or_default().to_vec();
    if let Some(charset) = out.charset.take() {
        kind.extend_from_slice(b"; charset=");
        kind.extend_from_slice(&charset);
    }
    let mut total = 0_u64;
    let mut parts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let last = range.end.saturating_sub(1);
        let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
        if !kind.is_empty() {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(&kind);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(
            format!("Content-Range: bytes {}-{last}/{length}\r\n\r\n", range.start).as_bytes(),
        );
        total = total.saturating_add(head.len() as u64).saturating_add(range.end.saturating_sub(range.start));
        parts.push(Part { head: head.into(), range });
    }
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    out.content_length = Some(total.saturating_add(tail.len() as u64));
    out.content_type = Some(format!("multipart/byteranges; boundary={boundary}").into());
    Filtered::Install(Order::Range, Box::new(Cutter { parts, tail, position: 0, next: 0, sliced: false }))
}

struct Part {
    head: Bytes,
    range: Range<u64>,
}

/// Cuts parts out of a body. A body that comes as one chunk may be cut in any order; one that comes in pieces only in rising order,
/// which is what clients ask for.
struct Cutter {
    parts: Vec<Part>,
    tail: Bytes,
    /// Where the next chunk starts in the body.
    position: u64,
    /// The part that is being cut.
    next: usize,
    /// Whether the body ends only when that is said: what is cut off may end before another slice begins.
    sliced: bool,
}

fn cut<'c>(chunk: &'c Chunk<'_>, start: u64, length: u64) -> Chunk<'c> {
    let from = usize::try_from(start).unwrap_or(usize::MAX);
    let to = usize::try_from(start.saturating_add(length)).unwrap_or(usize::MAX);
    match chunk {
        Chunk::Slice(slice) => Chunk::Slice(slice.get(from..to).unwrap_or_default()),
        Chunk::Bytes(bytes) if to <= bytes.len() => Chunk::Bytes(bytes.slice(from..to)),
        Chunk::File(file) => {
            let mut file = file.clone();
            file.offset = file.offset.saturating_add(start);
            file.len = length;
            Chunk::File(file)
        }
        _ => Chunk::Empty,
    }
}

impl BodyFilter for Cutter {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        let start = self.position;
        let stop = start.saturating_add(chunk.len());
        self.position = stop;
        while let Some(part) = self.parts.get(self.next) {
            let from = part.range.start.max(start);
            let to = part.range.end.min(stop);
            if from >= to {
                if part.range.end <= start {
                    // A part that lies before what comes now can no longer be sent.
                    return Err(SendError::Broken);
                }
                break;
            }
            if from == part.range.start && !part.head.is_empty() {
                next.push(r, Chunk::Bytes(part.head.clone()), End::More)?;
            }
            let ended = to == part.range.end;
            let last_part = self.next.saturating_add(1) == self.parts.len();
            let ends = ended && last_part && self.tail.is_empty() && !self.sliced;
            let mark = if ends { End::Last } else { End::More };
            next.push(r, cut(&chunk, from.saturating_sub(start), to.saturating_sub(from)), mark)?;
            if !ended {
                break;
            }
            self.next = self.next.saturating_add(1);
            if last_part && !self.tail.is_empty() {
                next.push(r, Chunk::Bytes(std::mem::take(&mut self.tail)), End::Last)?;
            }
        }
        match end {
            End::Flush if self.next < self.parts.len() => next.push(r, Chunk::Empty, End::Flush),
            End::Last if self.sliced || self.next < self.parts.len() => next.push(r, Chunk::Empty, End::Last),
            _ => Ok(()),
        }
    }
}
