//! ngx_http_ssi_module: pages put together of parts, by commands in them.
//!
//! A body filter: `headwater-wire` finds the commands, `commands` carries them out, `text` knows variables and expressions. Includes are subrequests.
//! nginx's counterpart: `ngx_http_ssi_filter_module.c`.

mod commands;
mod text;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::{HSL, HSLI};
use headwater_conf::value::Size;
use headwater_conf::{Result, settings};
use headwater_wire::ssi::{Event, Parser};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::config::ignored::Ignored;
use crate::config::mime_types::MimeTypes;
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::Request;
use crate::script::{VariableDef, Variables};
use commands::{Carried, Page};
use text::Shared;

const NAME: &str = "ngx_http_ssi_module";

/// What a command may begin with.
const OPENING: &[u8] = b"<!--";

/// The module.
pub static MODULE: Module =
    Module { directives: &[SsiSettings::DIRECTIVES], variables: VARIABLES, ..Module::named(NAME) };

settings! {
    /// Pages with commands.
    pub struct SsiSettings, raw SsiRaw, module "ngx_http_ssi_module" {
        /// Carries out the commands in responses.
        "ssi", HSLI, "on | off", "off" => enable: bool = false;
        /// Says nothing in the page about commands that fail.
        "ssi_silent_errors", HSL, "on | off", "off" => silent_errors: bool = false;
        /// Keeps `Last-Modified` of pages.
        "ssi_last_modified", HSL, "on | off", "off" => last_modified: bool = false;
        /// Sets the types of responses that are pages.
        "ssi_types", HSL, "mime-type ...", "text/html" => types: MimeTypes = MimeTypes::html();
        /// Limits the values of parameters.
        "ssi_value_length", HSL, "length", "255" => value_length: Size = Size(255);
        /// Has no meaning here: text between commands is sent from memory.
        "ssi_min_file_chunk", HSL, "size", "1k" => min_file_chunk: Ignored<1, 1> = Ignored;
        /// Has no meaning here: buffers are not recycled.
        "ssi_ignore_recycled_buffers", HSL, "on | off", "off" => ignore_recycled: Ignored<1, 1> = Ignored;
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "date_local",
        NAME,
        |r, _, out| text::date(r, false, out),
        "The time here, in the format that `config timefmt` set.",
    ),
    VariableDef::new("date_gmt", NAME, |r, _, out| text::date(r, true, out), "The same in UTC."),
];

/// Puts the filter into locations that want it.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<SsiSettings>();
    if settings.enable {
        builder.cx.state::<Variables>().expect_named();
        builder.location.header_filters.push(Box::new(Ssi(settings)));
    }
    Ok(())
}

struct Ssi(Arc<SsiSettings>);

impl HeaderFilter for Ssi {
    fn filter(&self, r: &Request) -> Filtered {
        let mut out = r.headers_out.borrow_mut();
        if out.content_length == Some(0) || !self.0.types.matches(r, &out) {
            return Filtered::Pass;
        }
        if r.is_main() {
            out.clear_content_length();
            out.clear_accept_ranges();
            if self.0.last_modified {
                out.weaken_etag();
            } else {
                out.clear_last_modified();
            }
        }
        drop(out);
        r.need_in_memory.set(true);
        let shared =
            r.root().extension::<Shared>().unwrap_or_else(|| r.root().set_extension(Shared::default()));
        Filtered::Install(
            Order::Ssi,
            Box::new(Body {
                parser: Parser::new(*self.0.value_length),
                page: Page::new(r),
                shared,
                silent: self.0.silent_errors,
                waits: None,
                pending: VecDeque::new(),
            }),
        )
    }
}

/// One page.
struct Body {
    parser: Parser,
    page: Page,
    /// What all pages of one client's request have in common.
    shared: Rc<Shared>,
    silent: bool,
    /// Set once the subrequest that is waited for is over.
    waits: Option<Rc<Cell<bool>>>,
    /// What came meanwhile.
    pending: VecDeque<(Bytes, End)>,
}

