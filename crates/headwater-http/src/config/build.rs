//! Declarations to run-time structures: for each location its merged settings, its active handlers and filters.
//!
//! Called once per load. What a location does not configure leaves no trace in it: a phase without handlers costs nothing. nginx's
//! counterpart: `ngx_http_block`, the merge functions, `ngx_http_init_locations`.

use std::any::Any;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_conf::{Cx, Diagnostic, Files, Registry, Result, Scopes, Settings, Source};
use headwater_io::addr::Addr;
use headwater_wire::method::Method;
use rustc_hash::FxHashMap;

use super::core::{CoreSettings, OwnSettings, ServerSettings};
use super::decl::{HttpDecl, LocId, LocationDecl, LocationKind, ServerDecl, ServerId, ServerName};
use super::listen::{Listen, ListenerKey};
use super::lookup::{Locations, ServerNames};
use super::main::{EventSettings, EventsSeen, Main, MainSettings};
use super::{Conf, Listener};
use crate::filters::HeaderFilter;
use crate::flow::error_log::{ErrorLog, ErrorLogSettings, LogFiles};
use crate::flow::phases::{Handler, LogHandler};
use crate::modules::rewrite::Program;
use crate::modules::{MODULES, Modules};
use crate::script::{Complex, Variables};

/// A virtual server.
pub struct Server {
    /// The location that holds the server's own settings.
    pub root: LocId,
    /// Settings that count before the location is known.
    pub settings: Arc<ServerSettings>,
    /// `$server_name`: the first name.
    pub name: Box<str>,
    /// Its locations.
    pub locations: Locations,
    /// Whether a location of it takes `CONNECT` requests.
    pub takes_connect: bool,
    /// Its named locations.
    pub named: HashMap<Box<[u8]>, LocId>,
}

/// A location with all that requests in it need.
pub struct Location {
    /// Its index.
    pub id: LocId,
    /// The server it belongs to.
    pub server: ServerId,
    /// What it stands for.
    pub kind: LocationKind,
    /// Its name as written.
    pub name: Box<[u8]>,
    /// Core settings.
    pub core: Arc<CoreSettings>,
    /// Whether only internal requests may use it.
    pub internal: bool,
    /// `alias`, with the length of the URI's part that it replaces.
    pub alias: Option<(Complex, usize)>,
    /// Locations inside.
    pub children: Locations,
    /// Methods that `limit_except` leaves alone, and the location for the others.
    pub limit_except: Option<(Box<[Method]>, LocId)>,
    /// Whether a URI that lacks only the final slash is redirected.
    pub auto_redirect: bool,
    /// The rewrite phase.
    pub rewrite: Option<Program>,
    /// Handlers of a request that was just read, in order; only the server's own location has them.
    pub post_read: Vec<Box<dyn Handler>>,
    /// Preaccess handlers in order.
    pub preaccess: Vec<Box<dyn Handler>>,
    /// Access handlers in order.
    pub access: Vec<Box<dyn Handler>>,
    /// Precontent handlers in order.
    pub precontent: Vec<Box<dyn Handler>>,
    /// The handler that makes the content, when one was configured; otherwise `content`.
    pub content_handler: Option<Arc<dyn Handler>>,
    /// Content handlers in order.
    pub content: Vec<Box<dyn Handler>>,
    /// Log handlers in order.
    pub log: Vec<Box<dyn LogHandler>>,
    /// Header filters in order.
    pub header_filters: Vec<Box<dyn HeaderFilter>>,
    /// Whether a header filter may log something about a back end, whose URL is put together for that.
    pub filters_log_upstream: bool,
    /// The error log.
    pub error_log: Arc<ErrorLog>,
    settings: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Location {
    /// Whether `CONNECT` requests have a handler here.
    #[must_use]
    pub fn takes_connect(&self) -> bool {
        self.content_handler.as_ref().is_some_and(|handler| handler.takes_connect())
    }

    /// A module's settings that its builder attached.
    #[must_use]
    pub fn settings<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.settings.iter().find_map(|settings| settings.downcast_ref())
    }
}

/// What a module's builder works with: one location being put together.
pub struct LocationBuilder<'b, 'c> {
    /// The load.
    pub cx: &'b mut Cx<'c>,
    /// The declaration.
    pub decl: &'b LocationDecl,
    /// The location so far.
    pub location: Location,
    /// The location around it, complete.
    pub parent: Option<&'b Location>,
}

impl LocationBuilder<'_, '_> {
    /// A module's merged settings here.
    pub fn settings<S: Settings>(&mut self) -> Arc<S> {
        self.cx.scopes.resolve::<S>(self.decl.scope)
    }

