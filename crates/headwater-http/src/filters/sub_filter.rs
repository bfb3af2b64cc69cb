//! ngx_http_sub_module: strings of responses are replaced.
//!
//! A body filter over the Aho-Corasick automaton of all strings. nginx's counterpart: `ngx_http_sub_filter_module.c`.

use std::rc::Rc;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use headwater_conf::context::HSL;
use headwater_conf::value::List;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};

use super::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
use crate::config::LocationBuilder;
use crate::config::mime_types::MimeTypes;
use crate::flow::error_log::Level;
use crate::flow::output::SendError;
use crate::modules::Module;
use crate::request::Request;
use crate::script::Complex;

/// The most strings of one location (nginx has a byte for their number).
const MOST: usize = 255;

/// The module.
pub static MODULE: Module =
    Module { directives: &[SubSettings::DIRECTIVES], ..Module::named("ngx_http_sub_filter_module") };

settings! {
    /// What is replaced.
    pub struct SubSettings, raw SubRaw, module "ngx_http_sub_module" {
        /// Replaces a string, whatever its case.
        "sub_filter", HSL, "string replacement", "" => pairs: Pairs = Pairs::default();
        /// Replaces each string once only.
        "sub_filter_once", HSL, "on | off", "on" => once: bool = true;
        /// Sets the types of responses that are looked through.
        "sub_filter_types", HSL, "mime-type ...", "text/html" => types: MimeTypes = MimeTypes::html();
        /// Keeps `Last-Modified`.
        "sub_filter_last_modified", HSL, "on | off", "off" => last_modified: bool = false;
    }
}

/// The `sub_filter` directives of a block.
#[derive(Debug, Clone, Default)]
pub struct Pairs(List<Pair>);

/// One of them.
#[derive(Debug, Clone)]
struct Pair {
    string: Complex,
    replacement: Complex,
}

impl Value for Pair {
    const ARGS: Args = Args::exactly(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if directive.arg(0).is_empty() {
            return Err(directive.error_at(0, "empty search pattern"));
        }
        Ok(Self {
            string: Complex::compile(cx, directive, 0)?,
            replacement: Complex::compile(cx, directive, 1)?,
        })
    }
}

impl Value for Pairs {
    const ARGS: Args = Args::exactly(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self(List::parse(cx, directive)?))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let pair = Pair::parse(cx, directive)?;
        let pairs = &mut slot.get_or_insert_default().0.0;
        if pairs.len() == MOST {
            return Err(directive.error("number of search patterns exceeds 255"));
        }
        pairs.push(pair);
        Ok(())
    }
}

/// Puts the filter into locations that replace something.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<SubSettings>();
    if settings.pairs.0.is_empty() {
        return Ok(());
    }
    let fixed: Option<Vec<&[u8]>> = settings.pairs.0.iter().map(|pair| pair.string.as_text()).collect();
    let automaton = match fixed {
        Some(strings) => Some(automaton(&strings).map_err(|error| builder.error(error))?),
        None => None,
    };
    builder.location.header_filters.push(Box::new(Sub { settings, automaton }));
    Ok(())
}

/// The automaton that finds the first of the strings in the text and, of several at one place, the first in order.
fn automaton(strings: &[&[u8]]) -> std::result::Result<AhoCorasick, String> {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .build(strings)
        .map_err(|error| error.to_string())
}

struct Sub {
    settings: Arc<SubSettings>,
    /// Made at load unless a string has variables.
    automaton: Option<AhoCorasick>,
}

impl HeaderFilter for Sub {
    fn filter(&self, r: &Request) -> Filtered {
        {
            let out = r.headers_out.borrow();
            if out.content_length == Some(0) || !self.settings.types.matches(r, &out) {
                return Filtered::Pass;
            }
        }
        let strings = self.settings.pairs.0.iter().enumerate();
        let strings = strings.map(|(at, pair)| (at, pair.string.value(r).to_ascii_lowercase()));
        let strings: Vec<(usize, Vec<u8>)> = strings.filter(|(_, string)| !string.is_empty()).collect();
        let found = match &self.automaton {
            Some(automaton) => automaton.clone(),
            None => {
                let texts: Vec<&[u8]> = strings.iter().map(|(_, string)| string.as_slice()).collect();
                match automaton(&texts) {
                    Ok(automaton) if !texts.is_empty() => automaton,
                    Ok(_) => return Filtered::Pass,
                    Err(error) => {
                        r.log(Level::Error, format_args!("sub_filter: {error}"));
                        return Filtered::Pass;
                    }
                }
            }
        };
        r.need_in_memory.set(true);
        if r.is_main() {
            let mut out = r.headers_out.borrow_mut();
            out.clear_content_length();
            out.allow_ranges = false;
            if self.settings.last_modified {
                out.weaken_etag();
            } else {
                out.clear_last_modified();
            }
        }
        let replacements = vec![None; self.settings.pairs.0.len()];
        let settings = self.settings.clone();
        Filtered::Install(
            Order::Sub,
            Box::new(Body { settings, automaton: Some(found), strings, replacements, held: Vec::new() }),
        )
    }
}

