//! `limit_req`: how often requests with one key may come, by a leaky bucket.
//!
//! A preaccess handler. nginx's counterpart: `ngx_http_limit_req_module.c`.

use std::sync::Arc;
use std::time::Duration;

use headwater_conf::context::{HSL, HTTP};
use headwater_conf::value::parse_number;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, Value, keywords, settings};
use headwater_io::timer::{Timer, with_timeout};

use super::Module;
use super::limit_zone::{self, Entries, Zone};
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::script::VariableDef;

const NAME: &str = "ngx_http_limit_req_module";

/// Bytes of an entry in nginx besides its key.
const OVERHEAD: usize = 80;

/// Longer keys are not limited.
const LONGEST_KEY: usize = 65535;

/// No request is delayed (`nodelay`), in thousandths of a request.
const NO_DELAY: i64 = i64::MAX / 1000 * 1000;

/// The module.
pub static MODULE: Module = Module {
    directives: &[DIRECTIVES, LimitReqSettings::DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named(NAME)
};

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "limit_req_zone",
    module: NAME,
    contexts: HTTP,
    args: Args::exactly(3),
    syntax: "key zone=name:size rate=rate",
    default: "",
    doc: "Declares a zone that measures by a key how often requests come, and how often they may: `1r/s`, `30r/m`.\n",
    set: |cx, directive| limit_zone::declare::<Bucket>(cx, directive, OVERHEAD, rate),
}];

fn rate(text: &[u8]) -> Option<std::result::Result<u64, String>> {
    let number = text.strip_prefix(b"rate=")?;
    let (digits, scale) = match number.strip_suffix(b"r/m") {
        Some(digits) => (digits, 60),
        None => (number.strip_suffix(b"r/s").unwrap_or(number), 1),
    };
    let rate = parse_number(digits).filter(|rate| *rate > 0);
    let rate = rate.map(|rate| (rate as u64).saturating_mul(1000) / scale);
    Some(rate.ok_or_else(|| format!("invalid rate \"{}\"", String::from_utf8_lossy(text))))
}

settings! {
    /// Limits of the rate of requests.
    pub struct LimitReqSettings, raw LimitReqRaw, module "ngx_http_limit_req_module" {
        /// Limits the rate of requests by a zone's key, with a number of requests that may come early, and how many of those are not delayed.
        "limit_req", HSL, "zone=name [burst=number] [nodelay | delay=number]", "" => limits: Limits = Limits(Vec::new());
        /// Sets the level at which refusals are logged; delays are logged at the next lower one.
        "limit_req_log_level", HSL, "info | notice | warn | error", "error" => log_level: LogLevel = LogLevel::Error;
        /// Sets the status of refusals.
        "limit_req_status", HSL, "code", "503" => status: RefusalStatus = RefusalStatus(503);
        /// Measures and logs, but neither delays nor refuses.
        "limit_req_dry_run", HSL, "on | off", "off" => dry_run: bool = false;
    }
}

keywords! {
    /// Levels at which refusals are logged.
    pub enum LogLevel {
        /// `info`.
        Info = "info",
        /// `notice`.
        Notice = "notice",
        /// `warn`.
        Warn = "warn",
        /// `error`.
        Error = "error",
    }
}

impl LogLevel {
    /// The level of refusals.
    #[must_use]
    pub fn level(self) -> Level {
        match self {
            Self::Info => Level::Info,
            Self::Notice => Level::Notice,
            Self::Warn => Level::Warn,
            Self::Error => Level::Error,
        }
    }

    fn below(self) -> Level {
        match self {
            Self::Info | Self::Notice => Level::Info,
            Self::Warn => Level::Notice,
            Self::Error => Level::Warn,
        }
    }
}

/// `limit_req_status`, `limit_conn_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalStatus(pub u16);

impl Value for RefusalStatus {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let number = parse_number(directive.arg(0)).ok_or_else(|| directive.complain("invalid number"))?;
        let status = u16::try_from(number).ok().filter(|status| (400..=599).contains(status));
        status.map(Self).ok_or_else(|| directive.error_at(0, "value must be between 400 and 599"))
    }
}

const VARIABLES: &[VariableDef] = &[VariableDef::new(
    "limit_req_status",
    NAME,
    |r, _, out| match r.root().extension::<Status>() {
        Some(status) => {
            out.extend_from_slice(status.0.as_bytes());
            true
        }
        None => false,
    },
    "What `limit_req` decided: `PASSED`, `DELAYED`, `REJECTED`, `DELAYED_DRY_RUN` or `REJECTED_DRY_RUN`.",
)];

/// What was decided about a request.
struct Status(&'static str);

/// The `limit_req` of a block, by names of zones.
#[derive(Debug, Clone)]
pub struct Limits(Vec<(Box<str>, Allowance)>);

/// How much may come early, in thousandths of a request.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    burst: i64,
    delay: i64,
}

