//! The commands of a page. nginx's counterpart: `ngx_http_ssi_include`, `_echo`, `_config`, `_set`, `_if`, `_else`, `_endif`, `_block`, `_endblock`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use headwater_wire::escape::{Escape, escape_html, escape_uri, unescape_uri};
use headwater_wire::ssi::Command;
use headwater_wire::uri::parse_unsafe_uri;

use super::TimeFormat;
use super::text::{self, Shared};
use crate::filters::{Chunk, End};
use crate::flow::error_log::Level;
use crate::request::Request;
use crate::request::subrequest::{Subrequest, SubrequestError};

/// The most parameters of one command.
const MOST_PARAMS: usize = 16;

const DEFAULT_ERROR: &[u8] = b"[an error occurred while processing the directive]";
const DEFAULT_TIME: &[u8] = b"%A, %d-%b-%Y %H:%M:%S %Z";

/// What became of a command.
pub(super) enum Carried {
    /// It is done.
    Out,
    /// It says this.
    Say(Vec<u8>),
    /// It failed, which is logged; the page shows its message.
    Failed,
    /// The page goes on when this is set.
    Waits(Rc<Cell<bool>>),
}

/// How `echo` writes values.
#[derive(Clone, Copy)]
enum Encoding {
    None,
    Url,
    Entity,
}

/// Where in an `if` the page is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    Outside,
    If,
    Else,
}

/// The state of one page.
pub(super) struct Page {
    encoding: Encoding,
    pub(super) errmsg: Bytes,
    /// Whether text is said.
    pub(super) output: bool,
    /// Whether text is kept for a block.
    pub(super) block: bool,
    /// Whether a branch of the present `if` was taken.
    chosen: bool,
    branch: Branch,
    time_format: Rc<TimeFormat>,
}

/// What a command is called, and its parameters: those that must be there are marked.
struct Known {
    name: &'static str,
    params: &'static [(&'static str, bool)],
    /// Where it may stand: nowhere in particular, in an `if`, or also behind its `else`.
    within: Option<Branch>,
}

const KNOWN: &[Known] = &[
    Known {
        name: "include",
        params: &[("virtual", false), ("file", false), ("wait", false), ("set", false), ("stub", false)],
        within: None,
    },
    Known { name: "echo", params: &[("var", true), ("default", false), ("encoding", false)], within: None },
    Known { name: "config", params: &[("errmsg", false), ("timefmt", false)], within: None },
    Known { name: "set", params: &[("var", true), ("value", true)], within: None },
    Known { name: "if", params: &[("expr", true)], within: None },
    Known { name: "elif", params: &[("expr", true)], within: Some(Branch::If) },
    Known { name: "else", params: &[], within: Some(Branch::If) },
    Known { name: "endif", params: &[], within: Some(Branch::Else) },
    Known { name: "block", params: &[("name", true)], within: None },
    Known { name: "endblock", params: &[], within: None },
];

/// The parameters of a command by name.
struct Params<'a>(Vec<(&'static str, &'a [u8])>);

