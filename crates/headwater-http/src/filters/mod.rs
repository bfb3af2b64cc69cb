//! Header and body filters: the traits, the chain, and the table in which they run.
//!
//! A header filter looks at the response head once and may put a body filter into the response's chain. Body filters are synchronous: they
//! push chunks to the next one; only the output waits. An empty chain is bypassed.

pub mod addition;
pub mod charset;
pub mod gunzip;
pub mod gzip;
pub mod not_modified;
pub mod range;
pub mod slice;
pub mod ssi;
pub mod sub_filter;
pub mod userid;

use bytes::Bytes;

use crate::config::LocationBuilder;
use crate::flow::out_queue::FileRange;
use crate::flow::output::SendError;
use crate::request::Request;

/// A piece of a response body.
pub enum Chunk<'a> {
    /// Bytes that are valid only now.
    Slice(&'a [u8]),
    /// Bytes that can be kept.
    Bytes(Bytes),
    /// A stretch of a file.
    File(FileRange),
    /// Nothing: only the mark counts.
    Empty,
}

impl Chunk<'_> {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Chunk::Slice(slice) => slice.len() as u64,
            Chunk::Bytes(bytes) => bytes.len() as u64,
            Chunk::File(range) => range.len,
            Chunk::Empty => 0,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the bytes to a function, piece by piece; files are read.
    pub fn read(&self, mut each: impl FnMut(&[u8]) -> Result<(), SendError>) -> Result<(), SendError> {
        match self {
            Chunk::Slice(slice) => each(slice),
            Chunk::Bytes(bytes) => each(bytes),
            Chunk::Empty => Ok(()),
            Chunk::File(range) => {
                let mut buffer = vec![0; 32768];
                let mut offset = range.offset;
                let mut left = range.len;
                while left > 0 {
                    let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let slot = buffer.get_mut(..want).unwrap_or_default();
                    let length = headwater_io::tempfile::read_at(&range.file, slot, offset)
                        .map_err(|_| SendError::Broken)?;
                    if length == 0 {
                        return Err(SendError::Broken);
                    }
                    each(buffer.get(..length).unwrap_or_default())?;
                    offset = offset.saturating_add(length as u64);
                    left = left.saturating_sub(length as u64);
                }
                Ok(())
            }
        }
    }
}

/// What follows a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// More will come.
    More,
    /// What there is must go out now.
    Flush,
    /// The body is complete.
    Last,
}

/// The rest of the chain, and behind it the output.
pub struct Next<'c> {
    rest: &'c mut [(Order, Box<dyn BodyFilter>)],
    /// Whether these are the filters of the client's whole response.
    tail: bool,
}

impl Next<'_> {
    /// Passes a chunk on.
    pub fn push(&mut self, r: &Request, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        match self.rest.split_first_mut() {
            Some(((_, filter), rest)) => filter.push(r, chunk, end, &mut Next { rest, tail: self.tail }),
            None if self.tail => r.output.write(r, chunk, end),
            None => r.output.push(r, chunk, end),
        }
    }
}

/// A filter of one response's body.
pub trait BodyFilter {
    /// Takes a chunk and pushes what comes of it.
    fn push(&mut self, r: &Request, chunk: Chunk<'_>, end: End, next: &mut Next<'_>)
    -> Result<(), SendError>;
}

/// The place of a body filter in the chain; lower ones see the body first. It differs from the order of the header filters: ranges are
/// cut from the body before anything else, but announced after everything else had its say (nginx: `ngx_http_range_body_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the filters' names")]
pub enum Order {
    Slice,
    Range,
    Gunzip,
    Addition,
    Sub,
    Charset,
    Ssi,
    /// Nobody's: here the bodies of a request and its subrequests become one. What is behind sees the client's whole response.
    Postpone,
    Gzip,
    Trailers,
}

/// The body filters of one response.
pub type BodyChain = Vec<(Order, Box<dyn BodyFilter>)>;

/// What a header filter decides.
pub enum Filtered {
    /// The body passes unseen.
    Pass,
    /// The body goes through this filter.
    Install(Order, Box<dyn BodyFilter>),
    /// The response is replaced by this status.
    Status(u16),
    /// The response cannot be completed; why is logged.
    Broken,
}

/// A filter of response heads.
pub trait HeaderFilter: Send + Sync {
    /// Looks at the response head in `r.headers_out`, may change it. A filter must not hold the head while it computes values with
    /// variables, which may read it.
    fn filter(&self, r: &Request) -> Filtered;
}

/// Puts a filter into a location's list when its settings ask for it.
pub type Installer = fn(&mut LocationBuilder<'_, '_>) -> headwater_conf::Result<()>;

/// Every header filter, in the order in which they see a response head.
pub static FILTERS: &[Installer] = &[
    slice::install,
    not_modified::install,
    crate::modules::headers::install,
    userid::install,
    gunzip::install,
    addition::install,
    sub_filter::install,
    charset::install,
    ssi::install,
    gzip::install,
    range::install,
];

impl Request {
    /// Runs the header filters; they may change the head and install body filters.
    pub(crate) fn run_header_filters(&self) -> Result<(), SendError> {
        let location = self.loc();
        let mut chain = BodyChain::new();
        for filter in &location.header_filters {
            match filter.filter(self) {
                Filtered::Pass => {}
                Filtered::Install(order, filter) => {
                    let at = chain.partition_point(|(other, _)| *other <= order);
                    chain.insert(at, (order, filter));
                }
                Filtered::Status(status) => return Err(SendError::Status(status)),
                Filtered::Broken => return Err(SendError::Broken),
            }
        }
        let tail = chain.partition_point(|(order, _)| *order <= Order::Postpone);
        if tail < chain.len() {
            let tail = chain.split_off(tail);
            if self.is_main() {
                *self.tail_filters.borrow_mut() = tail;
            }
        }
        *self.body_filters.borrow_mut() = chain;
        Ok(())
    }

    /// Pushes a chunk of the body through the filters to the output.
    pub fn push(&self, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        let mut chain = std::mem::take(&mut *self.body_filters.borrow_mut());
        let outcome = if chain.is_empty() {
            self.output.push(self, chunk, end)
        } else {
            Next { rest: &mut chain, tail: false }.push(self, chunk, end)
        };
        *self.body_filters.borrow_mut() = chain;
        outcome
    }

    /// Pushes a chunk of the client's whole response, whose parts are in order by now.
    pub(crate) fn push_tail(&self, chunk: Chunk<'_>, end: End) -> Result<(), SendError> {
        if self.tail_filters.borrow().is_empty() {
            return self.output.write(self, chunk, end);
        }
        let mut chain = std::mem::take(&mut *self.tail_filters.borrow_mut());
        let outcome = Next { rest: &mut chain, tail: true }.push(self, chunk, end);
        *self.tail_filters.borrow_mut() = chain;
        outcome
    }

    /// Ends the body.
    pub fn push_end(&self) -> Result<(), SendError> {
        self.push(Chunk::Empty, End::Last)
    }
}
