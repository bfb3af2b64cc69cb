//! ngx_http_upstream_module: `upstream` blocks and the `$upstream_*` variables.
//!
//! nginx's counterpart: the directives of `ngx_http_upstream.c`, `ngx_http_upstream_keepalive_module.c`.

mod balancing;
mod resolving;
mod sticky;
mod zone;

use std::io::Write as _;

use headwater_conf::context::{HTTP, UPSTREAM};
use headwater_conf::value::{parse_number, parse_seconds};
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result};
use headwater_io::addr::Addr;
use headwater_wire::headers::HeaderList;

pub use resolving::named_groups;
use resolving::{Resolve, Resolving};

use super::Module;
use crate::config::resolver::addresses;
use crate::request::Request;
use crate::request::upstream_state::{UpstreamState, write_seconds};
use crate::script::VariableDef;
use crate::upstream::peers::sticky::Sticky;
use crate::upstream::peers::{Group, Groups, Keepalive, Method, Options, Peer};

const NAME: &str = "ngx_http_upstream_module";
const KEEPALIVE: &str = "ngx_http_upstream_keepalive_module";

/// The module.
pub static MODULE: Module = Module {
    directives: &[
        DIRECTIVES,
        balancing::DIRECTIVES,
        resolving::DIRECTIVES,
        sticky::DIRECTIVES,
        zone::DIRECTIVES,
    ],
    variables: VARIABLES,
    finish: zone::finish,
    ..Module::named(NAME)
};

const fn inside(
    name: &'static str,
    module: &'static str,
    args: Args,
    syntax: &'static str,
    default: &'static str,
    doc: &'static str,
    set: headwater_conf::directive::Setter,
) -> DirectiveDef {
    DirectiveDef { name, module, contexts: UPSTREAM, args, syntax, default, doc, set }
}

const DIRECTIVES: &[DirectiveDef] = &[
    DirectiveDef {
        name: "upstream",
        module: NAME,
        contexts: HTTP,
        args: Args::exactly(1).with_block(),
        syntax: "name",
        default: "",
        doc: "Defines a group of servers.\n",
        set: upstream,
    },
    inside(
        "server",
        NAME,
        Args::at_least(1),
        "address [weight=number] [max_conns=number] [max_fails=number] [fail_timeout=time] [backup] [down] [drain] [route=string] [slow_start=time] [resolve] [service=name]",
        "",
        "Defines a server of the group.\n",
        server,
    ),
    inside(
        "keepalive",
        KEEPALIVE,
        Args::range(1, 2),
        "connections [local]",
        "32 local",
        "Sets how many idle connections each worker adds to those kept; 0 keeps none.\n",
        |cx, directive| {
            let number = parse_number(directive.arg(0));
            let number = number.ok_or_else(|| {
                directive.error_at(
                    0,
                    format!("invalid value \"{}\" in \"keepalive\" directive", directive.word(0).str()),
                )
            })?;
            let local = match directive.args.get(1) {
                None => false,
                Some(word) if word.is("local") => true,
                Some(_) => return Err(directive.invalid_parameter(1)),
            };
            let building = cx.state::<Building>();
            if building.keepalive_set {
                return Err(directive.error("\"keepalive\" directive is duplicate"));
            }
            building.keepalive_set = true;
            building.keepalive.connections = number;
            building.keepalive.local = local;
            Ok(())
        },
    ),
    inside(
        "keepalive_requests",
        KEEPALIVE,
        Args::exactly(1),
        "number",
        "1000",
        "Limits the requests of one connection.\n",
        |cx, directive| {
            let number =
                parse_number(directive.arg(0)).ok_or_else(|| directive.complain("invalid number"))?;
            cx.state::<Building>().keepalive.requests = number as u64;
            Ok(())
        },
    ),
    inside(
        "keepalive_time",
        KEEPALIVE,
        Args::exactly(1),
        "time",
        "1h",
        "Limits the time in which one connection may carry requests.\n",
        |cx, directive| {
            let time = headwater_conf::value::parse_milliseconds(directive.arg(0))
                .ok_or_else(|| directive.complain("invalid value"))?;
            cx.state::<Building>().keepalive.time = time;
            Ok(())
        },
    ),
    inside(
        "keepalive_timeout",
        KEEPALIVE,
        Args::exactly(1),
        "timeout",
        "60s",
        "Limits the time a connection stays idle.\n",
        |cx, directive| {
            let time = headwater_conf::value::parse_milliseconds(directive.arg(0))
                .ok_or_else(|| directive.complain("invalid value"))?;
            cx.state::<Building>().keepalive.timeout = time;
            Ok(())
        },
    ),
];