impl BodyFilter for Body {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        let outcome = self.take(r, chunk, end, next);
        let bytes: u64 = self.pending.iter().map(|(bytes, _)| bytes.len() as u64).sum();
        let held = bytes.saturating_add(u64::from(self.waits.is_some()));
        if r.held.replace(held) != held
            && let Some(family) = r.family()
        {
            family.changed.notify_waiters();
        }
        outcome
    }
}

impl Body {
    fn take(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        while self.may_go_on() {
            let Some((bytes, end)) = self.pending.pop_front() else { break };
            self.page(r, &bytes, end, next)?;
        }
        if self.may_go_on() {
            chunk.read(|bytes| self.page(r, bytes, End::More, next))?;
            return if end == End::More { Ok(()) } else { self.page(r, &[], end, next) };
        }
        chunk.read(|bytes| {
            self.pending.push_back((Bytes::copy_from_slice(bytes), End::More));
            Ok(())
        })?;
        if end != End::More {
            self.pending.push_back((Bytes::new(), end));
        }
        Ok(())
    }

    /// Whether nothing is waited for.
    fn may_go_on(&mut self) -> bool {
        if self.waits.as_ref().is_some_and(|over| over.get()) {
            self.waits = None;
        }
        self.waits.is_none()
    }

    /// Works off a piece of the page, up to a command that has to be waited for; the rest is kept before what is pending.
    fn page(
        &mut self,
        r: &Request,
        bytes: &[u8],
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        if !self.may_go_on() {
            self.pending.push_back((Bytes::copy_from_slice(bytes), end));
            return Ok(());
        }
        let mut pos = 0;
        loop {
            match self.parser.next(bytes, &mut pos) {
                Event::More => break,
                Event::Text(held, range) => {
                    self.text(r, OPENING.get(..held).unwrap_or_default(), next)?;
                    self.text(r, bytes.get(range).unwrap_or_default(), next)?;
                }
                Event::Complaint(text) => r.log(Level::Error, format_args!("{text}")),
                Event::Broken => self.failed(r, next)?,
                Event::Command => {
                    let command = self.parser.take();
                    match self.page.carry_out(r, &self.shared, &command) {
                        Carried::Out => {}
                        Carried::Say(text) => next.push(r, Chunk::Slice(&text), End::More)?,
                        Carried::Failed => self.failed(r, next)?,
                        Carried::Waits(over) => {
                            self.waits = Some(over);
                            let rest = bytes.get(pos..).unwrap_or_default();
                            self.pending.push_front((Bytes::copy_from_slice(rest), end));
                            return Ok(());
                        }
                    }
                }
            }
        }
        if end == End::Last {
            // What looked like the beginning of a command is none.
            let held = self.parser.held_back();
            self.text(r, OPENING.get(..held).unwrap_or_default(), next)?;
        }
        if end == End::More { Ok(()) } else { next.push(r, Chunk::Empty, end) }
    }

    /// Text of the page: said, kept for a block, or dropped.
    fn text(&mut self, r: &Request, text: &[u8], next: &mut Next<'_>) -> std::result::Result<(), SendError> {
        if text.is_empty() {
            return Ok(());
        }
        if self.page.output {
            return next.push(r, Chunk::Slice(text), End::More);
        }
        if self.page.block {
            self.shared.add_to_block(text);
        }
        Ok(())
    }

    fn failed(&mut self, r: &Request, next: &mut Next<'_>) -> std::result::Result<(), SendError> {
        match self.silent || self.page.errmsg.is_empty() {
            true => Ok(()),
            false => next.push(r, Chunk::Slice(&self.page.errmsg), End::More),
        }
    }
}

/// The format of `$date_local` and `$date_gmt` in one page.
struct TimeFormat(RefCell<Vec<u8>>);
