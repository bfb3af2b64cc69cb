//! What a module is made of, under one roof: `use headwater::module::prelude::*`.
//!
//! A module is a [`Module`]: directives, variables, and a function that is called for each location and puts handlers and filters into it.
//! [`Builder::module`](crate::Builder::module) adds it to a server. `docs/modules.md` is the tutorial; `examples/` holds whole modules.
//!
//! | to do this | implement or call |
//! |---|---|
//! | make content, check access, work in another phase | [`Handler`], pushed to the location by `build` |
//! | talk to a back end in a protocol of one's own | [`Protocol`], run by [`Route::run`]; `upstream_family!` declares its timeouts and the rest |
//! | ask other locations, in parallel if need be | [`Request::subrequest`], then `fetch`, `include` or `background` of [`Subrequest`] |
//! | change responses | [`HeaderFilter`], [`BodyFilter`] |
//! | give variables | [`VariableDef`] |
//! | have directives | `settings!`, or [`DirectiveDef`] by hand |

/// Waits for any number of futures at once; the outputs are in the order of the futures.
pub use futures_util::future::join_all;
pub use headwater_conf::{Args, Contexts, Cx, Directive, DirectiveDef, Result, Setting, Settings, Value};
pub use headwater_http::config::LocationBuilder;
pub use headwater_http::filters::{BodyFilter, Chunk, End, Filtered, HeaderFilter, Next, Order};
pub use headwater_http::flow::error_log::Level;
pub use headwater_http::flow::output::SendError;
pub use headwater_http::flow::phases::{Handler, LocalFuture, LogHandler, Outcome, Redirect};
pub use headwater_http::modules::Module;
pub use headwater_http::request::subrequest::{Child, Response, Subrequest, SubrequestError};
pub use headwater_http::request::{HeadersOut, Request};
pub use headwater_http::script::{Complex, VariableDef, Variables};
pub use headwater_http::upstream::pass::{FixedPass, Pass, Route};
pub use headwater_http::upstream::protocol::{Header, Piece, Protocol, ResponseHead};
pub use headwater_http::upstream::settings::{NextUpstream, UpstreamConf};
pub use headwater_wire::{HeaderList, KnownHeader, method::Method};

/// All that a module usually needs, the macros included.
pub mod prelude {
    pub use std::sync::Arc;

    pub use bytes::Bytes;
    pub use headwater_conf::context::{HSL, HTTP, LOCATION, LOCATION_IF, SERVER};
    pub use headwater_conf::settings;
    pub use headwater_conf::value::{Buffers, List, Milliseconds, Number, Offset, Size, Text};
    pub use headwater_http::config::core::{Rate, TempPath};
    pub use headwater_http::upstream::pass::plain_address;
    pub use headwater_http::upstream::settings::{Bind, IgnoreHeaders, hidden};
    pub use headwater_http::upstream_family;

    pub use super::*;
}
