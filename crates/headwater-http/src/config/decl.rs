//! What the configuration declares, in file order: servers, names, locations. `config::build` turns it into run-time structures.
//!
//! Holds the setters of `http`, `server`, `location`, `server_name`, `limit_except`. nginx's counterpart: `ngx_http_core_server`,
//! `ngx_http_core_location`.

use headwater_conf::context::{HTTP, LIMIT_EXCEPT, LOCATION, MAIN, SERVER};
use headwater_conf::{Args, Contexts, Cx, Directive, DirectiveDef, Result, ScopeId};
use headwater_wire::method::Method;

use super::listen::{Listen, listen};
use crate::request::PatternWithNames;

/// Index of a location in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LocId(pub u32);

/// Index of a server in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ServerId(pub u32);

/// What a location stands for.
#[derive(Debug, Clone)]
pub enum LocationKind {
    /// The server's own settings, before a location is found.
    Server,
    /// `location = /x`.
    Exact,
    /// `location /x` or, with `true`, `location ^~ /x`.
    Prefix(bool),
    /// `location ~ x`.
    Regex(PatternWithNames),
    /// `location @x`.
    Named,
    /// `if` in a location or server.
    If,
    /// `limit_except` and the methods it leaves alone.
    LimitExcept(Box<[Method]>),
}

/// One declared location.
#[derive(Debug, Clone)]
pub struct LocationDecl {
    /// Its settings.
    pub scope: ScopeId,
    /// The server it belongs to.
    pub server: ServerId,
    /// The location around it.
    pub parent: Option<LocId>,
    /// What it stands for.
    pub kind: LocationKind,
    /// Its name: the URI, the pattern's text or the `@name`.
    pub name: Box<[u8]>,
    /// Where it stands.
    pub directive: Directive,
    /// Its `limit_except`.
    pub limit_except: Option<LocId>,
}

/// One `server_name`.
#[derive(Debug, Clone)]
pub enum ServerName {
    /// A name, lower-case; it may start with `*.` or `.`, or end with `.*`.
    Plain(Box<str>),
    /// A regular expression.
    Regex(PatternWithNames),
    /// A name with a `*` where it means nothing: nginx takes it, and no host ever is called so.
    Never,
}

fn well_placed_stars(name: &str) -> bool {
    match name.matches('*').count() {
        0 => true,
        1 => (name.starts_with("*.") || name.ends_with(".*")) && name.len() > 2,
        _ => false,
    }
}

/// One declared server.
#[derive(Debug, Clone)]
pub struct ServerDecl {
    /// Its settings.
    pub scope: ScopeId,
    /// Its location of kind `Server`.
    pub root: LocId,
    /// Its `listen` directives.
    pub listens: Vec<Listen>,
    /// Its names in order.
    pub names: Vec<(ServerName, Directive)>,
    /// Where it stands.
    pub directive: Directive,
}

/// Everything declared in `http`.
#[derive(Debug, Default)]
pub struct HttpDecl {
    /// The settings of `http`, when there is one.
    pub scope: Option<ScopeId>,
    /// Line of the directive, for errors found when the block is complete.
    pub directive: Option<Directive>,
    /// Servers in order.
    pub servers: Vec<ServerDecl>,
    /// Locations in order.
    pub locations: Vec<LocationDecl>,
    /// The location being read, innermost last.
    open: Vec<LocId>,
}

impl HttpDecl {
    /// The server being read.
    pub fn current_server(&mut self) -> Option<&mut ServerDecl> {
        self.servers.last_mut()
    }

    /// The location being read.
    #[must_use]
    pub fn current_location(&self) -> Option<LocId> {
        self.open.last().copied()
    }

    /// A declared location.
    #[must_use]
    pub fn location(&self, id: LocId) -> Option<&LocationDecl> {
        self.locations.get(id.0 as usize)
    }

    fn add(&mut self, decl: LocationDecl) -> LocId {
        let id = LocId(u32::try_from(self.locations.len()).unwrap_or(u32::MAX));
        self.locations.push(decl);
        id
    }
}

/// Whether the block being read is a named location.
pub fn in_named_location(cx: &mut Cx<'_>) -> bool {
    let decl = cx.state::<HttpDecl>();
    decl.current_location()
        .and_then(|id| decl.location(id))
        .is_some_and(|location| matches!(location.kind, LocationKind::Named))
}

