//! ngx_http_gunzip_filter_module: unpacks gzipped responses for clients that do not accept them.
//!
//! nginx's counterpart: `ngx_http_gunzip_filter_module.c`.

use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};
use headwater_conf::context::HSL;
use headwater_conf::value::Buffers;
use headwater_conf::{Result, settings};
use headwater_wire::headers::KnownHeader;

use super::gzip::acceptance::AcceptanceSettings;
use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::Request;

/// The largest window there is, in bits.
const WINDOW: u8 = 15;

/// The module.
pub static MODULE: Module =
    Module { directives: &[GunzipSettings::DIRECTIVES], ..Module::named("ngx_http_gunzip_filter_module") };

settings! {
    /// Whether responses are unpacked.
    pub struct GunzipSettings, raw GunzipRaw, module "ngx_http_gunzip_filter_module" {
        /// Unpacks gzipped responses for clients that do not accept gzip.
        "gunzip", HSL, "on | off", "off" => enabled: bool = false;
        /// Sets the number and size of the buffers for unpacked data: it is passed on when they are full.
        "gunzip_buffers", HSL, "number size", "32 4k" => buffers: Buffers = Buffers { number: 32, size: 4096 };
    }
}

/// Every location that unpacks has it.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<GunzipSettings>();
    if settings.enabled {
        let acceptance = builder.settings::<AcceptanceSettings>();
        builder.location.header_filters.push(Box::new(Gunzip { settings, acceptance }));
    }
    Ok(())
}

struct Gunzip {
    settings: Arc<GunzipSettings>,
    acceptance: Arc<AcceptanceSettings>,
}

impl HeaderFilter for Gunzip {
    fn filter(&self, r: &Request) -> Filtered {
        let out = &mut *r.headers_out.borrow_mut();
        if !out.content_encoding().is_some_and(|coding| coding.eq_ignore_ascii_case(b"gzip")) {
            return Filtered::Pass;
        }
        out.vary_accept_encoding = self.acceptance.vary;
        if self.acceptance.allows(r, out) {
            return Filtered::Pass;
        }
        out.list.remove_known(KnownHeader::ContentEncoding);
        out.clear_content_length();
        out.clear_accept_ranges();
        out.weaken_etag();
        r.need_in_memory.set(true);
        r.expands.set(true);
        let buffers = self.settings.buffers;
        let most = buffers.size.saturating_mul(buffers.number);
        Filtered::Install(Order::Gunzip, Box::new(Inflate(Unpacker::new(buffers.size, most))))
    }
}

/// What takes unpacked data: the next filter.
type Emit<'e> = &'e mut dyn FnMut(&[u8]) -> std::result::Result<(), SendError>;

/// The decompressor and what it has made; knows no requests.
struct Unpacker {
    stream: Decompress,
    /// Whether a gzip member is complete and nothing came after it.
    ended: bool,
    out: Vec<u8>,
    /// How much `out` grows, bytes.
    buffer: usize,
    /// How much of it waits at most, bytes.
    most: usize,
}

/// Why unpacking could not go on.
#[derive(Debug)]
enum UnpackError {
    Send(SendError),
    /// The bytes are not gzip.
    Data,
}

impl Unpacker {
    fn new(buffer: usize, most: usize) -> Self {
        Self { stream: Decompress::new_gzip(WINDOW), ended: false, out: Vec::new(), buffer, most }
    }

