//! The nginx configuration language: lexer, parser with spans, directive records, settings, diagnostics.
//!
//! The way of a configuration: [`source`] reads bytes, [`parse`] turns them into a tree of [`Directive`]s with spans,
//! [`interpret`] walks that tree in file order and calls the setter of each declared directive ([`directive`]), which stores
//! values ([`value`]) in the raw settings of the current block ([`scope`]); the user of this crate then resolves those blocks into
//! its run-time structures. Everything that can go wrong is a [`Diagnostic`] with nginx's text.
//!
//! nginx's counterpart: `src/core/ngx_conf_file.c`.

pub mod diagnostic;
pub mod directive;
pub mod docs;
pub mod interpret;
mod lexer;

pub mod parse;
pub mod scope;
pub mod settings;
pub mod source;
pub mod value;

pub use diagnostic::{Diagnostic, Level, Result};
pub use directive::{Args, Contexts, DirectiveDef, context};
pub use interpret::{Cx, Registry};
pub use parse::{Directive, Position, Span, Word};
pub use scope::{ScopeId, Scopes, Settings};
pub use settings::Setting;
pub use source::{FileSource, Files, MemorySource, Source};
pub use value::Value;