/// Reads a block as a new location of some kind inside the current one.
pub fn enter_location(
    cx: &mut Cx<'_>,
    directive: &Directive,
    context: Contexts,
    kind: LocationKind,
    name: &[u8],
) -> Result<LocId> {
    let scope = cx.scopes.open(cx.scope);
    let decl = cx.state::<HttpDecl>();
    let server = ServerId(u32::try_from(decl.servers.len().saturating_sub(1)).unwrap_or(u32::MAX));
    let parent = decl.current_location();
    let location = LocationDecl {
        scope,
        server,
        parent,
        kind,
        name: name.into(),
        directive: directive.head(),
        limit_except: None,
    };
    let id = decl.add(location);
    decl.open.push(id);
    let outcome = cx.enter_scope(directive, context, scope);
    cx.state::<HttpDecl>().open.pop();
    outcome.map(|()| id)
}

/// The block directives of the core module.
pub const DIRECTIVES: &[DirectiveDef] = &[
    DirectiveDef {
        name: "http",
        module: "ngx_http_core_module",
        contexts: MAIN,
        args: Args::exactly(0).with_block(),
        syntax: "",
        default: "",
        doc: "Holds the configuration of the HTTP server.\n",
        set: http,
    },
    DirectiveDef {
        name: "server",
        module: "ngx_http_core_module",
        contexts: HTTP,
        args: Args::exactly(0).with_block(),
        syntax: "",
        default: "",
        doc: "Holds the configuration of a virtual server.\n",
        set: server,
    },
    DirectiveDef {
        name: "listen",
        module: "ngx_http_core_module",
        contexts: SERVER,
        args: Args::at_least(1),
        syntax: "address[:port] [parameters] ;; port [parameters] ;; unix:path [parameters]",
        default: "*:80 | *:8000",
        doc: "Sets an address on which the server accepts connections. Parameters: `default_server`, `proxy_protocol`, `backlog=`, `rcvbuf=`, `sndbuf=`, `fastopen=`, `deferred`, `bind`, `ipv6only=`, `reuseport`, `so_keepalive=`.\n",
        set: listen,
    },
    DirectiveDef {
        name: "server_name",
        module: "ngx_http_core_module",
        contexts: SERVER,
        args: Args::at_least(1),
        syntax: "name ...",
        default: "\"\"",
        doc: "Sets the names of the server: exact, with a leading or trailing `*`, or a regular expression after `~`.\n",
        set: server_name,
    },
    DirectiveDef {
        name: "location",
        module: "ngx_http_core_module",
        contexts: SERVER.or(LOCATION),
        args: Args::range(1, 2).with_block(),
        syntax: "[ = | ~ | ~* | ^~ ] uri ;; @name",
        default: "",
        doc: "Holds the configuration for requests whose URI matches.\n",
        set: location,
    },
    DirectiveDef {
        name: "limit_except",
        module: "ngx_http_core_module",
        contexts: LOCATION,
        args: Args::at_least(1).with_block(),
        syntax: "method ...",
        default: "",
        doc: "Holds the configuration for requests with any other method. GET includes HEAD.\n",
        set: limit_except,
    },
];

fn http(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    if cx.state::<HttpDecl>().scope.is_some() {
        return Err(directive.duplicate());
    }
    let scope = cx.scopes.open(cx.scope);
    let decl = cx.state::<HttpDecl>();
    decl.scope = Some(scope);
    decl.directive = Some(directive.head());
    cx.enter_scope(directive, HTTP, scope)
}

fn server(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let scope = cx.scopes.open(cx.scope);
    let decl = cx.state::<HttpDecl>();
    let id = ServerId(u32::try_from(decl.servers.len()).unwrap_or(u32::MAX));
    let root = decl.add(LocationDecl {
        scope,
        server: id,
        parent: None,
        kind: LocationKind::Server,
        name: Box::default(),
        directive: directive.head(),
        limit_except: None,
    });
    decl.servers.push(ServerDecl {
        scope,
        root,
        listens: Vec::new(),
        names: Vec::new(),
        directive: directive.head(),
    });
    decl.open.push(root);
    let outcome = cx.enter_scope(directive, SERVER, scope);
    cx.state::<HttpDecl>().open.pop();
    outcome
}

fn server_name(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let mut names = Vec::new();
    for (index, word) in directive.args.iter().enumerate() {
        let text = word.str();
        if let Some(source) = text.strip_prefix('~') {
            if source.is_empty() {
                return Err(directive.error_at(index, format!("empty regex in server name \"{text}\"")));
            }
            let pattern = PatternWithNames::compile(cx, directive, index, source.as_bytes(), true)?;
            names.push((ServerName::Regex(pattern), directive.clone()));
            continue;
        }
        if text.contains('/') {
            cx.warn(directive, format!("server name \"{text}\" has suspicious symbols"));
        }
        if text == "$hostname" {
            let host = headwater_io::process::hostname().to_ascii_lowercase();
            names.push((ServerName::Plain(host.into()), directive.clone()));
            continue;
        }
        let name = text.to_ascii_lowercase();
        if name.is_empty() && !directive.word(index).quoted || name == "." || name == "*" {
            return Err(directive.error_at(index, format!("server name \"{text}\" is invalid")));
        }
        if !well_placed_stars(&name) {
            names.push((ServerName::Never, directive.clone()));
            continue;
        }
        names.push((ServerName::Plain(name.into()), directive.clone()));
    }
    if let Some(server) = cx.state::<HttpDecl>().current_server() {
        server.names.extend(names);
    }
    Ok(())
}