    /// A module's merged settings before defaults.
    pub fn merged<S: Settings>(&mut self) -> Arc<S::Raw> {
        self.cx.scopes.merged::<S>(self.decl.scope)
    }

    /// What this very block set, without its outer blocks.
    #[must_use]
    pub fn own<R: Any>(&self) -> Option<&R> {
        self.cx.scopes.peek(self.decl.scope)
    }

    /// An error that only the merged settings show; nginx reports those at the end of the `http` block.
    #[must_use]
    pub fn error(&mut self, message: String) -> Box<Diagnostic> {
        let end = self.cx.state::<HttpEnd>().0;
        let mut error = self.decl.directive.error(message);
        error.position = Some(end);
        error
    }

    /// Has a directory for temp files made before rights are given up.
    pub fn needs_directory(&mut self, path: PathBuf) {
        self.cx.state::<TempDirs>().0.insert(path);
    }

    /// Keeps settings with the location for use at run time (`Location::settings`).
    pub fn attach<T: Any + Send + Sync>(&mut self, settings: Arc<T>) {
        self.location.settings.push(settings);
    }
}

/// File and line of the end of the `http` block.
#[derive(Default)]
struct HttpEnd((u32, u32));

/// Directories for temp files.
#[derive(Default)]
struct TempDirs(std::collections::BTreeSet<PathBuf>);

/// A loaded configuration with what the command line wants to know of it.
pub struct Loaded {
    /// The configuration, or why there is none.
    pub outcome: Result<Arc<Conf>>,
    /// Warnings and notices in order.
    pub warnings: Vec<Diagnostic>,
    /// The files read.
    pub files: Files,
    /// The log files that are open now, for the next load and for USR1.
    pub log_files: LogFiles,
}

/// How to load.
pub struct LoadOptions<'a> {
    /// The main file.
    pub file: PathBuf,
    /// `-p`.
    pub prefix: PathBuf,
    /// `-g`.
    pub globals: Option<String>,
    /// `-e`.
    pub error_log: Option<PathBuf>,
    /// Where bytes come from.
    pub source: &'a dyn Source,
    /// The modules.
    pub modules: &'a Modules,
    /// Log files of the generation before, which stay open.
    pub log_files: LogFiles,
    /// The number of the generation.
    pub number: u64,
}

/// The directive records of the built-in modules.
#[must_use]
pub fn registry() -> Registry {
    Registry::new(MODULES.iter().flat_map(|module| module.directives.iter().copied()))
}

/// Reads and builds a configuration.
#[must_use]
pub fn load(options: LoadOptions<'_>) -> Loaded {
    let modules = options.modules;
    let registry = Registry::new(modules.iter().flat_map(|module| module.directives.iter().copied()));
    let conf_prefix = options.file.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut cx = Cx::new(&registry, options.source, options.prefix.clone(), conf_prefix);
    for module in modules.iter() {
        cx.state::<Variables>().declare(module.variables);
    }
    *cx.state::<LogFiles>() = options.log_files;
    cx.state::<LogFiles>().set_default(options.error_log.as_deref(), &options.prefix);
    let outcome = cx
        .load(&options.file, options.globals.as_deref())
        .and_then(|()| build(&mut cx, modules, options.number))
        .map(Arc::new);
    let log_files = cx.take_state::<LogFiles>();
    Loaded { outcome, warnings: cx.warnings, files: cx.files, log_files }
}

fn build(cx: &mut Cx<'_>, modules: &Modules, number: u64) -> Result<Conf> {
    let events = cx.take_state::<EventsSeen>();
    let Some(events) = events.scope else {
        return Err(Diagnostic::new("no \"events\" section in configuration"));
    };
    let main = Main {
        settings: cx.scopes.resolve::<MainSettings>(Scopes::ROOT),
        events: cx.scopes.resolve::<EventSettings>(events),
        prefix: cx.prefix.clone(),
        error_log: error_log(cx, Scopes::ROOT)?,
    };
    for module in modules.iter() {
        (module.init)(cx)?;
    }
    let decl = cx.take_state::<HttpDecl>();
    if let Some(http) = &decl.directive {
        let line = http.block.as_ref().map_or(http.line, |block| block.end_line);
        *cx.state::<HttpEnd>() = HttpEnd((http.name.span.file, line));
    }
    let mut locations: Vec<Location> = Vec::with_capacity(decl.locations.len());
    for (index, declared) in decl.locations.iter().enumerate() {
        let id = LocId(u32::try_from(index).unwrap_or(u32::MAX));
        let location = build_location(cx, modules, id, declared, &locations)?;
        locations.push(location);
    }
    let servers = build_servers(cx, &decl, &mut locations)?;
    let listeners = build_listeners(cx, &decl)?;
    let names = crate::modules::upstream::named_groups(cx, decl.scope)?;
    for module in modules.iter() {
        (module.finish)(cx)?;
    }
    let mut variables = cx.take_state::<Variables>();
    variables.finish()?;
    let upstreams = cx.take_state::<crate::upstream::peers::Groups>().finish();
    let keeps_upstream_headers =
        variables.uses_prefix("upstream_http_") || variables.uses_prefix("upstream_cookie_");
    let mut temp_dirs = cx.take_state::<TempDirs>().0;
    temp_dirs
        .extend(locations.iter().map(|location| location.core.client_body_temp_path.directory(&main.prefix)));
    Ok(Conf {
        temp_dirs,
        number,
        main,
        listeners,
        servers,
        locations,
        upstreams,
        checks: cx.take_state::<crate::modules::health_check::Checks>().0,
        transparent: cx.take_state::<crate::upstream::sockets::Transparent>().0,
        names,
        keeps_upstream_headers,
        variables,
    })
}

