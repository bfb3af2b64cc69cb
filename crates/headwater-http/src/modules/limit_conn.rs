//! `limit_conn`: how many requests with one key may be in progress at a time.
//!
//! A preaccess handler. nginx's counterpart: `ngx_http_limit_conn_module.c`.

use std::sync::Arc;

use headwater_conf::context::{HSL, HTTP};
use headwater_conf::value::parse_number;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, Value, settings};

use super::Module;
use super::limit_zone::{self, Zone};
use crate::config::LocationBuilder;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::script::VariableDef;

use super::limit_req::{LogLevel, RefusalStatus};

const NAME: &str = "ngx_http_limit_conn_module";

/// Bytes of an entry in nginx besides its key.
const OVERHEAD: usize = 36;

/// Longer keys are not counted.
const LONGEST_KEY: usize = 255;

/// The module.
pub static MODULE: Module = Module {
    directives: &[DIRECTIVES, LimitConnSettings::DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named(NAME)
};

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "limit_conn_zone",
    module: NAME,
    contexts: HTTP,
    args: Args::exactly(2),
    syntax: "key zone=name:size",
    default: "",
    doc: "Declares a zone that counts requests in progress by a key.\n",
    set: |cx, directive| limit_zone::declare::<Count>(cx, directive, OVERHEAD, |_| None),
}];

settings! {
    /// Limits of requests in progress.
    pub struct LimitConnSettings, raw LimitConnRaw, module "ngx_http_limit_conn_module" {
        /// Limits how many requests with one key of the zone may be in progress.
        "limit_conn", HSL, "zone number", "" => limits: Limits = Limits(Vec::new());
        /// Sets the level at which refusals are logged.
        "limit_conn_log_level", HSL, "info | notice | warn | error", "error" => log_level: LogLevel = LogLevel::Error;
        /// Sets the status of refusals.
        "limit_conn_status", HSL, "code", "503" => status: RefusalStatus = RefusalStatus(503);
        /// Counts and logs, but refuses nothing.
        "limit_conn_dry_run", HSL, "on | off", "off" => dry_run: bool = false;
    }
}

const VARIABLES: &[VariableDef] = &[VariableDef::new(
    "limit_conn_status",
    NAME,
    |r, _, out| match r.root().extension::<Status>() {
        Some(status) => {
            out.extend_from_slice(status.0.as_bytes());
            true
        }
        None => false,
    },
    "What `limit_conn` decided: `PASSED`, `REJECTED` or `REJECTED_DRY_RUN`.",
)];

/// What was decided about a request.
struct Status(&'static str);

/// Requests in progress.
type Count = u32;

/// The `limit_conn` of a block, by names of zones.
#[derive(Debug, Clone)]
pub struct Limits(Vec<(Box<str>, u32)>);

impl Value for Limits {
    const ARGS: Args = Args::exactly(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or(Self(Vec::new())))
    }

    fn set(slot: &mut Option<Self>, _: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let name = directive.word(0).str();
        let limits = slot.get_or_insert(Self(Vec::new()));
        if limits.0.iter().any(|(known, _)| **known == *name) {
            return Err(directive.duplicate());
        }
        let number = parse_number(directive.arg(1)).filter(|number| *number > 0).ok_or_else(|| {
            let shown = directive.word(1).str();
            directive.error_at(1, format!("invalid number of connections \"{shown}\""))
        })?;
        let number = u32::try_from(number).ok().filter(|number| *number <= 65535);
        let number = number.ok_or_else(|| directive.error_at(1, "connection limit must be less 65536"))?;
        limits.0.push((name.as_ref().into(), number));
        Ok(())
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<LimitConnSettings>();
    if settings.limits.0.is_empty() {
        return Ok(());
    }
    let mut limits = Vec::new();
    for (name, number) in &settings.limits.0 {
        limits.push((limit_zone::find::<Count>(builder.cx, name)?, *number));
    }
    builder.location.preaccess.push(Box::new(LimitConn { limits, settings }));
    Ok(())
}

struct LimitConn {
    limits: Vec<(Arc<Zone<Count>>, u32)>,
    settings: Arc<LimitConnSettings>,
}

/// A request that counts until it is over.
struct Counted(Vec<(Arc<Zone<Count>>, Vec<u8>)>);

impl Drop for Counted {
    fn drop(&mut self) {
        for (zone, key) in &self.0 {
            let mut entries = zone.entries();
            if let Some(count) = entries.get_mut(key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    entries.remove(key);
                }
            }
        }
    }
}

/// Whether one more request fits.
enum Verdict {
    Fits,
    TooMany,
    NoRoom,
}

fn count(zone: &Zone<Count>, key: &[u8], most: u32) -> Verdict {
    let mut entries = zone.entries();
    if let Some(count) = entries.get_mut(key) {
        if *count >= most {
            return Verdict::TooMany;
        }
        *count = count.saturating_add(1);
        return Verdict::Fits;
    }
    if entries.insert(key, 1) { Verdict::Fits } else { Verdict::NoRoom }
}

impl Handler for LimitConn {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let root = r.root();
        if root.extension::<Status>().is_some() {
            return Outcome::Declined;
        }
        let mut counted = Counted(Vec::new());
        let mut refused = false;
        for (zone, most) in &self.limits {
            let Some(key) = zone.key(r, LONGEST_KEY) else { continue };
            match count(zone, &key, *most) {
                Verdict::Fits => {
                    counted.0.push((zone.clone(), key));
                    continue;
                }
                Verdict::TooMany => {
                    let dry = if self.settings.dry_run { ", dry run," } else { "" };
                    r.log(
                        self.settings.log_level.level(),
                        format_args!("limiting connections{dry} by zone \"{}\"", zone.name),
                    );
                }
                Verdict::NoRoom => {}
            }
            refused = true;
            break;
        }
        match (refused, self.settings.dry_run) {
            (true, true) => {
                root.set_extension(Status("REJECTED_DRY_RUN"));
                Outcome::Declined
            }
            (true, false) => {
                root.set_extension(Status("REJECTED"));
                Outcome::Status(self.settings.status.0)
            }
            (false, _) if counted.0.is_empty() => Outcome::Declined,
            (false, _) => {
                root.set_extension(Status("PASSED"));
                root.set_extension(counted);
                Outcome::Declined
            }
        }
    }
}
