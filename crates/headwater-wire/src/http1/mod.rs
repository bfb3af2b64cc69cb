//! HTTP/1: request and response heads, what they mean for the body, chunked bodies.
//!
//! Called by the rooms that read from clients and by the proxy protocol. nginx counterparts: `ngx_http_parse.c`,
//! `ngx_http_request.c`.

pub mod chunked;
pub(crate) mod header_line;
pub mod request;
mod request_line;
pub mod response;
pub mod semantics;

pub use request::{HeadError, HeadLimits, HeadOptions, Progress, RequestLine, RequestParser, Version};
pub use response::{ResponseError, ResponseParser, StatusLine};
pub use semantics::{BodyFraming, RequestSemantics, ResponseFraming, SemanticsError, ValidHost};