fn location(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let (kind, name) = location_kind(cx, directive)?;
    check_nesting(cx, directive, &kind, &name)?;
    enter_location(cx, directive, LOCATION, kind, &name).map(drop)
}

fn location_kind(cx: &mut Cx<'_>, directive: &Directive) -> Result<(LocationKind, Vec<u8>)> {
    if directive.args.len() == 2 {
        let name = directive.arg(1).to_vec();
        return match directive.arg(0) {
            b"=" => Ok((LocationKind::Exact, name)),
            b"^~" => Ok((LocationKind::Prefix(true), name)),
            b"~" => {
                Ok((LocationKind::Regex(PatternWithNames::compile(cx, directive, 1, &name, false)?), name))
            }
            b"~*" => {
                Ok((LocationKind::Regex(PatternWithNames::compile(cx, directive, 1, &name, true)?), name))
            }
            _ => {
                let message = format!("invalid location modifier \"{}\"", directive.word(0).str());
                Err(directive.error_at(0, message))
            }
        };
    }
    let word = directive.arg(0).to_vec();
    Ok(match word.as_slice() {
        [b'=', rest @ ..] => (LocationKind::Exact, rest.to_vec()),
        [b'^', b'~', rest @ ..] => (LocationKind::Prefix(true), rest.to_vec()),
        [b'~', b'*', rest @ ..] => {
            (LocationKind::Regex(PatternWithNames::compile(cx, directive, 0, rest, true)?), rest.to_vec())
        }
        [b'~', rest @ ..] => {
            (LocationKind::Regex(PatternWithNames::compile(cx, directive, 0, rest, false)?), rest.to_vec())
        }
        [b'@', ..] => (LocationKind::Named, word),
        _ => (LocationKind::Prefix(false), word),
    })
}

fn check_nesting(cx: &mut Cx<'_>, directive: &Directive, kind: &LocationKind, name: &[u8]) -> Result<()> {
    let decl = cx.state::<HttpDecl>();
    let Some(outer) = decl.current_location().and_then(|id| decl.location(id)) else { return Ok(()) };
    let shown = String::from_utf8_lossy(name).into_owned();
    let outer_name = String::from_utf8_lossy(&outer.name).into_owned();
    match outer.kind {
        LocationKind::Server => return Ok(()),
        LocationKind::Exact => {
            let message =
                format!("location \"{shown}\" cannot be inside the exact location \"{outer_name}\"");
            return Err(directive.error(message));
        }
        LocationKind::Named => {
            let message =
                format!("location \"{shown}\" cannot be inside the named location \"{outer_name}\"");
            return Err(directive.error(message));
        }
        _ => {}
    }
    if matches!(kind, LocationKind::Named) {
        let message = format!("named location \"{shown}\" can be on the server level only");
        return Err(directive.error(message));
    }
    if matches!(outer.kind, LocationKind::Prefix(_))
        && matches!(kind, LocationKind::Exact | LocationKind::Prefix(_))
        && !name.starts_with(&outer.name)
    {
        return Err(directive.error(format!("location \"{shown}\" is outside location \"{outer_name}\"")));
    }
    Ok(())
}

fn limit_except(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let decl = cx.state::<HttpDecl>();
    let here = decl.current_location();
    if here.and_then(|id| decl.location(id)).is_some_and(|location| location.limit_except.is_some()) {
        return Err(directive.duplicate());
    }
    let mut methods = Vec::new();
    for (index, word) in directive.args.iter().enumerate() {
        let method = Method::parse(&word.text.to_ascii_uppercase());
        if matches!(method, Method::Other | Method::Connect | Method::Trace) {
            return Err(directive.error_at(index, format!("invalid method \"{}\"", word.str())));
        }
        methods.push(method);
        if method == Method::Get {
            methods.push(Method::Head);
        }
    }
    let kind = LocationKind::LimitExcept(methods.into());
    let id = enter_location(cx, directive, LIMIT_EXCEPT, kind, b"")?;
    let decl = cx.state::<HttpDecl>();
    if let Some(location) = here.and_then(|here| decl.locations.get_mut(here.0 as usize)) {
        location.limit_except = Some(id);
    }
    Ok(())
}