fn error_log(cx: &mut Cx<'_>, scope: headwater_conf::ScopeId) -> Result<Arc<ErrorLog>> {
    let settings = cx.scopes.resolve::<ErrorLogSettings>(scope);
    cx.state::<LogFiles>().error_log(&settings)
}

fn build_location(
    cx: &mut Cx<'_>,
    modules: &Modules,
    id: LocId,
    decl: &LocationDecl,
    built: &[Location],
) -> Result<Location> {
    let core = cx.scopes.resolve::<CoreSettings>(decl.scope);
    let own = cx.scopes.resolve::<OwnSettings>(decl.scope);
    let parent = decl.parent.and_then(|parent| built.get(parent.0 as usize));
    let inherits = matches!(decl.kind, LocationKind::If | LocationKind::LimitExcept(_));
    let alias = match (&own.alias, parent) {
        (Some(alias), _) => Some((alias.0.clone(), decl.name.len())),
        (None, Some(parent)) if inherits => parent.alias.clone(),
        (None, _) => None,
    };
    let error_log = error_log(cx, decl.scope)?;
    let location = Location {
        id,
        server: decl.server,
        kind: decl.kind.clone(),
        name: decl.name.clone(),
        core,
        internal: own.internal.0,
        alias,
        children: Locations::default(),
        limit_except: None,
        auto_redirect: false,
        rewrite: None,
        post_read: Vec::new(),
        preaccess: Vec::new(),
        access: Vec::new(),
        precontent: Vec::new(),
        content_handler: None,
        content: Vec::new(),
        log: Vec::new(),
        header_filters: Vec::new(),
        filters_log_upstream: false,
        error_log,
        settings: Vec::new(),
    };
    let mut builder = LocationBuilder { cx, decl, location, parent };
    for module in modules.iter() {
        (module.build)(&mut builder)?;
    }
    for filter in crate::filters::FILTERS {
        (filter)(&mut builder)?;
    }
    let mut location = builder.location;
    if inherits && location.content_handler.is_none() {
        location.content_handler = parent.and_then(|parent| parent.content_handler.clone());
    }
    if let (Some(id), None) = (decl.limit_except, &location.limit_except) {
        location.limit_except = Some((Box::default(), id));
    }
    Ok(location)
}

/// Puts each location into its level's tables.
fn build_servers(cx: &mut Cx<'_>, decl: &HttpDecl, locations: &mut [Location]) -> Result<Vec<Server>> {
    let mut servers = Vec::with_capacity(decl.servers.len());
    for declared in &decl.servers {
        let name = match declared.names.first() {
            Some((ServerName::Plain(name), _)) => name.clone(),
            Some((ServerName::Regex(pattern), _)) => format!("~{}", pattern.pattern.source()).into(),
            Some((ServerName::Never, directive)) => directive.word(0).str().into(),
            None => Box::default(),
        };
        let settings = cx.scopes.resolve::<ServerSettings>(declared.scope);
        let name: Box<str> = name.strip_prefix('.').map_or(name.clone(), Into::into);
        servers.push(Server {
            root: declared.root,
            settings,
            name,
            locations: Locations::default(),
            takes_connect: false,
            named: HashMap::new(),
        });
    }
    for location in locations.iter().filter(|location| location.takes_connect()) {
        if let Some(server) = servers.get_mut(location.server.0 as usize) {
            server.takes_connect = true;
        }
    }
    for (index, declared) in decl.locations.iter().enumerate() {
        let id = LocId(u32::try_from(index).unwrap_or(u32::MAX));
        if let LocationKind::LimitExcept(methods) = &declared.kind {
            if let Some(parent) = declared.parent.and_then(|parent| locations.get_mut(parent.0 as usize)) {
                parent.limit_except = Some((methods.clone(), id));
            }
            continue;
        }
        let Some(server) = servers.get_mut(declared.server.0 as usize) else { continue };
        let level = match declared.parent {
            Some(parent) if parent != server.root => match locations.get_mut(parent.0 as usize) {
                Some(parent) => &mut parent.children,
                None => continue,
            },
            _ => &mut server.locations,
        };
        let fresh = match &declared.kind {
            LocationKind::Exact => level.add_exact(&declared.name, id),
            LocationKind::Prefix(stops) => level.add_prefix(&declared.name, id, *stops),
            LocationKind::Regex(pattern) => {
                level.add_regex(pattern.clone(), id);
                true
            }
            // Of several with one name the first is used.
            LocationKind::Named => {
                server.named.entry(declared.name.clone()).or_insert(id);
                true
            }
            LocationKind::Server | LocationKind::If | LocationKind::LimitExcept(_) => true,
        };
        if !fresh {
            let name = String::from_utf8_lossy(&declared.name);
            return Err(declared.directive.error(format!("duplicate location \"{name}\"")));
        }
    }
    for server in &mut servers {
        server.locations.finish();
    }
    for location in locations {
        location.children.finish();
    }
    Ok(servers)
}

