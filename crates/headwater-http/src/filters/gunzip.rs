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
        let buffers = self.settings.buffers;
        Filtered::Install(Order::Gunzip, Box::new(Inflate::new(buffers.size, buffers.number)))
    }
}

/// Unpacks one response.
struct Inflate {
    stream: Decompress,
    /// Whether a gzip member is complete and nothing came after it.
    ended: bool,
    out: Vec<u8>,
    /// How much `out` grows, bytes.
    buffer: usize,
    /// How much of it waits at most, bytes.
    most: usize,
}

impl Inflate {
    fn new(buffer: usize, number: usize) -> Self {
        let stream = Decompress::new_gzip(WINDOW);
        Self { stream, ended: false, out: Vec::new(), buffer, most: buffer.saturating_mul(number) }
    }

    fn feed(
        &mut self,
        r: &Request,
        input: &[u8],
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
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
                self.pass_on(r, End::More, next)?;
            }
            if self.out.len() == self.out.capacity() {
                self.out.reserve(self.buffer.max(64));
            }
            let consumed = self.stream.total_in();
            let status = self.stream.decompress_vec(rest, &mut self.out, FlushDecompress::None);
            let Ok(status) = status else {
                let flush = match end {
                    End::More => 0,
                    End::Flush => 2,
                    End::Last => 4,
                };
                r.log(Level::Error, format_args!("inflate() failed: {flush}, -3"));
                return Err(SendError::Broken);
            };
            let consumed = self.stream.total_in().saturating_sub(consumed);
            rest = rest.get(usize::try_from(consumed).unwrap_or(usize::MAX)..).unwrap_or_default();
            self.ended = status == Status::StreamEnd;
            if !self.ended && self.out.len() < self.out.capacity() {
                // There is room and nothing more comes: all was used.
                return Ok(());
            }
        }
    }

    fn pass_on(&mut self, r: &Request, end: End, next: &mut Next<'_>) -> std::result::Result<(), SendError> {
        if self.out.is_empty() && end == End::More {
            return Ok(());
        }
        let outcome = next.push(r, Chunk::Slice(&self.out), end);
        self.out.clear();
        outcome
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
        if end == End::Last && !self.ended {
            r.log(Level::Error, format_args!("inflate() returned -5 on response end"));
            return Err(SendError::Broken);
        }
        self.pass_on(r, end, next)
    }
}
