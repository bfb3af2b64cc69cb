//! The way of an HTTP request: phases, modules, filters, upstream and subrequest mechanisms.
//!
//! A configuration is loaded by [`config::load`]; [`flow::worker::run`] serves it on a thread. See `ARCHITECTURE.md`.

pub mod config;
pub mod filters;
pub mod flow;
pub mod modules;
pub mod request;
pub mod script;
pub mod upstream;

#[doc(hidden)]
pub use headwater_conf; // for macros that other crates use

/// The product's name as the `Server` header shows it.
pub const SERVER: &str = "headwater";
/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Name and version as the `Server` header shows them.
pub const SERVER_WITH_VERSION: &str = concat!("headwater/", env!("CARGO_PKG_VERSION"));
