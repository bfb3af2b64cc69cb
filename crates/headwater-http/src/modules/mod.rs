//! The modules: one file per nginx module, and the ordered table in which their handlers run.

pub mod access;
pub mod auth_basic;
pub mod auth_request;
pub mod autoindex;
mod cgi;
pub mod cidr;
pub mod core;
pub mod empty_gif;
pub mod fastcgi;
pub mod geo;
pub mod gzip_static;
pub mod headers;
pub mod health_check;
pub mod index;
pub mod limit_conn;
pub mod limit_req;
pub(crate) mod limit_zone;
pub mod log;
pub mod map;
pub mod memcached;
pub mod mirror;
mod names;
pub mod open_files;
pub mod proxy;
pub mod random_index;
pub mod realip;
pub mod referer;
pub mod rewrite;
pub mod scgi;
pub mod secure_link;
pub mod split_clients;
pub mod static_files;
pub mod stub_status;
pub mod tunnel;
pub mod upstream;
pub mod uwsgi;

use headwater_conf::{Cx, DirectiveDef, Result};

use crate::config::LocationBuilder;
use crate::script::VariableDef;

/// All that the server knows of one module.
pub struct Module {
    /// nginx's name, `ngx_http_proxy_module`.
    pub name: &'static str,
    /// Its directives, in groups.
    pub directives: &'static [&'static [DirectiveDef]],
    /// Its variables.
    pub variables: &'static [VariableDef],
    /// Called once when all files are read, before locations are built.
    pub init: fn(&mut Cx<'_>) -> Result<()>,
    /// Called for every location: adds the handlers and filters that the location's settings ask for.
    pub build: fn(&mut LocationBuilder<'_, '_>) -> Result<()>,
    /// Called once when all locations are built.
    pub finish: fn(&mut Cx<'_>) -> Result<()>,
}

impl Module {
    /// A module of that name with nothing in it, for struct update syntax.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            directives: &[],
            variables: &[],
            init: |_| Ok(()),
            build: |_| Ok(()),
            finish: |_| Ok(()),
        }
    }
}

/// Every module, in the order in which handlers of one phase run.
pub static MODULES: &[&Module] = &[
    &core::MAIN_MODULE,
    &core::MODULE,
    &upstream::MODULE,
    &map::MODULE,
    &geo::MODULE,
    &split_clients::MODULE,
    &referer::MODULE,
    &secure_link::MODULE,
    &rewrite::MODULE,
    &realip::MODULE,
    &limit_req::MODULE,
    &limit_conn::MODULE,
    &access::MODULE,
    &auth_basic::MODULE,
    &auth_request::MODULE,
    &mirror::MODULE,
    &headers::MODULE,
    &proxy::MODULE,
    &fastcgi::MODULE,
    &scgi::MODULE,
    &uwsgi::MODULE,
    &memcached::MODULE,
    &tunnel::MODULE,
    &health_check::MODULE,
    &crate::filters::addition::MODULE,
    &crate::filters::charset::MODULE,
    &crate::filters::slice::MODULE,
    &crate::filters::ssi::MODULE,
    &crate::filters::sub_filter::MODULE,
    &crate::filters::userid::MODULE,
    &crate::filters::gzip::MODULE,
    &crate::filters::gunzip::MODULE,
    &empty_gif::MODULE,
    &stub_status::MODULE,
    &random_index::MODULE,
    &index::MODULE,
    &autoindex::MODULE,
    &gzip_static::MODULE,
    &static_files::MODULE,
    &log::MODULE,
];

/// The modules of one server: the built-in ones, and those of the program that embeds it.
#[derive(Clone, Default)]
pub struct Modules {
    own: Vec<&'static Module>,
}

impl Modules {
    /// Adds a module behind those added before.
    pub fn add(&mut self, module: &'static Module) {
        self.own.push(module);
    }

    /// All modules in the order in which handlers of one phase run. Added ones come before those that serve files, which would leave nothing
    /// to the content handlers behind them.
    pub fn iter(&self) -> impl Iterator<Item = &'static Module> + '_ {
        let files = MODULES.iter().position(|module| std::ptr::eq(*module, &index::MODULE));
        let (front, back) = MODULES.split_at(files.unwrap_or(MODULES.len()));
        front.iter().chain(&self.own).chain(back).copied()
    }
}

/// The names of the built-in modules.
pub fn names() -> impl Iterator<Item = &'static str> {
    // Some modules of nginx are parts of one module here, and are known by their directives.
    let of_directives = MODULES.iter().flat_map(|module| module.directives.iter().copied().flatten());
    MODULES.iter().map(|module| module.name).chain(of_directives.map(|directive| directive.module))
}

/// Writes out what log buffers hold; called when a worker ends.
pub fn flush_logs() {
    log::close_worker_logs();
}
