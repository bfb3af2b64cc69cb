//! ngx_http_gzip_filter_module: compresses responses while they are sent.
//!
//! `acceptance` decides for whom, `deflate` is the body filter; here are the settings, and the header filter that chooses responses. nginx's
//! counterpart: `ngx_http_gzip_filter_module.c`.

pub mod acceptance;
mod deflate;

use std::io::Write as _;
use std::sync::Arc;

use headwater_conf::context::{HSL, HSLI};
use headwater_conf::value::{Buffers, Size, parse_number, parse_size};
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_wire::headers::KnownHeader;
use headwater_wire::method::Method;

use super::{Filtered, HeaderFilter, Order};
use crate::config::LocationBuilder;
use crate::config::ignored::Ignored;
use crate::config::mime_types::MimeTypes;
use crate::modules::Module;
use crate::request::{HeadersOut, Request};
use crate::script::VariableDef;
use acceptance::AcceptanceSettings;
use deflate::{Deflate, Plan, Ratio};

/// The module.
pub static MODULE: Module = Module {
    directives: &[GzipSettings::DIRECTIVES, AcceptanceSettings::DIRECTIVES],
    variables: VARIABLES,
    ..Module::named("ngx_http_gzip_filter_module")
};

settings! {
    /// Which responses are compressed, and how.
    pub struct GzipSettings, raw GzipRaw, module "ngx_http_gzip_filter_module" {
        /// Compresses responses with gzip.
        "gzip", HSLI, "on | off", "off" => enabled: bool = false;
        /// Sets the number and size of the buffers for compressed data: full buffers are passed on, all of them at most at once.
        "gzip_buffers", HSL, "number size", "32 4k" => buffers: Buffers = Buffers { number: 32, size: 4096 };
        /// Sets the media types to compress besides `text/html`; `*` means all.
        "gzip_types", HSL, "mime-type ...", "text/html" => types: MimeTypes = MimeTypes::html();
        /// Sets the level of compression, from 1, the fastest, to 9.
        "gzip_comp_level", HSL, "level", "1" => level: Level = Level(1);
        /// Sets the size of the window in which repetitions are found.
        "gzip_window", HSL, "size", "32k" => window: Window = Window(15);
        /// Has no meaning here: the compressor sizes its tables itself.
        "gzip_hash", HSL, "size", "64k" => hash: Hash = Hash;
        /// Collects this much of a response before compression starts.
        "postpone_gzipping", HSL, "size", "0" => postpone: Size = Size(0);
        /// Passes compressed data on without waiting for full buffers.
        "gzip_no_buffer", HSL, "on | off", "off" => no_buffer: bool = false;
        /// Leaves responses alone whose `Content-Length` is less.
        "gzip_min_length", HSL, "length", "20" => min_length: Size = Size(20);
    }
}

/// `gzip_comp_level`.
#[derive(Debug, Clone, Copy)]
pub struct Level(u32);

impl Value for Level {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let level = parse_number(directive.arg(0)).ok_or_else(|| directive.complain("invalid number"))?;
        match u32::try_from(level) {
            Ok(level @ 1..=9) => Ok(Self(level)),
            _ => Err(directive.error_at(0, "value must be between 1 and 9")),
        }
    }
}

/// `gzip_window`: the logarithm of the size.
#[derive(Debug, Clone, Copy)]
pub struct Window(u8);

impl Value for Window {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let size = parse_size(directive.arg(0)).ok_or_else(|| directive.complain("invalid value"))?;
        (9..=15)
            .find(|bits| 1_usize << bits == size)
            .map(Self)
            .ok_or_else(|| directive.complain("must be 512, 1k, 2k, 4k, 8k, 16k, or 32k"))
    }
}

/// `gzip_hash`: checked, and then of no use.
#[derive(Debug, Clone, Copy)]
pub struct Hash;

impl Value for Hash {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let size = parse_size(directive.arg(0)).ok_or_else(|| directive.complain("invalid value"))?;
        if !(9..=17).any(|bits| 1_usize << bits == size) {
            return Err(directive.complain("must be 512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, or 128k"));
        }
        Ignored::<1, 1>::parse(cx, directive).map(|_| Self)
    }
}