struct Body {
    settings: Arc<SubSettings>,
    /// None when each string has been replaced once and that is enough.
    automaton: Option<AhoCorasick>,
    /// The strings that are looked for, in order, lower-case, with their directives.
    strings: Vec<(usize, Vec<u8>)>,
    /// The replacements computed so far.
    replacements: Vec<Option<Rc<[u8]>>>,
    /// The end of what came so far, where one of the strings may begin.
    held: Vec<u8>,
}

impl BodyFilter for Body {
    fn push(
        &mut self,
        r: &Request,
        chunk: Chunk<'_>,
        end: End,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        chunk.read(|bytes| {
            if self.held.is_empty() {
                return self.work(r, bytes, false, next);
            }
            let mut all = std::mem::take(&mut self.held);
            all.extend_from_slice(bytes);
            self.work(r, &all, false, next)
        })?;
        if end == End::Last && !self.held.is_empty() {
            let all = std::mem::take(&mut self.held);
            self.work(r, &all, true, next)?;
        }
        if end == End::More { Ok(()) } else { next.push(r, Chunk::Empty, end) }
    }
}

impl Body {
    /// Replaces in `bytes`; what may go on with bytes to come is held, unless this is all.
    fn work(
        &mut self,
        r: &Request,
        bytes: &[u8],
        last: bool,
        next: &mut Next<'_>,
    ) -> std::result::Result<(), SendError> {
        let mut rest = bytes;
        while let Some(automaton) = &self.automaton {
            let Some(found) = automaton.find(rest) else { break };
            let before = rest.get(..found.start()).unwrap_or_default();
            let from = rest.get(found.start()..).unwrap_or_default();
            let index = found.pattern().as_usize();
            if !last && self.strings.iter().take(index).any(|(_, string)| may_become(from, string)) {
                // A string that comes first in order may begin here, too.
                say(r, before, next)?;
                self.held = from.to_vec();
                return Ok(());
            }
            rest = rest.get(found.end()..).unwrap_or_default();
            say(r, before, next)?;
            let replacement = self.replacement(r, index);
            say(r, &replacement, next)?;
        }
        let held = match (&self.automaton, last) {
            (Some(_), false) => self.undecided(rest),
            _ => 0,
        };
        let (text, held) = rest.split_at_checked(rest.len().saturating_sub(held)).unwrap_or((rest, &[]));
        self.held = held.to_vec();
        say(r, text, next)
    }

    /// How many bytes at the end may be the beginning of a string.
    fn undecided(&self, bytes: &[u8]) -> usize {
        let longest = self.strings.iter().map(|(_, string)| string.len()).max().unwrap_or(1);
        let from = bytes.len().saturating_sub(longest.saturating_sub(1));
        let begins = |at: &usize| {
            let end = bytes.get(*at..).unwrap_or_default();
            self.strings.iter().any(|(_, string)| may_become(end, string))
        };
        (from..bytes.len()).find(begins).map_or(0, |at| bytes.len().saturating_sub(at))
    }

    /// What a string that was found is replaced by; with `sub_filter_once` it is not looked for any more.
    fn replacement(&mut self, r: &Request, index: usize) -> Rc<[u8]> {
        let Some((pair, _)) = self.strings.get(index) else { return Rc::from([]) };
        let text = match self.replacements.get(*pair).cloned().flatten() {
            Some(text) => text,
            None => {
                let value =
                    self.settings.pairs.0.get(*pair).map(|pair| pair.replacement.value(r).into_owned());
                let text: Rc<[u8]> = value.unwrap_or_default().into();
                if let Some(slot) = self.replacements.get_mut(*pair) {
                    *slot = Some(text.clone());
                }
                text
            }
        };
        if self.settings.once {
            self.strings.remove(index);
            let strings: Vec<&[u8]> = self.strings.iter().map(|(_, string)| string.as_slice()).collect();
            self.automaton = if strings.is_empty() { None } else { automaton(&strings).ok() };
        }
        text
    }
}

/// Whether bytes that end here are the beginning of a lower-case string, but not all of it.
fn may_become(bytes: &[u8], string: &[u8]) -> bool {
    bytes.len() < string.len()
        && string.get(..bytes.len()).is_some_and(|start| start.eq_ignore_ascii_case(bytes))
}

fn say(r: &Request, text: &[u8], next: &mut Next<'_>) -> std::result::Result<(), SendError> {
    if text.is_empty() { Ok(()) } else { next.push(r, Chunk::Slice(text), End::More) }
}