    /// Unpacks all of the bytes. Full buffers are passed on.
    fn feed(&mut self, input: &[u8], emit: Emit<'_>) -> std::result::Result<(), UnpackError> {
        let mut rest = input;
        loop {
            if self.ended && rest.is_empty() {
                return Ok(());
            }
            if std::mem::take(&mut self.ended) {
                // Another member follows.
                self.stream = Decompress::new_gzip(WINDOW);
            }
            if self.out.len() >= self.most {
                emit(&self.out).map_err(UnpackError::Send)?;
                self.out.clear();
            }
            if self.out.len() == self.out.capacity() {
                self.out.reserve(self.buffer.max(64));
            }
            let consumed = self.stream.total_in();
            let status = self
                .stream
                .decompress_vec(rest, &mut self.out, FlushDecompress::None)
                .map_err(|_| UnpackError::Data)?;
            let consumed = self.stream.total_in().saturating_sub(consumed);
            rest = rest.get(usize::try_from(consumed).unwrap_or(usize::MAX)..).unwrap_or_default();
            self.ended = status == Status::StreamEnd;
            if !self.ended && self.out.len() < self.out.capacity() {
                // There is room and nothing more comes: all was used.
                return Ok(());
            }
        }
    }
}

/// Unpacks one response.
struct Inflate(Unpacker);

impl Inflate {
    fn feed(
        &mut self,
        r: &Request,
        input: &[u8],
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        let mut emit = |out: &[u8]| next.push(r, Chunk::Slice(out), End::More);
        self.0.feed(input, &mut emit).map_err(|error| match error {
            UnpackError::Send(error) => error,
            UnpackError::Data => {
                // zlib's numbers, as nginx logs them.
                let flush = match end {
                    End::More => 0,
                    End::Flush => 2,
                    End::Last => 4,
                };
                r.log(Level::Error, format_args!("inflate() failed: {flush}, -3"));
                SendError::Broken
            }
        })
    }
}

impl BodyFilter for Inflate {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        if r.header_only.get() {
            return next.push(r, Chunk::Empty, end);
        }
        if !chunk.is_empty() {
            chunk.read(|bytes| self.feed(r, bytes, end, next))?;
        }
        if end == End::Last && !self.0.ended {
            r.log(Level::Error, format_args!("inflate() returned -5 on response end"));
            return Err(SendError::Broken);
        }
        if self.0.out.is_empty() && end == End::More {
            return Ok(());
        }
        let outcome = next.push(r, Chunk::Slice(&self.0.out), end);
        self.0.out.clear();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(plain).expect("a vector takes all");
        encoder.finish().expect("a vector takes all")
    }

    /// Unpacks pieces of one body; gives what came of them and whether it is complete.
    fn unpack<'p>(
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> std::result::Result<(Vec<u8>, bool), UnpackError> {
        let mut unpacker = Unpacker::new(64, 256);
        let mut whole = Vec::new();
        for piece in pieces {
            let mut emit = |out: &[u8]| {
                whole.extend_from_slice(out);
                Ok(())
            };
            unpacker.feed(piece, &mut emit)?;
        }
        whole.extend_from_slice(&unpacker.out);
        Ok((whole, unpacker.ended))
    }

    #[test]
    fn members_one_after_the_other_are_one_body() {
        let body = [packed(b"one, "), packed(b""), packed(b"two")].concat();
        assert_eq!(unpack([body.as_slice()]).expect("unpacks"), (b"one, two".to_vec(), true));
    }

    #[test]
    fn a_cut_or_damaged_body_is_noticed() {
        let body = packed(b"some text that is long enough");
        let (_, ended) = unpack([body.get(..20).expect("longer")]).expect("unpacks so far");
        assert!(!ended);
        assert!(unpack([b"not gzip at all".as_slice()]).is_err());
        assert!(unpack([[body.as_slice(), b"garbage"].concat().as_slice()]).is_err());
    }

    #[test]
    fn little_that_becomes_much_is_whole() {
        let plain = vec![b'x'; 1_000_000];
        assert_eq!(unpack([packed(&plain).as_slice()]).expect("unpacks"), (plain, true));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(
            plain in proptest::collection::vec(any::<u8>(), 0..2000),
            size in 1_usize..200,
        ) {
            let body = packed(&plain);
            prop_assert_eq!(unpack(body.chunks(size)).expect("unpacks"), (plain, true));
        }
    }
}
