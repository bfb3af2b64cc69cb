//! Sans-IO wire formats: HTTP/1 heads, chunked bodies, FastCGI records, SCGI, uwsgi, memcached, URIs, ranges, dates, PROXY protocol.
//!
//! Everything here looks at bytes and returns values: no sockets, no clocks, no tasks. Incremental parsers give the
//! same result for any split of their input. Called by the rooms of `headwater-http`; nginx counterparts are named at
//! the top of each file.

pub mod accept_encoding;
pub mod base64;
pub mod cgi;
pub mod date;
pub mod escape;
pub mod etag;
pub mod fastcgi;
pub mod headers;
pub mod host;
pub mod http1;
mod known;
pub mod memcached;
pub mod method;
pub mod proxy_protocol;
pub mod range;
pub mod scgi;
mod span;
pub mod ssi;
pub mod uri;
pub mod uwsgi;

pub use headers::{HeaderList, HeaderRef, KnownHeader, Line, Span};
pub use method::Method;
