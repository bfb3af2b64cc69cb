//! ngx_http_upstream_hc_module: `health_check` and `match`.
//!
//! Here checks are read and bound to their groups; `upstream::health` makes them. nginx's counterpart: a module of its commercial version.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_conf::context::{HTTP, LOCATION};
use headwater_conf::value::{parse_milliseconds, parse_number};
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, Value, settings};

use super::Module;
use crate::config::LocationBuilder;
use crate::upstream::health::conditions::Conditions;
use crate::upstream::health::{Check, Kind, is_uri};
use crate::upstream::peers::Planned;

const NAME: &str = "ngx_http_upstream_hc_module";

/// The module.
pub static MODULE: Module =
    Module { directives: &[HealthSettings::DIRECTIVES, DIRECTIVES], build, ..Module::named(NAME) };

settings! {
    /// A location's check.
    pub struct HealthSettings, raw HealthRaw, module "ngx_http_upstream_hc_module" {
        /// Checks the servers of the group that the location passes requests to. A server that fails is not chosen until it passes. The group needs a `zone`.
        "health_check", LOCATION, "[interval=time] [jitter=time] [fails=number] [passes=number] [uri=uri] [mandatory [persistent]] [match=name] [port=number] [type=http | tcp] [keepalive_time=time]", "" => check: Option<HealthCheck> = None;
    }
}

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "match",
    module: NAME,
    contexts: HTTP,
    args: Args::exactly(1).with_block(),
    syntax: "name",
    default: "",
    doc: "Says what answers to health checks must be like. Inside: `status [!] code | code-code ...`, `header [!] name`, `header name =|!=|~|!~ value`, `body ~|!~ regex`, `require $variable ...`; all must hold.\n",
    set: read_match,
}];

/// The `match` blocks by name.
#[derive(Default)]
struct Matches(HashMap<Box<[u8]>, Arc<Conditions>>);

/// The checks of the configuration being loaded.
#[derive(Default)]
pub(crate) struct Checks(pub(crate) Vec<Arc<Check>>);

fn read_match(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let name = directive.arg(0);
    if cx.state::<Matches>().0.contains_key(name) {
        let message = format!("duplicate match \"{}\"", directive.word(0).str());
        return Err(directive.error_at(0, message));
    }
    let mut conditions = Conditions::default();
    for line in cx.entries(directive)? {
        conditions.add(cx, &line)?;
    }
    cx.state::<Matches>().0.insert(name.into(), Arc::new(conditions));
    Ok(())
}

/// `health_check` as written.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    directive: Directive,
    interval: Duration,
    jitter: Duration,
    fails: u32,
    passes: u32,
    uri: Option<Box<[u8]>>,
    mandatory: bool,
    persistent: bool,
    name: Option<Box<[u8]>>,
    port: Option<u16>,
    kind: Kind,
    keepalive_time: Duration,
}

impl Value for HealthCheck {
    const ARGS: Args = Args::at_least(0);
    const INHERITS: bool = false;

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut check = Self {
            directive: directive.clone(),
            interval: Duration::from_secs(5),
            jitter: Duration::ZERO,
            fails: 1,
            passes: 1,
            uri: None,
            mandatory: false,
            persistent: false,
            name: None,
            port: None,
            kind: Kind::Http,
            keepalive_time: Duration::ZERO,
        };
        for (at, word) in directive.args.iter().enumerate() {
            let (key, value) = match word.text.iter().position(|byte| *byte == b'=') {
                Some(equals) => word.text.split_at(equals.saturating_add(1)),
                None => (word.text.as_slice(), [].as_slice()),
            };
            check.take(key, value).ok_or_else(|| directive.invalid_parameter(at))?;
        }
        if check.persistent && !check.mandatory {
            return Err(directive.error("\"persistent\" requires \"mandatory\""));
        }
        if check.kind == Kind::Tcp && (check.uri.is_some() || check.name.is_some()) {
            return Err(directive.error("\"uri\" and \"match\" have no meaning with \"type=tcp\""));
        }
        Ok(check)
    }

    // Each location says for itself.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

impl HealthCheck {
    /// Takes one parameter; nothing for one that is wrong.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let time = || parse_milliseconds(value);
        let count = || parse_number(value).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        match key {
            b"interval=" => self.interval = time().filter(|time| !time.is_zero())?,
            b"jitter=" => self.jitter = time()?,
            b"fails=" => self.fails = count()?,
            b"passes=" => self.passes = count()?,
            b"uri=" if is_uri(value) => self.uri = Some(value.into()),
            b"mandatory" => self.mandatory = true,
            b"persistent" => self.persistent = true,
            b"match=" if !value.is_empty() => self.name = Some(value.into()),
            b"port=" => self.port = count().and_then(|port| u16::try_from(port).ok()).map(Some)?,
            b"keepalive_time=" => self.keepalive_time = time()?,
            b"type=" => {
                self.kind = match value {
                    b"http" => Kind::Http,
                    b"tcp" => Kind::Tcp,
                    _ => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Tells the check from others of its group, in this configuration and the next.
    fn key(&self) -> String {
        let uri = String::from_utf8_lossy(self.uri.as_deref().unwrap_or(b"/"));
        let name = String::from_utf8_lossy(self.name.as_deref().unwrap_or_default());
        format!("{:?} {uri} {name} {}", self.kind, self.port.unwrap_or_default())
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let Some(spec) = builder.own::<HealthRaw>().and_then(|raw| raw.check.get().cloned().flatten()) else {
        return Ok(());
    };
    let directive = &spec.directive;
    let handler = builder.location.content_handler.clone();
    let back_end = handler.as_ref().and_then(|handler| handler.back_end());
    let Some(back_end) = back_end else {
        return Err(directive
            .error("\"health_check\" requires a location that passes requests to a group of servers"));
    };
    let Some(group) = back_end.group.filter(|group| group.declared) else {
        return Err(
            directive.error("\"health_check\" requires an \"upstream\" known when the configuration is read")
        );
    };
    if group.zone().is_none() {
        let message = format!("\"health_check\" requires \"zone\" in upstream \"{}\"", group.name);
        return Err(directive.error(message));
    }
    if spec.kind == Kind::Http && !back_end.speaks_http {
        return Err(directive.error("\"health_check\" of this location must be of \"type=tcp\""));
    }
    let conditions = match &spec.name {
        None => Arc::new(Conditions::usual()),
        Some(name) => {
            let missing = || format!("match \"{}\" not found", String::from_utf8_lossy(name));
            let found = builder.cx.state::<Matches>().0.get(name).cloned();
            found.ok_or_else(|| directive.error(missing()))?
        }
    };
    let key = spec.key();
    let checks = &mut builder.cx.state::<Checks>().0;
    let alike = checks.iter().filter(|other| {
        Arc::ptr_eq(&other.group, group) && other.planned.key.split('#').next() == Some(key.as_str())
    });
    let key = format!("{key}#{}", alike.count()).into();
    checks.push(Arc::new(Check {
        group: group.clone(),
        location: builder.location.id,
        planned: Planned { key, mandatory: spec.mandatory, persistent: spec.persistent },
        name: String::from_utf8_lossy(spec.name.as_deref().unwrap_or_default()).into(),
        kind: spec.kind,
        interval: spec.interval,
        jitter: spec.jitter,
        fails: spec.fails,
        passes: spec.passes,
        uri: spec.uri.clone().unwrap_or_else(|| (*b"/").into()),
        conditions,
        port: spec.port,
        keepalive_time: spec.keepalive_time,
    }));
    Ok(())
}
