//! ngx_http_rewrite_module: `rewrite`, `return`, `set`, `if`, `break`.
//!
//! Directives become a program of operations per location, run in the rewrite phase. `condition` holds the tests of `if`, `rule` the
//! `rewrite` directive. nginx's counterpart: `ngx_http_rewrite_module.c`, `ngx_http_script.c`.

mod condition;
mod rule;

use bytes::Bytes;
use headwater_conf::context::{LOCATION, LOCATION_IF, REWRITE, SERVER, SERVER_IF};
use headwater_conf::value::parse_number;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, settings};

use super::Module;
use crate::config::decl::{HttpDecl, enter_location};
use crate::config::{LocId, LocationBuilder, LocationKind};
use crate::filters::{Chunk, End};
use crate::flow::phases::{LocalFuture, Outcome, Rewritten};
use crate::request::Request;
use crate::script::variables::declare_plain;
use crate::script::{Complex, VarIndex};
use condition::Condition;
use rule::Rule;

const NAME: &str = "ngx_http_rewrite_module";

/// The module.
pub static MODULE: Module =
    Module { directives: &[DIRECTIVES, RewriteSettings::DIRECTIVES], build, ..Module::named(NAME) };

settings! {
    /// Settings beside the program.
    pub struct RewriteSettings, raw RewriteRaw, module "ngx_http_rewrite_module" {
        /// Logs what rewrite directives do, at `notice`.
        "rewrite_log", REWRITE.or(headwater_conf::context::HTTP), "on | off", "off" => log: bool = false;
    }
}

const fn record(
    name: &'static str,
    args: Args,
    syntax: &'static str,
    doc: &'static str,
    set: headwater_conf::directive::Setter,
) -> DirectiveDef {
    DirectiveDef { name, module: NAME, contexts: REWRITE, args, syntax, default: "", doc, set }
}

const DIRECTIVES: &[DirectiveDef] = &[
    record("break", Args::exactly(0), "", "Stops the rewrite directives of this location.\n", |cx, _| {
        cx.raw::<Ops>().0.push(Op::Break);
        Ok(())
    }),
    record(
        "return",
        Args::range(1, 2),
        "code [text] ;; code URL ;; URL",
        "Stops processing and answers with the code: with a text, a redirect or nothing. 444 closes the connection.\n",
        add_return,
    ),
    record(
        "rewrite",
        Args::range(2, 3),
        "regex replacement [last | break | redirect | permanent]",
        "Changes the URI when it matches.\n",
        |cx, directive| {
            let rule = Rule::parse(cx, directive)?;
            cx.raw::<Ops>().0.push(Op::Rewrite(Box::new(rule)));
            Ok(())
        },
    ),
    record("set", Args::exactly(2), "$variable value", "Sets a variable.\n", |cx, directive| {
        let variable = declare_plain(cx, directive, 0)?;
        let value = Complex::compile(cx, directive, 1)?;
        cx.raw::<Ops>().0.push(Op::Set(variable, value));
        Ok(())
    }),
    DirectiveDef {
        name: "if",
        module: NAME,
        contexts: SERVER.or(LOCATION),
        args: Args::at_least(1).with_block(),
        syntax: "(condition)",
        default: "",
        doc: "Runs the rewrite directives inside, and in a location uses the settings inside, when the condition holds.\n",
        set: add_if,
    },
];

/// The operations of one block.
#[derive(Debug, Clone, Default)]
struct Ops(Vec<Op>);

#[derive(Debug, Clone)]
enum Op {
    Break,
    Return(u16, Option<Complex>),
    Rewrite(Box<Rule>),
    Set(VarIndex, Complex),
    If(Box<Branch>),
}

#[derive(Debug, Clone)]
struct Branch {
    condition: Condition,
    /// The location whose settings count from then on; none in a server.
    location: Option<LocId>,
    ops: Vec<Op>,
}

/// The rewrite phase of one location.
#[derive(Debug, Clone)]
pub struct Program {
    ops: Vec<Op>,
    log: bool,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let ops = match builder.own::<Ops>() {
        Some(ops) if !matches!(builder.decl.kind, LocationKind::If) && !ops.0.is_empty() => ops.0.clone(),
        _ => return Ok(()),
    };
    let log = builder.settings::<RewriteSettings>().log;
    builder.location.rewrite = Some(Program { ops, log });
    Ok(())
}

fn is_redirect_target(text: &[u8]) -> bool {
    text.starts_with(b"http://") || text.starts_with(b"https://") || text.starts_with(b"$scheme")
}