impl<'a> Params<'a> {
    fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

fn show(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn complain(r: &Request, text: std::fmt::Arguments<'_>) -> Carried {
    r.log(Level::Error, text);
    Carried::Failed
}

impl Page {
    pub(super) fn new(r: &Request) -> Self {
        Self {
            encoding: Encoding::Entity,
            errmsg: Bytes::from_static(DEFAULT_ERROR),
            output: true,
            block: false,
            chosen: false,
            branch: Branch::Outside,
            time_format: r.set_extension(TimeFormat(RefCell::new(DEFAULT_TIME.to_vec()))),
        }
    }

    /// Carries a command out.
    pub(super) fn carry_out(&mut self, r: &Request, shared: &Rc<Shared>, command: &Command) -> Carried {
        let name = show(&command.name);
        let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
            return match self.output {
                true => complain(r, format_args!("invalid SSI command: \"{name}\"")),
                false => Carried::Out,
            };
        };
        if !self.output && known.name != "endblock" {
            if self.block {
                shared.add_to_block(&as_text(command));
                return Carried::Out;
            }
            if known.within.is_none() {
                return Carried::Out;
            }
        }
        let misplaced = match known.within {
            None => false,
            Some(Branch::If) => self.branch != Branch::If,
            Some(_) => self.branch == Branch::Outside,
        };
        if misplaced {
            return complain(r, format_args!("invalid context of SSI command: \"{name}\""));
        }
        let params = match check(known, command) {
            Ok(params) => params,
            Err(text) => return complain(r, format_args!("{text}")),
        };
        match known.name {
            "include" => self.include(r, shared, &params),
            "echo" => self.echo(r, shared, &params),
            "config" => self.config(&params),
            "set" => self.set(r, shared, &params),
            "if" if self.branch != Branch::Outside => {
                complain(r, format_args!("the \"if\" command inside the \"if\" command"))
            }
            "if" | "elif" => self.decide(r, shared, params.get("expr").unwrap_or_default()),
            "else" => {
                self.output = !self.chosen;
                self.branch = Branch::Else;
                Carried::Out
            }
            "endif" => {
                (self.output, self.chosen, self.branch) = (true, false, Branch::Outside);
                Carried::Out
            }
            "block" => {
                shared.begin_block(params.get("name").unwrap_or_default());
                (self.output, self.block) = (false, true);
                Carried::Out
            }
            _ => {
                (self.output, self.block) = (true, false);
                Carried::Out
            }
        }
    }

    fn decide(&mut self, r: &Request, shared: &Shared, expression: &[u8]) -> Carried {
        if self.chosen {
            self.output = false;
            return Carried::Out;
        }
        let Some(holds) = text::holds(r, shared, expression) else { return Carried::Failed };
        self.output = holds;
        self.chosen = holds;
        self.branch = Branch::If;
        Carried::Out
    }

    fn echo(&mut self, r: &Request, shared: &Shared, params: &Params<'_>) -> Carried {
        let value = match shared.variable(r, params.get("var").unwrap_or_default()) {
            Some(value) => value,
            None => params.get("default").unwrap_or(b"(none)").to_vec(),
        };
        if value.is_empty() {
            return Carried::Out;
        }
        match params.get("encoding") {
            None => {}
            Some(b"none") => self.encoding = Encoding::None,
            Some(b"url") => self.encoding = Encoding::Url,
            Some(b"entity") => self.encoding = Encoding::Entity,
            Some(other) => {
                let other = show(other);
                r.log(Level::Error, format_args!("unknown encoding \"{other}\" in the \"echo\" command"));
            }
        }
        let mut out = Vec::with_capacity(value.len());
        match self.encoding {
            Encoding::None => out = value,
            Encoding::Url => escape_uri(&value, Escape::Html, &mut out),
            Encoding::Entity => escape_html(&value, &mut out),
        }
        Carried::Say(out)
    }

    fn config(&mut self, params: &Params<'_>) -> Carried {
        if let Some(format) = params.get("timefmt") {
            *self.time_format.0.borrow_mut() = format.to_vec();
        }
        if let Some(text) = params.get("errmsg") {
            self.errmsg = Bytes::copy_from_slice(text);
        }
        Carried::Out
    }

    fn set(&mut self, r: &Request, shared: &Shared, params: &Params<'_>) -> Carried {
        match text::evaluate(r, shared, params.get("value").unwrap_or_default(), false) {
            Some(value) => {
                shared.set(params.get("var").unwrap_or_default(), value);
                Carried::Out
            }
            None => Carried::Failed,
        }
    }

    fn include(&self, r: &Request, shared: &Rc<Shared>, params: &Params<'_>) -> Carried {
        let (target, wait) = match target(params) {
            Ok(target) => target,
            Err(text) => return complain(r, format_args!("{text}")),
        };
        let Some(uri) = text::evaluate(r, shared, target, true) else { return Carried::Failed };
        let Ok(parsed) = parse_unsafe_uri(&uri) else {
            let mut decoded = Vec::with_capacity(uri.len());
            unescape_uri(&uri, &mut decoded);
            return complain(r, format_args!("unsafe URI \"{}\" was detected", show(&decoded)));
        };
        let args = parsed.args.and_then(|range| uri.get(range)).unwrap_or_default();
        let part = r.subrequest(parsed.path.into_owned()).args(Bytes::copy_from_slice(args));
        let part = match params.get("stub") {
            None => part,
            Some(name) => match shared.block(name) {
                Some(text) => part.stub(text),
                None => {
                    let name = show(name);
                    return complain(r, format_args!("\"stub\"=\"{name}\" for \"include\" not found"));
                }
            },
        };
        match params.get("set") {
            Some(name) => collect(r, shared, part, name),
            None if wait => include_and_wait(part),
            None => match part.include() {
                Ok(_) => Carried::Out,
                Err(_) => Carried::Failed,
            },
        }
    }
}

/// Matches the parameters of a command with those that it has; the error is for the log.
fn check<'a>(known: &Known, command: &'a Command) -> Result<Params<'a>, String> {
    let name = known.name;
    if command.params.len() > MOST_PARAMS {
        return Err(format!("too many SSI command parameters: \"{name}\""));
    }
    let mut params = Params(Vec::new());
    for (key, value) in &command.params {
        let Some((key, _)) = known.params.iter().find(|(param, _)| param.as_bytes() == key.as_slice()) else {
            return Err(format!("invalid parameter name: \"{}\" in \"{name}\" SSI command", show(key)));
        };
        if params.get(key).is_some() {
            return Err(format!("duplicate \"{key}\" parameter in \"{name}\" SSI command"));
        }
        params.0.push((key, value));
    }
    match known.params.iter().find(|(key, mandatory)| *mandatory && params.get(key).is_none()) {
        Some((key, _)) => Err(format!("mandatory \"{key}\" parameter is absent in \"{name}\" SSI command")),
        None => Ok(params),
    }
}

