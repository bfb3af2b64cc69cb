//! ngx_http_charset_module: adds a charset to the `Content-Type` of responses and recodes their bodies.
//!
//! `tables` holds the charsets and recodes. nginx's counterpart: `ngx_http_charset_filter_module.c`.

mod tables;

use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::{HSL, HSLI, HTTP};
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result, Value, settings};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::config::mime_types::{MimeTypes, without_charset};
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::{HeadersOut, Request};
use crate::script::variables::variable_name;
use crate::script::{VarIndex, Variables};
use tables::{CharsetId, Charsets, Recode, charset_map};

/// The module.
pub static MODULE: Module = Module {
    directives: &[CharsetSettings::DIRECTIVES, DIRECTIVES],
    init,
    ..Module::named("ngx_http_charset_module")
};

settings! {
    /// Charsets of responses.
    pub struct CharsetSettings, raw CharsetRaw, module "ngx_http_charset_module" {
        /// Adds the charset to the `Content-Type` of responses; when it differs from `source_charset`, they are recoded.
        "charset", HSLI, "charset | off", "off" => charset: Charset<true> = Charset::Off;
        /// Says in which charset responses are made.
        "source_charset", HSLI, "charset", "" => source: Charset<false> = Charset::Off;
        /// Recodes responses of back ends that name their charset already.
        "override_charset", HSLI, "on | off", "off" => override_charset: bool = false;
        /// Sets the types of responses to which the charset is added.
        "charset_types", HSL, "mime-type ...", "text/html text/xml text/plain text/vnd.wap.wml application/javascript application/rss+xml" =>
            types: MimeTypes = MimeTypes::with(&[
                "text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml",
            ]);
    }
}

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "charset_map",
    module: "ngx_http_charset_module",
    contexts: HTTP,
    args: Args::exactly(2).with_block(),
    syntax: "charset1 charset2",
    default: "",
    doc: "Describes how one charset is recoded into another. Inside: pairs of hexadecimal codes; those of `utf-8`, which comes second, are sequences of bytes.\n",
    set: charset_map,
}];

/// `charset` (which may be `off`) and `source_charset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charset<const MAY_BE_OFF: bool> {
    /// None.
    Off,
    /// One that the configuration names.
    Known(usize),
    /// The one that a variable names.
    Variable(VarIndex),
}

impl<const MAY_BE_OFF: bool> Value for Charset<MAY_BE_OFF> {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let text = directive.arg(0);
        if MAY_BE_OFF && text == b"off" {
            return Ok(Self::Off);
        }
        if text.starts_with(b"$") {
            let name = variable_name(directive, 0)?;
            return Ok(Self::Variable(cx.state::<Variables>().index(name)));
        }
        Ok(Self::Known(cx.state::<Charsets>().add(text)))
    }
}

/// A charset of a response: its name, and what the configuration knows of it.
struct Named {
    name: Bytes,
    id: Option<CharsetId>,
}

/// The charsets once all files are read.
#[derive(Default)]
struct AllCharsets(Arc<Charsets>);

fn init(cx: &mut Cx<'_>) -> Result<()> {
    let charsets = Arc::new(cx.take_state::<Charsets>());
    cx.state::<AllCharsets>().0 = charsets;
    Ok(())
}

/// Puts the filter into locations that set a charset, or whose back ends or main requests may.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<CharsetSettings>();
    let charsets = builder.cx.state::<AllCharsets>().0.clone();
    if let (Charset::Known(to), Charset::Known(from)) = (settings.charset, settings.source)
        && from != to
        && charsets.recode(from, to).is_none()
    {
        return Err(Diagnostic::new(no_map(charsets.name(from), charsets.name(to))));
    }
    let possible = settings.source != Charset::Off
        || (builder.location.content_handler.is_some() && !charsets.is_empty());
    if settings.charset != Charset::Off || possible {
        builder.location.header_filters.push(Box::new(Filter { settings, charsets }));
    }
    Ok(())
}

fn no_map(from: &[u8], to: &[u8]) -> String {
    let (from, to) = (String::from_utf8_lossy(from), String::from_utf8_lossy(to));
    format!("no \"charset_map\" between the charsets \"{from}\" and \"{to}\"")
}

struct Filter {
    settings: Arc<CharsetSettings>,
    charsets: Arc<Charsets>,
}

/// What a charset setting gives for one request; an error when its variable has no value.
struct NoValue;

impl HeaderFilter for Filter {
    fn filter(&self, r: &Request) -> Filtered {
        let to = if r.is_main() { self.destination(r) } else { Ok(self.main_charset(r)) };
        let to = match to {
            Ok(Some(to)) => to,
            Ok(None) => return Filtered::Pass,
            Err(NoValue) => return Filtered::Status(500),
        };
        let from = match own_charset(r) {
            Some(name) => Some(self.named(name)),
            None => match self.chosen(r, self.settings.source) {
                Ok(from) => from,
                Err(NoValue) => return Filtered::Status(500),
            },
        };
        let Some(from) = from else {
            set_charset(r, &to.name);
            return Filtered::Pass;
        };
        match (from.id, to.id) {
            (Some(from_id), Some(to_id)) if from_id != to_id => self.recode(r, &from, &to),
            (Some(_), Some(_)) => {
                set_charset(r, &to.name);
                Filtered::Pass
            }
            (None, None)
                if from.name.get(..to.name.len()).is_some_and(|head| head.eq_ignore_ascii_case(&to.name)) =>
            {
                set_charset(r, &to.name);
                Filtered::Pass
            }
            _ => no_recode(r, &from, &to),
        }
    }
}