fn add_return(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let first = directive.arg(0).to_vec();
    let op = match parse_number(&first).and_then(|code| u16::try_from(code).ok()) {
        None if directive.args.len() == 1 && is_redirect_target(&first) => {
            Op::Return(302, Some(Complex::compile(cx, directive, 0)?))
        }
        None => {
            let message = format!("invalid return code \"{}\"", directive.word(0).str());
            return Err(directive.error_at(0, message));
        }
        Some(code) if code > 999 => {
            let message = format!("invalid return code \"{}\"", directive.word(0).str());
            return Err(directive.error_at(0, message));
        }
        Some(code) if directive.args.len() == 1 => Op::Return(code, None),
        Some(code) => Op::Return(code, Some(Complex::compile(cx, directive, 1)?)),
    };
    cx.raw::<Ops>().0.push(op);
    Ok(())
}

fn add_if(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let condition = Condition::parse(cx, directive)?;
    let in_location = cx.context == LOCATION;
    let context = if in_location { LOCATION_IF } else { SERVER_IF };
    let decl = cx.state::<HttpDecl>();
    let name = decl.current_location().and_then(|id| decl.location(id)).map(|outer| outer.name.clone());
    let id = enter_location(cx, directive, context, LocationKind::If, &name.unwrap_or_default())?;
    let scope = cx.state::<HttpDecl>().location(id).map(|location| location.scope);
    let ops = scope.map(|scope| std::mem::take(&mut cx.scopes.raw::<Ops>(scope).0)).unwrap_or_default();
    let location = in_location.then_some(id);
    cx.raw::<Ops>().0.push(Op::If(Box::new(Branch { condition, location, ops })));
    Ok(())
}

/// How a run of operations ended.
enum Ran {
    /// At its end.
    Through,
    /// At a `break` or a rewrite with a flag.
    Stopped,
    /// With an answer.
    Outcome(Outcome<'static>),
}

impl Program {
    /// Runs the phase.
    pub fn run(&self, r: &Request) -> Rewritten {
        match run(&self.ops, r, self.log) {
            Ran::Outcome(outcome) => Rewritten::Outcome(outcome),
            Ran::Through | Ran::Stopped if r.uri_changed.get() => Rewritten::Again,
            Ran::Through | Ran::Stopped => Rewritten::Continue,
        }
    }
}

fn run(ops: &[Op], r: &Request, log: bool) -> Ran {
    for op in ops {
        match op {
            Op::Break => return Ran::Stopped,
            Op::Set(variable, value) => {
                let value = value.value(r);
                r.exchange.generation.variables.assign(*variable, r, &value);
            }
            Op::Return(code, text) => return Ran::Outcome(answer(r, *code, text.as_ref())),
            Op::If(branch) => {
                if branch.condition.holds(r) {
                    if let Some(location) = branch.location {
                        r.location.set(location);
                    }
                    match run(&branch.ops, r, log) {
                        Ran::Through => {}
                        other => return other,
                    }
                }
            }
            Op::Rewrite(rule) => match rule.apply(r, log) {
                rule::Applied::No | rule::Applied::GoOn => {}
                rule::Applied::Stop => return Ran::Stopped,
                rule::Applied::Outcome(outcome) => return Ran::Outcome(outcome),
            },
        }
    }
    Ran::Through
}

fn answer(r: &Request, code: u16, text: Option<&Complex>) -> Outcome<'static> {
    let Some(text) = text else {
        if code >= 400 || code == 0 {
            return Outcome::Status(code);
        }
        return send(r, code, Bytes::new());
    };
    // The text may show it.
    r.headers_out.borrow_mut().status = code;
    let value = match text.as_text() {
        Some(text) => Bytes::copy_from_slice(text),
        None => Bytes::from(text.value(r).into_owned()),
    };
    send(r, code, value)
}

/// Sends a short response, or a redirect for the redirect statuses (nginx: `ngx_http_send_response`).
fn send(r: &Request, code: u16, text: Bytes) -> Outcome<'static> {
    if matches!(code, 301 | 302 | 303 | 307 | 308) {
        r.headers_out.borrow_mut().location = Some(text);
        return Outcome::Status(code);
    }
    {
        let kind = super::static_files::content_type(r);
        let mut out = r.headers_out.borrow_mut();
        out.status = code;
        out.content_length = Some(text.len() as u64);
        if code == 204 {
            out.content_length = None;
        }
        out.content_type.get_or_insert(kind);
    }
    let pushed = r.send_header().and_then(|()| r.push(Chunk::Bytes(text), End::Last));
    match pushed {
        Ok(()) if r.queued() == 0 => Outcome::Done,
        Ok(()) => match r.owner() {
            Some(owner) => Outcome::Wait(wait_drained(owner)),
            None => Outcome::Close(500),
        },
        Err(error) => error.outcome(),
    }
}

fn wait_drained(owner: std::rc::Rc<Request>) -> LocalFuture<'static, Outcome<'static>> {
    Box::pin(async move {
        match owner.drained().await {
            Ok(()) => Outcome::Done,
            Err(error) => error.outcome(),
        }
    })
}