/// What to include and whether the page waits for it; the error is for the log.
fn target<'a>(params: &Params<'a>) -> Result<(&'a [u8], bool), String> {
    let (uri, file) = (params.get("virtual"), params.get("file"));
    if let (Some(uri), Some(file)) = (uri, file) {
        let (uri, file) = (show(uri), show(file));
        return Err(format!("inclusion may be either virtual=\"{uri}\" or file=\"{file}\""));
    }
    if uri.is_none() && file.is_none() {
        return Err("no parameter in \"include\" SSI command".to_owned());
    }
    if params.get("set").is_some() && params.get("stub").is_some() {
        return Err("\"set\" and \"stub\" cannot be used together in \"include\" SSI command".to_owned());
    }
    let wait = match (params.get("wait"), file) {
        (None, _) => false,
        (Some(_), Some(file)) => return Err(format!("\"wait\" cannot be used with file=\"{}\"", show(file))),
        (Some(word), None) if word.eq_ignore_ascii_case(b"no") => false,
        (Some(word), None) if word.eq_ignore_ascii_case(b"yes") => true,
        (Some(word), None) => {
            return Err(format!("invalid value \"{}\" in the \"wait\" parameter", show(word)));
        }
    };
    // Files are always waited for.
    Ok((uri.or(file).unwrap_or_default(), wait || file.is_some()))
}

/// The page goes on behind what is included once that is complete.
fn include_and_wait(part: Subrequest) -> Carried {
    let over = Rc::new(Cell::new(false));
    let set = over.clone();
    let part = part.on_done(move |child, outcome| {
        set.set(true);
        if let (Some(page), false) = (&child.parent, outcome == Err(SubrequestError::ClientGone)) {
            go_on(page);
        }
    });
    match part.include() {
        Ok(_) => Carried::Waits(over),
        Err(_) => Carried::Failed,
    }
}

/// The response becomes a variable; the page waits for it.
fn collect(r: &Request, shared: &Rc<Shared>, part: Subrequest, name: &[u8]) -> Carried {
    let Some(page) = r.owner() else { return Carried::Failed };
    let over = Rc::new(Cell::new(false));
    let (set, store, name) = (over.clone(), shared.clone(), name.to_vec());
    store.declare(&name);
    let collected = part.collect(move |outcome| {
        set.set(true);
        match outcome {
            Err(SubrequestError::ClientGone) => return,
            Ok(answer) if answer.status() < 300 && !answer.body.is_empty() => {
                store.set(&name, answer.body.to_vec());
            }
            _ => {}
        }
        go_on(&page);
    });
    match collected {
        Ok(()) => Carried::Waits(over),
        Err(_) => Carried::Failed,
    }
}

/// Lets a page that waited go on.
fn go_on(page: &Request) {
    if page.push(Chunk::Empty, End::More).is_err()
        && let Some(family) = page.family()
    {
        family.fail(499);
    }
}

/// A command as text, for a block.
fn as_text(command: &Command) -> Vec<u8> {
    let mut text = b"<!--#".to_vec();
    text.extend_from_slice(&command.name);
    for (key, value) in &command.params {
        for part in [b" ", key.as_slice(), b"=\"", value, b"\""] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b" -->");
    text
}
