//! ngx_http_slice_module: a response is fetched in slices of one size, each by a subrequest of its own.
//!
//! `$slice_range` is what the back end is asked for; the filter makes one response of the slices. nginx's counterpart:
//! `ngx_http_slice_filter_module.c`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use headwater_conf::context::HSL;
use headwater_conf::value::Size;
use headwater_conf::{Result, settings};
use headwater_wire::headers::KnownHeader;
use headwater_wire::range::{ContentRange, parse_content_range};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::Request;
use crate::script::VariableDef;

const NAME: &str = "ngx_http_slice_module";

/// The module.
pub static MODULE: Module = Module {
    directives: &[SliceSettings::DIRECTIVES],
    variables: VARIABLES,
    ..Module::named("ngx_http_slice_filter_module")
};

settings! {
    /// How responses are sliced.
    pub struct SliceSettings, raw SliceRaw, module "ngx_http_slice_module" {
        /// Sets the size of slices; 0 slices nothing.
        "slice", HSL, "size", "0" => size: Size = Size(0);
    }
}

const VARIABLES: &[VariableDef] = &[VariableDef::new(
    "slice_range",
    NAME,
    slice_range,
    "The slice to ask for, as a `Range` header has it: `bytes=0-1048575`.",
)];

/// What a request and its slices have in common.
#[derive(Default)]
struct Slices {
    size: u64,
    /// Where the next slice begins, and where the last one ends.
    start: Cell<u64>,
    end: Cell<u64>,
    /// The length of the whole.
    complete: Cell<u64>,
    /// The present slice as the back end is asked for it.
    range: RefCell<String>,
    etag: RefCell<Option<Vec<u8>>>,
    /// Whether the present slice has arrived.
    active: Cell<bool>,
    /// Whether the response is not made of slices after all.
    off: Cell<bool>,
}

impl Slices {
    fn ask(&self) {
        let last = self.start.get().saturating_add(self.size).saturating_sub(1);
        *self.range.borrow_mut() = format!("bytes={}-{last}", self.start.get());
    }
}

/// A request that is one of the slices, or their parent.
struct Sliced(Rc<Slices>);

fn slice_range(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let sliced = match r.extension::<Sliced>() {
        Some(sliced) => sliced,
        None => {
            let size = r.loc().settings::<SliceSettings>().map_or(0, |settings| *settings.size as u64);
            if size == 0 || !r.is_main() {
                return false;
            }
            let slices = Slices { size, ..Slices::default() };
            slices.start.set(first_byte(r) / size * size);
            slices.ask();
            r.set_extension(Sliced(Rc::new(slices)))
        }
    };
    out.extend_from_slice(sliced.0.range.borrow().as_bytes());
    true
}

/// The first byte that the client asks for; 0 unless it names one range that begins somewhere.
fn first_byte(r: &Request) -> u64 {
    if r.header_in(b"if-range").is_some() {
        return 0;
    }
    let text = r.header_in(b"range").and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    let range = match text.split_at_checked(6) {
        Some((unit, range)) if unit.eq_ignore_ascii_case("bytes=") && !range.contains(',') => {
            range.trim_start()
        }
        _ => return 0,
    };
    let digits = range.bytes().take_while(u8::is_ascii_digit).count();
    range.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Puts the filter into locations that slice.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<SliceSettings>();
    if *settings.size > 0 {
        builder.attach::<SliceSettings>(settings);
        builder.location.header_filters.push(Box::new(Slice));
        builder.location.filters_log_upstream = true;
    }
    Ok(())
}

struct Slice;

impl HeaderFilter for Slice {
    fn filter(&self, r: &Request) -> Filtered {
        let Some(slices) = r.extension::<Sliced>().map(|sliced| sliced.0.clone()) else {
            return Filtered::Pass;
        };
        if slices.off.get() {
            return Filtered::Pass;
        }
        let status = r.headers_out.borrow().status();
        if status != 206 && r.is_main() {
            slices.off.set(true);
            return Filtered::Pass;
        }
        if let Err(text) = accept(r, &slices, status) {
            r.log(Level::Error, format_args!("{text}"));
            return Filtered::Broken;
        }
        if !r.is_main() {
            return Filtered::Pass;
        }
        Filtered::Install(Order::Slice, Box::new(Body { slices, waits: None, ended: false }))
    }
}