/// The group being read.
#[derive(Default)]
struct Building {
    primary: Vec<Peer>,
    backup: Vec<Peer>,
    keepalive: Keepalive,
    keepalive_set: bool,
    method: Option<Method>,
    /// Whether the method does not know backups; it counts for servers behind it.
    no_backups: bool,
    /// The method's refusal of the first `slow_start`, wherever the method stands.
    slow_start: Option<Box<Diagnostic>>,
    sticky: Option<Sticky>,
    zone: Option<Box<str>>,
    resolving: Resolving,
}

fn upstream(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let name = directive.word(0).str().into_owned();
    if cx.state::<Groups>().find(&name).is_some() {
        return Err(directive.error_at(0, format!("duplicate upstream \"{name}\"")));
    }
    *cx.state::<Building>() = Building::default();
    cx.enter(directive, UPSTREAM)?;
    let building = cx.take_state::<Building>();
    if building.primary.is_empty() && building.backup.is_empty() && building.resolving.servers.is_empty() {
        let mut error = directive.error("no servers are inside upstream");
        // nginx names the line of the closing brace.
        if let (Some(block), Some(position)) = (&directive.block, &mut error.position) {
            position.1 = block.end_line;
        }
        return Err(error);
    }
    building.resolving.check(cx, directive, building.zone.is_some())?;
    if building.primary.is_empty() && building.resolving.servers.iter().all(|server| server.backup) {
        return Err(directive.error(format!("no servers in upstream \"{name}\"")));
    }
    let method = building.method.unwrap_or_default();
    if let Some(refusal) = building.slow_start.filter(|_| !method.knows_slow_start()) {
        return Err(refusal);
    }
    let options = Options { method, sticky: building.sticky, zone: building.zone };
    let Building { primary, backup, keepalive, resolving, no_backups, .. } = building;
    let fixed = (primary.clone(), backup.clone());
    let mut group = Group::with_options(&name, primary, backup, keepalive, options);
    group.declared = true;
    let group = cx.state::<Groups>().add(group);
    resolving.declare(cx, directive, (group, fixed), !no_backups);
    Ok(())
}

fn server(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let mut template = Peer::new(Addr::unnamed_unix(), &directive.word(0).str());
    let mut backup = false;
    let mut name = Resolve::default();
    for (index, word) in directive.args.iter().enumerate().skip(1) {
        let invalid = || directive.invalid_parameter(index);
        let number = |text: &[u8]| parse_number(text).and_then(|n| u32::try_from(n).ok());
        if let Some(text) = word.after("weight=") {
            template.weight = i64::from(number(text).filter(|n| *n > 0).ok_or_else(invalid)?);
        } else if let Some(text) = word.after("max_conns=") {
            template.max_conns = number(text).ok_or_else(invalid)?;
        } else if let Some(text) = word.after("max_fails=") {
            template.max_fails = number(text).ok_or_else(invalid)?;
        } else if let Some(text) = word.after("fail_timeout=") {
            template.fail_timeout = parse_seconds(text).ok_or_else(invalid)?;
        } else if let Some(text) = word.after("slow_start=") {
            template.slow_start = parse_seconds(text).ok_or_else(invalid)?;
            cx.state::<Building>().slow_start.get_or_insert_with(|| unsupported(directive, index));
        } else if let Some(text) = word.after("route=") {
            let route = std::str::from_utf8(text).ok().filter(|route| !route.is_empty());
            template.route = Some(route.ok_or_else(invalid)?.into());
        } else if word.is("backup") {
            if cx.state::<Building>().no_backups {
                return Err(unsupported(directive, index));
            }
            backup = true;
        } else if word.is("down") {
            template.down = true;
        } else if word.is("resolve") {
            name.resolve = true;
        } else if let Some(text) = word.after("service=") {
            if text.is_empty() {
                return Err(directive.error_at(index, "service is empty"));
            }
            name.service = Some(String::from_utf8_lossy(text).into());
        } else if word.is("drain") {
            template.drain = true;
        } else {
            return Err(invalid());
        }
    }
    if let Some(named) = name.server(directive, &template, backup)? {
        cx.state::<Building>().resolving.servers.push(named);
        return Ok(());
    }
    for addr in resolve(directive, 0, directive.word(0).str().as_ref(), 80)? {
        let peer = Peer { name: addr.to_string().into(), addr, ..template.clone() };
        let building = cx.state::<Building>();
        if backup {
            building.backup.push(peer);
        } else {
            building.primary.push(peer);
        }
    }
    Ok(())
}

