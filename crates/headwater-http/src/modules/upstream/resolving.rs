//! `resolver` and `resolver_timeout` of an `upstream` block, `resolve` and `service=` of its servers.
//!
//! The lookups themselves are in `upstream::names`. nginx's counterpart: `ngx_http_upstream_resolver`, parts of `ngx_http_upstream_server` and
//! `ngx_http_upstream_init_round_robin`.

use std::net::IpAddr;
use std::sync::Arc;

use headwater_conf::context::UPSTREAM;
use headwater_conf::value::Milliseconds;
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result, ScopeId, Value};

use super::{Building, NAME};
use crate::config::core::CoreSettings;
use crate::config::resolver::{ResolverValue, host_and_port};
use crate::upstream::names::{NamedGroup, NamedServer};
use crate::upstream::peers::{Group, Peer};
use crate::upstream::target::port_of;

pub(super) const DIRECTIVES: &[DirectiveDef] = &[
    DirectiveDef {
        name: "resolver",
        module: NAME,
        contexts: UPSTREAM,
        args: Args::at_least(1),
        syntax: "address ... [valid=time] [ipv4=on|off] [ipv6=on|off]",
        default: "",
        doc: "Sets the name servers for servers with `resolve`; without it those of `http` are asked.\n",
        set: |cx, directive| {
            let mut value = cx.state::<Building>().resolving.resolver.take();
            ResolverValue::set(&mut value, cx, directive)?;
            cx.state::<Building>().resolving.resolver = value;
            Ok(())
        },
    },
    DirectiveDef {
        name: "resolver_timeout",
        module: NAME,
        contexts: UPSTREAM,
        args: Args::exactly(1),
        syntax: "time",
        default: "30s",
        doc: "Limits the time in which a name must be resolved.\n",
        set: |cx, directive| {
            let mut value = cx.state::<Building>().resolving.timeout.take();
            Milliseconds::set(&mut value, cx, directive)?;
            cx.state::<Building>().resolving.timeout = value;
            Ok(())
        },
    },
];

/// What one `server` says of looking its name up.
#[derive(Default)]
pub(super) struct Resolve {
    pub(super) resolve: bool,
    pub(super) service: Option<Box<str>>,
}

impl Resolve {
    /// The server, if its name is to be looked up at run time. An address in digits is not.
    pub(super) fn server(
        self,
        directive: &Directive,
        template: &Peer,
        backup: bool,
    ) -> Result<Option<NamedServer>> {
        let text = directive.word(0).str();
        let fail = |message: String| directive.error_at(0, message);
        if !self.resolve {
            return match self.service {
                None => Ok(None),
                Some(_) => Err(fail(format!("service upstream \"{text}\" requires \"resolve\" parameter"))),
            };
        }
        let needs_name = || fail(format!("service upstream \"{text}\" requires domain name"));
        let has_port = || fail(format!("service upstream \"{text}\" may not have port"));
        if text.starts_with("unix:") {
            return if self.service.is_some() { Err(has_port()) } else { Ok(None) };
        }
        let (host, port) =
            host_and_port(&text, 80).map_err(|words| fail(format!("{words} in upstream \"{text}\"")))?;
        if self.service.is_some() && port_of(&text).is_some() {
            return Err(has_port());
        }
        if host.parse::<IpAddr>().is_ok() {
            return if self.service.is_some() { Err(needs_name()) } else { Ok(None) };
        }
        Ok(Some(NamedServer {
            template: template.clone(),
            host: host.into(),
            port,
            service: self.service,
            backup,
        }))
    }
}

/// What an `upstream` block says of looking names up.
#[derive(Default)]
pub(super) struct Resolving {
    pub(super) servers: Vec<NamedServer>,
    resolver: Option<ResolverValue>,
    timeout: Option<Milliseconds>,
}

impl Resolving {
    /// Refuses names without a zone for what is found.
    pub(super) fn check(&self, cx: &Cx<'_>, directive: &Directive, zone: bool) -> Result<()> {
        if zone || self.servers.is_empty() {
            return Ok(());
        }
        let upstream = place(cx, directive);
        let message = format!("resolving names at run time requires {upstream} to be in shared memory");
        let mut error = Diagnostic::new(message);
        error.span = Some(directive.name.span);
        Err(error)
    }

    /// Puts the group on the list of those that are completed when all of `http` was read.
    pub(super) fn declare(
        self,
        cx: &mut Cx<'_>,
        directive: &Directive,
        (group, fixed): (Arc<Group>, (Vec<Peer>, Vec<Peer>)),
        backups: bool,
    ) {
        if !self.servers.is_empty() {
            let declared = Declared { resolving: self, group, fixed, backups, directive: directive.clone() };
            cx.state::<AllDeclared>().0.push(declared);
        }
    }
}

struct Declared {
    resolving: Resolving,
    group: Arc<Group>,
    fixed: (Vec<Peer>, Vec<Peer>),
    backups: bool,
    directive: Directive,
}

/// The groups with names of the configuration being loaded.
#[derive(Default)]
struct AllDeclared(Vec<Declared>);

/// `upstream "u" in FILE:LINE`, as it stands within nginx's messages.
fn place(cx: &Cx<'_>, directive: &Directive) -> String {
    let file = cx.files.path(directive.name.span.file).display();
    format!("upstream \"{}\" in {file}:{}", directive.word(0).str(), directive.line)
}

/// The groups whose servers are looked up at run time, with the resolver of `http` where they have none of their own.
///
/// # Errors
/// When there is neither.
pub fn named_groups(cx: &mut Cx<'_>, http: Option<ScopeId>) -> Result<Vec<NamedGroup>> {
    let declared = cx.take_state::<AllDeclared>().0;
    let mut groups = Vec::with_capacity(declared.len());
    for Declared { resolving, group, fixed, backups, directive } in declared {
        let core = http.map(|http| cx.scopes.resolve::<CoreSettings>(http));
        let outer = core.as_ref().and_then(|core| core.resolver.clone());
        let Some(resolver) = resolving.resolver.or(outer) else {
            let upstream = place(cx, &directive);
            let message = format!("no resolver defined to resolve names at run time in {upstream}");
            let mut error = Diagnostic::new(message);
            error.span = Some(directive.name.span);
            return Err(error);
        };
        let outer = core.map_or(Milliseconds::from_secs(30), |core| core.resolver_timeout);
        let timeout = *resolving.timeout.unwrap_or(outer);
        groups.push(NamedGroup {
            group,
            fixed,
            servers: resolving.servers,
            resolver: resolver.0,
            timeout,
            backups,
        });
    }
    Ok(groups)
}