impl Value for Limits {
    const ARGS: Args = Args::range(1, 3);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or(Self(Vec::new())))
    }

    fn set(slot: &mut Option<Self>, _: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let mut name = None;
        let mut allowance = Allowance { burst: 0, delay: 0 };
        for (index, word) in directive.args.iter().enumerate() {
            let shown = word.str();
            let number = |text: &[u8], what: &str| {
                let number = parse_number(text).filter(|number| *number > 0);
                let number = number.and_then(|number| i64::try_from(number).ok()?.checked_mul(1000));
                number.ok_or_else(|| directive.error_at(index, format!("invalid {what} value \"{shown}\"")))
            };
            if let Some(text) = word.after("zone=") {
                name = Some(String::from_utf8_lossy(text).into_owned());
            } else if let Some(text) = word.after("burst=") {
                allowance.burst = number(text, "burst")?;
            } else if let Some(text) = word.after("delay=") {
                allowance.delay = number(text, "delay")?;
            } else if word.is("nodelay") {
                allowance.delay = NO_DELAY;
            } else {
                return Err(directive.invalid_parameter(index));
            }
        }
        let name = name.ok_or_else(|| {
            directive.error(format!("\"{}\" must have \"zone\" parameter", directive.name()))
        })?;
        let limits = slot.get_or_insert(Self(Vec::new()));
        if limits.0.iter().any(|(known, _)| **known == *name) {
            return Err(directive.duplicate());
        }
        limits.0.push((name.into(), allowance));
        Ok(())
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<LimitReqSettings>();
    if settings.limits.0.is_empty() {
        return Ok(());
    }
    let mut limits = Vec::new();
    for (name, allowance) in &settings.limits.0 {
        limits.push((limit_zone::find::<Bucket>(builder.cx, name)?, *allowance));
    }
    builder.location.preaccess.push(Box::new(LimitReq { limits, settings }));
    Ok(())
}

/// What a key's requests have used up.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// In thousandths of a request.
    excess: i64,
    /// Milliseconds of `clock::now_ms`.
    last: u64,
    /// Requests that wait for the verdict of further zones.
    held: u32,
}

impl Bucket {
    /// What a request at this time makes of it, and the milliseconds since the last one.
    fn with_one_more(&self, rate: u64, now: u64) -> (i64, u64) {
        let passed = now.saturating_sub(self.last);
        let drained = i64::try_from(rate.saturating_mul(passed) / 1000).unwrap_or(i64::MAX);
        (self.excess.saturating_sub(drained).saturating_add(1000).max(0), passed)
    }

    fn take(&mut self, excess: i64, passed: u64, now: u64) {
        self.excess = excess;
        if passed > 0 {
            self.last = now;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Accounted, with this excess.
    Accounted(i64),
    /// Fits so far; accounted when the other zones agree.
    Held,
    TooMany(i64),
    NoRoom,
}

/// Tries one request with a key.
fn try_one(
    entries: &mut Entries<Bucket>,
    key: &[u8],
    rate: u64,
    burst: i64,
    account: bool,
    now: u64,
) -> Verdict {
    if let Some(bucket) = entries.touch(key) {
        let (excess, passed) = bucket.with_one_more(rate, now);
        if excess > burst {
            return Verdict::TooMany(excess);
        }
        if account {
            bucket.take(excess, passed, now);
            return Verdict::Accounted(excess);
        }
        bucket.held = bucket.held.saturating_add(1);
        return Verdict::Held;
    }
    expire(entries, rate, now, false);
    let bucket = Bucket { excess: 0, last: if account { now } else { 0 }, held: u32::from(!account) };
    if !entries.insert(key, bucket) {
        expire(entries, rate, now, true);
        if !entries.insert(key, bucket) {
            return Verdict::NoRoom;
        }
    }
    if account { Verdict::Accounted(0) } else { Verdict::Held }
}

/// Drops up to two entries that ran empty, and before them the oldest one by force.
fn expire(entries: &mut Entries<Bucket>, rate: u64, now: u64, by_force: bool) {
    for round in u8::from(!by_force)..3 {
        let Some(oldest) = entries.oldest().filter(|oldest| oldest.held == 0) else { return };
        let passed = now.saturating_sub(oldest.last);
        let drained = i64::try_from(rate.saturating_mul(passed) / 1000).unwrap_or(i64::MAX);
        if round > 0 && (passed < 60_000 || oldest.excess > drained) {
            return;
        }
        entries.drop_oldest();
    }
}

/// How long a request with this excess waits, in milliseconds.
fn delay(excess: i64, allowance: Allowance, rate: u64) -> u64 {
    let over = u64::try_from(excess.saturating_sub(allowance.delay)).unwrap_or(0);
    over.saturating_mul(1000).checked_div(rate).unwrap_or(0)
}

struct LimitReq {
    limits: Vec<(Arc<Zone<Bucket>>, Allowance)>,
    settings: Arc<LimitReqSettings>,
}

type Limit = (Arc<Zone<Bucket>>, Allowance);

impl Handler for LimitReq {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if r.root().extension::<Status>().is_some() {
            return Outcome::Declined;
        }
        let now = headwater_io::clock::now_ms();
        let mut held: Vec<(&Limit, Vec<u8>)> = Vec::new();
        let mut slowest = (0, 0, None);
        let mut seen = false;
        for (index, limit) in self.limits.iter().enumerate() {
            let (zone, allowance) = limit;
            let Some(key) = zone.key(r, LONGEST_KEY) else { continue };
            let last = index.saturating_add(1) == self.limits.len();
            let verdict = try_one(&mut zone.entries(), &key, zone.rate, allowance.burst, last, now);
            seen = true;
            match verdict {
                Verdict::Held => held.push((limit, key)),
                Verdict::Accounted(excess) => {
                    slowest = (delay(excess, *allowance, zone.rate), excess, Some(zone));
                }
                Verdict::TooMany(excess) => {
                    let dry = if self.settings.dry_run { ", dry run" } else { "" };
                    let (whole, rest) = (excess / 1000, excess % 1000);
                    r.log(
                        self.settings.log_level.level(),
                        format_args!(
                            "limiting requests{dry}, excess: {whole}.{rest:03} by zone \"{}\"",
                            zone.name
                        ),
                    );
                    return self.refuse(r, &held);
                }
                Verdict::NoRoom => {
                    r.log(
                        Level::Alert,
                        format_args!("could not allocate node in limit_req zone \"{}\"", zone.name),
                    );
                    return self.refuse(r, &held);
                }
            }
        }
        if !seen {
            return Outcome::Declined;
        }
        for ((zone, allowance), key) in held.iter().rev() {
            let Some(excess) = account(zone, key, now) else { continue };
            let wait = delay(excess, *allowance, zone.rate);
            if wait > slowest.0 {
                slowest = (wait, excess, Some(zone));
            }
        }
        self.pass(r, slowest)
    }
}

/// Accounts a request that was held.
fn account(zone: &Zone<Bucket>, key: &[u8], now: u64) -> Option<i64> {
    let mut entries = zone.entries();
    let bucket = entries.get_mut(key)?;
    let (excess, passed) = bucket.with_one_more(zone.rate, now);
    bucket.take(excess, passed, now);
    bucket.held = bucket.held.saturating_sub(1);
    Some(excess)
}

impl LimitReq {
    fn refuse(&self, r: &Request, held: &[(&Limit, Vec<u8>)]) -> Outcome<'static> {
        for ((zone, _), key) in held {
            if let Some(bucket) = zone.entries().get_mut(key) {
                bucket.held = bucket.held.saturating_sub(1);
            }
        }
        if self.settings.dry_run {
            r.root().set_extension(Status("REJECTED_DRY_RUN"));
            return Outcome::Declined;
        }
        r.root().set_extension(Status("REJECTED"));
        Outcome::Status(self.settings.status.0)
    }

