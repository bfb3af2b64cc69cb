//! A configuration generation: what the files say, resolved into what requests need.
//!
//! `decl` collects while files are interpreted, `build` resolves, `lookup` finds servers and locations, `core`, `listen` and `main` hold the core
//! module's settings. A generation never changes; a reload makes a new one and running requests keep theirs.

pub mod build;
pub mod core;
pub mod decl;
pub mod flags;
pub mod ignored;
pub mod listen;
pub mod lookup;
pub mod main;
pub mod mime_types;
pub mod resolver;
pub mod values;

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

pub use build::{Loaded, Location, LocationBuilder, Server, load};
pub use decl::{LocId, LocationKind, ServerId};

use headwater_io::resolver::{Resolver, ResolverOptions};

use crate::flow::error_log::Level;
use crate::script::Variables;
use listen::ListenerKey;
use lookup::ServerNames;

/// One listening address with its servers.
#[derive(Debug)]
pub struct Listener {
    /// Names it.
    pub key: ListenerKey,
    /// Socket options.
    pub options: headwater_io::listener::ListenOptions,
    /// Whether socket options or `bind` were given, so that it is bound beside a wildcard of the same port.
    pub bind: bool,
    /// Whether connections start with a PROXY protocol head.
    pub proxy_protocol: bool,
    /// Its servers by name.
    pub names: ServerNames,
}

/// Everything that requests need of one configuration.
pub struct Conf {
    /// Counts loads, from 1.
    pub number: u64,
    /// Settings of the main and events blocks.
    pub main: main::Main,
    /// Listening addresses.
    pub listeners: rustc_hash::FxHashMap<ListenerKey, Listener>,
    /// Servers.
    pub servers: Vec<Server>,
    /// Locations of all servers.
    pub locations: Vec<Location>,
    /// Directories for temp files, to be made before rights are given up.
    pub temp_dirs: std::collections::BTreeSet<std::path::PathBuf>,
    /// Groups of back ends, named and implicit.
    pub upstreams: Vec<Arc<crate::upstream::peers::Group>>,
    /// Whether connections to back ends are to come from addresses that are not this host's.
    pub transparent: bool,
    /// Groups with servers whose names are looked up at run time.
    pub names: Vec<crate::upstream::names::NamedGroup>,
    /// Health checks of groups.
    pub checks: Vec<Arc<crate::upstream::health::Check>>,
    /// Whether a variable needs the headers of back ends' answers.
    pub keeps_upstream_headers: bool,
    /// The variable table.
    pub variables: Variables,
}

impl Conf {
    /// Puts the configuration into use, when nothing can go wrong with it any more: from here on groups of back ends with a `zone` share their state with the one before.
    pub fn activate(&self) {
        for named in &self.names {
            named.take_over();
        }
        for group in &self.upstreams {
            group.activate();
            if group.zone().is_some() {
                let checks = self.checks.iter().filter(|check| Arc::ptr_eq(&check.group, group));
                group.plan_checks(checks.map(|check| check.planned.clone()).collect());
            }
        }
    }

    /// A location.
    #[allow(clippy::indexing_slicing, reason = "indices are made by the builder of this very table")]
    #[must_use]
    pub fn location(&self, id: LocId) -> &Location {
        &self.locations[id.0 as usize]
    }

    /// A server.
    #[allow(clippy::indexing_slicing, reason = "indices are made by the builder of this very table")]
    #[must_use]
    pub fn server(&self, id: ServerId) -> &Server {
        &self.servers[id.0 as usize]
    }

    /// The listening address of that name.
    #[must_use]
    pub fn listener(&self, key: &ListenerKey) -> Option<&Listener> {
        self.listeners.get(key)
    }
}

/// A generation as one worker holds it: reference counts are not shared between workers.
pub struct Generation {
    conf: Arc<Conf>,
    /// The worker's clients of name servers, made when they are first needed.
    resolvers: RefCell<Vec<(Arc<ResolverOptions>, Rc<Resolver>)>>,
}

impl Generation {
    /// Wraps a configuration for one worker.
    #[must_use]
    pub fn new(conf: Arc<Conf>) -> Self {
        Self { conf, resolvers: RefCell::default() }
    }

    /// This worker's client for a `resolver` directive; all places that inherited the directive share it.
    pub fn resolver(&self, options: &Arc<ResolverOptions>) -> Rc<Resolver> {
        let mut resolvers = self.resolvers.borrow_mut();
        if let Some((_, resolver)) = resolvers.iter().find(|(known, _)| Arc::ptr_eq(known, options)) {
            return resolver.clone();
        }
        let log = self.conf.main.error_log.clone();
        let resolver = Resolver::new(options, Box::new(move |text| log.write(Level::Error, None, text)));
        resolvers.push((options.clone(), resolver.clone()));
        resolver
    }
}

impl Deref for Generation {
    type Target = Conf;
    fn deref(&self) -> &Conf {
        &self.conf
    }
}