fn no_recode(r: &Request, from: &Named, to: &Named) -> Filtered {
    r.log(Level::Error, format_args!("{}", no_map(&from.name, &to.name)));
    Filtered::Pass
}

impl Filter {
    fn named(&self, name: Bytes) -> Named {
        Named { id: self.charsets.find(&name), name }
    }

    fn chosen<const OFF: bool>(
        &self,
        r: &Request,
        charset: Charset<OFF>,
    ) -> std::result::Result<Option<Named>, NoValue> {
        match charset {
            Charset::Off => Ok(None),
            Charset::Known(id) => {
                Ok(Some(Named { name: Bytes::copy_from_slice(self.charsets.name(id)), id: Some(id) }))
            }
            Charset::Variable(variable) => {
                let mut name = Vec::new();
                if !r.exchange.generation.variables.write(variable, r, &mut name) {
                    return Err(NoValue);
                }
                Ok(Some(self.named(name.into())))
            }
        }
    }

    /// The charset that the client's response is to have.
    fn destination(&self, r: &Request) -> std::result::Result<Option<Named>, NoValue> {
        {
            let out = r.headers_out.borrow();
            if out.content_type.as_ref().is_none_or(Bytes::is_empty) {
                return Ok(None);
            }
            if let Some(name) = out.override_charset.clone().filter(|name| !name.is_empty()) {
                drop(out);
                let named = self.named(name);
                if named.id.is_none() {
                    let name = String::from_utf8_lossy(&named.name).into_owned();
                    r.log(Level::Error, format_args!("unknown charset \"{name}\" to override"));
                    return Ok(None);
                }
                return Ok(Some(named));
            }
            if self.settings.charset == Charset::Off {
                return Ok(None);
            }
            let wanted = match own_charset_of(r, &out) {
                Some(_) => self.settings.override_charset,
                None => self.settings.types.matches(r, &out),
            };
            if !wanted {
                return Ok(None);
            }
        }
        self.chosen(r, self.settings.charset)
    }

    /// The charset of the client's response, into which a subrequest's is recoded.
    fn main_charset(&self, r: &Request) -> Option<Named> {
        own_charset(r.root()).map(|name| self.named(name))
    }

    fn recode(&self, r: &Request, from: &Named, to: &Named) -> Filtered {
        if r.headers_out.borrow().content_encoding().is_some_and(|coding| !coding.is_empty()) {
            return Filtered::Pass;
        }
        let recode = match (from.id, to.id) {
            (Some(from), Some(to)) => self.charsets.recode(from, to),
            _ => None,
        };
        let Some(recode) = recode else { return no_recode(r, from, to) };
        set_charset(r, &to.name);
        r.need_in_memory.set(true);
        if !recode.keeps_length() && r.is_main() {
            let mut out = r.headers_out.borrow_mut();
            out.clear_content_length();
            // Without a length there are no ranges.
            out.allow_ranges = false;
        }
        let body = Body { recode: recode.clone(), saved: Vec::new(), out: Vec::new() };
        Filtered::Install(Order::Charset, Box::new(body))
    }
}

/// The charset that the response has already.
fn own_charset(r: &Request) -> Option<Bytes> {
    own_charset_of(r, &r.headers_out.borrow())
}

fn own_charset_of(r: &Request, out: &HeadersOut) -> Option<Bytes> {
    if let Some(charset) = &out.charset {
        return Some(charset.clone()).filter(|charset| !charset.is_empty());
    }
    // Only the types of back ends are looked into, as in nginx.
    if r.upstream.borrow().states.is_empty() {
        return None;
    }
    let kind = out.content_type.as_ref()?;
    let parameter = kind.get(without_charset(kind).len()..)?.get(1..)?.trim_ascii_start();
    let value = parameter.get(8..)?;
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let value = value.strip_suffix(b"\"").unwrap_or(value);
    (!value.is_empty()).then(|| Bytes::copy_from_slice(value))
}

fn set_charset(r: &Request, name: &Bytes) {
    if !r.is_main() {
        return;
    }
    let mut out = r.headers_out.borrow_mut();
    // Old browsers took a redirect's charset for that of the page it leads to.
    if matches!(out.status(), 301 | 302) {
        out.charset = None;
        return;
    }
    if let Some(kind) = &out.content_type
        && !r.upstream.borrow().states.is_empty()
    {
        let bare = without_charset(kind).len();
        out.content_type = Some(kind.slice(..bare));
    }
    out.charset = Some(name.clone()).filter(|name| !name.is_empty());
}

/// Recodes one response.
struct Body {
    recode: Arc<Recode>,
    saved: Vec<u8>,
    out: Vec<u8>,
}

impl BodyFilter for Body {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        let Self { recode, saved, out } = self;
        chunk.read(|piece| {
            out.clear();
            recode.piece(piece, saved, out);
            if out.is_empty() { Ok(()) } else { next.push(r, Chunk::Slice(out), End::More) }
        })?;
        if end == End::More { Ok(()) } else { next.push(r, Chunk::Empty, end) }
    }
}