    fn pass<'a>(&self, r: &'a Request, slowest: (u64, i64, Option<&Arc<Zone<Bucket>>>)) -> Outcome<'a> {
        let (wait, excess, Some(zone)) = slowest else {
            r.root().set_extension(Status("PASSED"));
            return Outcome::Declined;
        };
        if wait == 0 {
            r.root().set_extension(Status("PASSED"));
            return Outcome::Declined;
        }
        let dry = if self.settings.dry_run { ", dry run" } else { "" };
        let (whole, rest) = (excess / 1000, excess % 1000);
        r.log(
            self.settings.log_level.below(),
            format_args!("delaying request{dry}, excess: {whole}.{rest:03}, by zone \"{}\"", zone.name),
        );
        if self.settings.dry_run {
            r.root().set_extension(Status("DELAYED_DRY_RUN"));
            return Outcome::Declined;
        }
        r.root().set_extension(Status("DELAYED"));
        Outcome::Wait(Box::pin(sleep(r, Duration::from_millis(wait))))
    }
}

/// Waits, unless the client goes away.
async fn sleep(r: &Request, time: Duration) -> Outcome<'static> {
    let timer = Timer::new();
    if !r.exchange.body.is_complete() {
        // What comes in is the body, which is not read yet.
        let _ = with_timeout(&timer, time, std::future::pending::<()>()).await;
        return Outcome::Declined;
    }
    match with_timeout(&timer, time, r.connection().closed()).await {
        Ok(()) => {
            r.log(Level::Info, format_args!("client prematurely closed connection"));
            Outcome::Close(499)
        }
        Err(_) => Outcome::Declined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_in_thousandths() {
        assert_eq!(rate(b"rate=2r/s"), Some(Ok(2000)));
        assert_eq!(rate(b"rate=30r/m"), Some(Ok(500)));
        assert_eq!(rate(b"rate=7"), Some(Ok(7000)));
        assert!(rate(b"rate=0r/s").is_some_and(|rate| rate.is_err()));
        assert_eq!(rate(b"burst=1"), None);
    }

    #[test]
    fn bucket_fills_and_drains() {
        let bucket = Bucket { excess: 1000, last: 100, held: 0 };
        assert_eq!(bucket.with_one_more(1000, 100), (2000, 0));
        assert_eq!(bucket.with_one_more(1000, 600), (1500, 500));
        assert_eq!(bucket.with_one_more(1000, 9000), (0, 8900));
        let allowance = Allowance { burst: 5000, delay: 1000 };
        assert_eq!(delay(3000, allowance, 2000), 1000);
        assert_eq!(delay(1000, allowance, 2000), 0);
    }
}