/// Every location that compresses has it.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<GzipSettings>();
    if settings.enabled {
        let acceptance = builder.settings::<AcceptanceSettings>();
        builder.location.header_filters.push(Box::new(Gzip { settings, acceptance }));
    }
    Ok(())
}

struct Gzip {
    settings: Arc<GzipSettings>,
    acceptance: Arc<AcceptanceSettings>,
}

impl Gzip {
    /// Whether the response is one to compress, for a client that accepts it.
    fn is_wanted(&self, r: &Request, out: &HeadersOut) -> bool {
        let no_body = r.header_only.get() && r.method.get() != Method::Head;
        let too_short = || out.content_length.is_some_and(|length| length < *self.settings.min_length as u64);
        matches!(out.status(), 200 | 403 | 404)
            && !no_body
            && out.content_encoding().is_none_or(<[u8]>::is_empty)
            && !too_short()
            && self.settings.types.matches(r, out)
    }
}

impl HeaderFilter for Gzip {
    fn filter(&self, r: &Request) -> Filtered {
        let out = &mut *r.headers_out.borrow_mut();
        if !self.is_wanted(r, out) {
            return Filtered::Pass;
        }
        out.vary_accept_encoding = self.acceptance.vary;
        if !self.acceptance.allows(r, out) {
            return Filtered::Pass;
        }
        let settings = &self.settings;
        let plan = Plan {
            level: settings.level.0,
            window: window_for(settings.window.0, out.content_length),
            buffer: settings.buffers.size,
            most: settings.buffers.size.saturating_mul(settings.buffers.number),
            postpone: *settings.postpone,
            no_buffer: settings.no_buffer,
        };
        out.list.push_known(KnownHeader::ContentEncoding, b"gzip");
        out.clear_content_length();
        out.clear_accept_ranges();
        out.weaken_etag();
        r.need_in_memory.set(true);
        Filtered::Install(Order::Gzip, Box::new(Deflate::new(plan)))
    }
}

/// The smallest window that a body of this length fills, in bits; 262 bytes of a window cannot be used.
fn window_for(most: u8, length: Option<u64>) -> u8 {
    let Some(length) = length.filter(|length| *length > 0) else { return most };
    let fits = |bits: u8| (1_u64 << bits.saturating_sub(1)).saturating_sub(262) > length;
    let mut bits = most;
    while bits > 9 && fits(bits) {
        bits = bits.saturating_sub(1);
    }
    bits
}

const VARIABLES: &[VariableDef] = &[VariableDef::new(
    "gzip_ratio",
    "ngx_http_gzip_filter_module",
    |r, _, out| r.extension::<Ratio>().is_some_and(|ratio| write_ratio(&ratio, out)),
    "How many times smaller the response became by gzip.",
)];

/// Appends the ratio with two digits, rounded; `false` when nothing was compressed.
fn write_ratio(ratio: &Ratio, out: &mut Vec<u8>) -> bool {
    let Some(thousandths) = ratio.before.saturating_mul(1000).checked_div(ratio.after) else { return false };
    let rounded = thousandths / 10 + u64::from(thousandths % 10 > 4);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{}.{:02}", rounded / 100, rounded % 100);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_no_larger_than_the_body_needs() {
        assert_eq!(window_for(15, None), 15);
        assert_eq!(window_for(15, Some(20)), 9);
        assert_eq!(window_for(15, Some(249)), 9);
        assert_eq!(window_for(15, Some(250)), 10);
        assert_eq!(window_for(15, Some(16122)), 15);
        assert_eq!(window_for(15, Some(16121)), 14);
        assert_eq!(window_for(10, Some(1 << 40)), 10);
    }

    #[test]
    fn ratio_is_rounded_to_two_digits() {
        let text = |before, after| {
            let mut out = Vec::new();
            write_ratio(&Ratio { before, after }, &mut out)
                .then(|| String::from_utf8_lossy(&out).into_owned())
        };
        assert_eq!(text(2125, 1000).as_deref(), Some("2.13"));
        assert_eq!(text(2124, 1000).as_deref(), Some("2.12"));
        assert_eq!(text(1999, 1000).as_deref(), Some("2.00"));
        assert_eq!(text(0, 20).as_deref(), Some("0.00"));
        assert_eq!(text(5, 0), None);
    }
}