fn unsupported(directive: &Directive, index: usize) -> Box<Diagnostic> {
    let word = directive.word(index).str();
    directive.error_at(index, format!("balancing method does not support parameter \"{word}\""))
}

/// The addresses of `host[:port]` or `unix:/path`, looked up now.
pub fn resolve(directive: &Directive, index: usize, text: &str, default_port: u16) -> Result<Vec<Addr>> {
    addresses(text, default_port)
        .map_err(|words| directive.error_at(index, format!("{words} in upstream \"{text}\"")))
}

fn join(r: &Request, out: &mut Vec<u8>, one: impl FnMut(&UpstreamState, &mut Vec<u8>)) -> bool {
    r.upstream.borrow().join(out, one)
}

fn number(value: u64, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

fn header(list: Option<&HeaderList>, suffix: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(list) = list else { return false };
    let mut found = false;
    for line in list.iter() {
        let same = line.name.len() == suffix.len()
            && line
                .name
                .iter()
                .zip(suffix)
                .all(|(a, b)| a.to_ascii_lowercase() == *b || (*a == b'-' && *b == b'_'));
        if same {
            if found {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(line.value);
            found = true;
        }
    }
    found
}

fn cookie(list: Option<&HeaderList>, name: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(list) = list else { return false };
    for value in list.get_all(b"set-cookie") {
        let rest = value.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"="));
        if let Some(rest) = rest {
            out.extend_from_slice(rest.split(|byte| *byte == b';').next().unwrap_or_default());
            return true;
        }
    }
    false
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "upstream_addr",
        NAME,
        |r, _, out| join(r, out, |state, out| out.extend_from_slice(state.peer.as_bytes())),
        "Addresses of the servers that were asked.",
    ),
    VariableDef::new(
        "upstream_status",
        NAME,
        |r, _, out| {
            join(r, out, |state, out| match state.status {
                0 => out.push(b'-'),
                status => number(status.into(), out),
            })
        },
        "Statuses of the answers.",
    ),
    VariableDef::new(
        "upstream_connect_time",
        NAME,
        |r, _, out| join(r, out, |state, out| write_seconds(state.connect_ms, out)),
        "Seconds until connections were made.",
    ),
    VariableDef::new(
        "upstream_header_time",
        NAME,
        |r, _, out| join(r, out, |state, out| write_seconds(state.header_ms, out)),
        "Seconds until the heads of answers were there.",
    ),
    VariableDef::new(
        "upstream_response_time",
        NAME,
        |r, _, out| join(r, out, |state, out| write_seconds(state.response_ms, out)),
        "Seconds until answers were complete.",
    ),
    VariableDef::new(
        "upstream_response_length",
        NAME,
        |r, _, out| join(r, out, |state, out| number(state.response_length, out)),
        "Body bytes of the answers.",
    ),
    VariableDef::new(
        "upstream_bytes_received",
        NAME,
        |r, _, out| join(r, out, |state, out| number(state.bytes_received, out)),
        "Bytes received.",
    ),
    VariableDef::new(
        "upstream_bytes_sent",
        NAME,
        |r, _, out| join(r, out, |state, out| number(state.bytes_sent, out)),
        "Bytes sent.",
    ),
    VariableDef::new(
        "upstream_last_addr",
        NAME,
        |r, _, out| match r.upstream.borrow().states.last() {
            Some(state) => {
                out.extend_from_slice(state.peer.as_bytes());
                true
            }
            None => false,
        },
        "The address of the last server that was asked.",
    ),
    VariableDef::family(
        "upstream_http_",
        NAME,
        |r, suffix, out| header(r.upstream.borrow().headers.as_ref(), suffix, out),
        "A header of the last answer.",
    ),
    VariableDef::family(
        "upstream_trailer_",
        NAME,
        |r, suffix, out| header(r.upstream.borrow().trailers.as_ref(), suffix, out),
        "A trailer of the last answer.",
    ),
    VariableDef::family(
        "upstream_cookie_",
        NAME,
        |r, suffix, out| cookie(r.upstream.borrow().headers.as_ref(), suffix, out),
        "A cookie that the last answer sets.",
    ),
];