fn default_listen(server: &ServerDecl) -> Listen {
    let port = if headwater_io::process::is_root() { 80 } else { 8000 };
    let addr = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port);
    Listen {
        options: headwater_io::listener::ListenOptions::new(Addr::Inet(addr)),
        set: false,
        default_server: false,
        proxy_protocol: false,
        directive: server.directive.clone(),
    }
}

fn build_listeners(cx: &mut Cx<'_>, decl: &HttpDecl) -> Result<FxHashMap<ListenerKey, Listener>> {
    let mut listeners: FxHashMap<ListenerKey, Listener> = FxHashMap::default();
    let mut explicit: HashMap<ListenerKey, (bool, bool)> = HashMap::new();
    for (index, server) in decl.servers.iter().enumerate() {
        let id = ServerId(u32::try_from(index).unwrap_or(u32::MAX));
        let fallback;
        let listens = if server.listens.is_empty() {
            fallback = [default_listen(server)];
            fallback.as_slice()
        } else {
            server.listens.as_slice()
        };
        for listen in listens {
            let key: ListenerKey = Arc::new(listen.options.addr.clone());
            let (has_options, has_default) = explicit.entry(key.clone()).or_default();
            let listener = listeners.entry(key.clone()).or_insert_with(|| Listener {
                key: key.clone(),
                options: listen.options.clone(),
                bind: false,
                proxy_protocol: listen.proxy_protocol,
                names: ServerNames::with_default(id),
            });
            let text = listen.directive.word(0).str().into_owned();
            if listen.set {
                if *has_options {
                    let message = format!("duplicate listen options for {}", listen.options.addr);
                    return Err(listen.directive.error(message));
                }
                *has_options = true;
                listener.bind = true;
                listener.options = listen.options.clone();
            }
            if listen.proxy_protocol && !listener.proxy_protocol {
                listener.proxy_protocol = true;
                let message = format!("protocol options redefined for {}", listen.options.addr);
                cx.warn(&listen.directive, message);
            }
            if listen.default_server {
                if *has_default {
                    let message = format!("a duplicate default server for {text}");
                    let message = message.replace(&text, &listen.options.addr.to_string());
                    return Err(listen.directive.error(message));
                }
                *has_default = true;
                listener.names.default = id;
            }
            add_names(cx, &mut listener.names, server, id, &listen.options.addr);
        }
    }
    listeners.values_mut().for_each(|listener| listener.names.finish());
    Ok(listeners)
}

fn add_names(cx: &mut Cx<'_>, names: &mut ServerNames, server: &ServerDecl, id: ServerId, addr: &Addr) {
    let add_plain = |cx: &mut Cx<'_>, names: &mut ServerNames, name: &str| {
        if !names.add(name, id) && names.owner(name) != Some(id) {
            let message = format!("conflicting server name \"{name}\" on {addr}, ignored");
            let mut warning = Diagnostic::new(message).with_level(headwater_conf::Level::Warn);
            warning.position = None;
            cx.warnings.push(*warning);
        }
    };
    if server.names.is_empty() {
        add_plain(cx, names, "");
    }
    for (name, _) in &server.names {
        match name {
            ServerName::Plain(name) => add_plain(cx, names, if &**name == "\"\"" { "" } else { name }),
            ServerName::Regex(pattern) => names.add_regex(pattern.clone(), id),
            ServerName::Never => {}
        }
    }
}