/// Takes the head of a slice; the error is for the log.
fn accept(r: &Request, slices: &Slices, status: u16) -> std::result::Result<(), String> {
    let mut out = r.headers_out.borrow_mut();
    if status != 206 {
        return Err(format!("unexpected status code {status} in slice response"));
    }
    let etag = out.etag().map(<[u8]>::to_vec);
    if slices.etag.borrow().is_some() && *slices.etag.borrow() != etag {
        return Err("etag mismatch in slice response".to_owned());
    }
    if etag.is_some() {
        *slices.etag.borrow_mut() = etag;
    }
    let range = out.list.get_known(KnownHeader::ContentRange).and_then(parse_content_range);
    let Some(ContentRange { range, complete }) = range else {
        return Err("invalid range in slice response".to_owned());
    };
    let Some(complete) = complete else { return Err("no complete length in slice response".to_owned()) };
    let end = range.start.saturating_add(slices.size).min(complete);
    if range.start != slices.start.get() || range.end != end {
        return Err(format!(
            "unexpected range in slice response: {}-{}, expected: {}-{end}",
            range.start,
            range.end,
            slices.start.get()
        ));
    }
    slices.start.set(end);
    slices.complete.set(complete);
    slices.active.set(true);
    out.status = 200;
    out.status_line = None;
    out.content_length = Some(complete);
    out.content_offset = range.start;
    out.list.remove_known(KnownHeader::ContentRange);
    out.list.remove_known(KnownHeader::AcceptRanges);
    out.allow_ranges = true;
    out.sliced = true;
    out.single_range = true;
    Ok(())
}

/// The body of the first slice, behind which the others come.
struct Body {
    slices: Rc<Slices>,
    /// Set once the slice that is waited for is over.
    waits: Option<Rc<Cell<bool>>>,
    /// Whether the end of the first slice was seen.
    ended: bool,
}

impl BodyFilter for Body {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        if end != End::Last && !self.ended {
            return next.push(r, chunk, end);
        }
        if !self.ended {
            self.ended = true;
            self.find_end(r);
            next.push(r, chunk, End::More)?;
            r.held.set(r.held.get().saturating_add(1));
        } else if self.waits.as_ref().is_some_and(|over| !over.get()) {
            return Ok(());
        }
        let goes_on = self.next_slice(r)?;
        if goes_on {
            return Ok(());
        }
        r.held.set(r.held.get().saturating_sub(1));
        if let Some(family) = r.family() {
            family.changed.notify_waiters();
        }
        next.push(r, Chunk::Empty, End::Last)
    }
}

impl Body {
    /// What the client gets is known now: everything, or a range of it.
    fn find_end(&self, r: &Request) {
        let (slices, out) = (&self.slices, r.headers_out.borrow());
        let size = slices.size.max(1);
        if out.status() != 206 {
            slices.end.set(slices.complete.get());
            return;
        }
        if slices.start.get().saturating_add(size) <= out.content_offset {
            slices.start.set(out.content_offset / size * size);
        }
        slices.end.set(out.content_offset.saturating_add(out.content_length.unwrap_or(0)));
    }

    /// Asks for the next slice; `false` when there is none.
    fn next_slice(&mut self, r: &Request) -> std::result::Result<bool, SendError> {
        let slices = &self.slices;
        if !slices.active.replace(false) {
            r.log(Level::Error, format_args!("missing slice response"));
            return Err(SendError::Broken);
        }
        if slices.start.get() >= slices.end.get() {
            return Ok(false);
        }
        slices.ask();
        let over = Rc::new(Cell::new(false));
        let set = over.clone();
        let (uri, args) = (r.uri.borrow().clone(), r.args.borrow().clone());
        let slice = r.subrequest(uri).args(args).clone_request().on_done(move |child, _| {
            set.set(true);
            if let Some(parent) = &child.parent
                && parent.push(Chunk::Empty, End::More).is_err()
                && let Some(family) = parent.family()
            {
                family.fail(502);
            }
        });
        let child = slice.include().map_err(|_| SendError::Broken)?;
        child.request().set_extension(Sliced(slices.clone()));
        self.waits = Some(over);
        Ok(true)
    }
}
