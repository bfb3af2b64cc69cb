//! The upstream mechanism: fully asynchronous access to any back end.
//!
//! A content handler (`modules::proxy`) makes a [`protocol::Protocol`] for the request and calls [`engine::run`], the only code that waits
//! for a back end: choose a peer (`peers`), connect or reuse (`pool`), send (`send`), secured by TLS where that is asked for (`tls`), read the head (`read_head`), relay the body (`relay`). Whether to try
//! another peer is decided in `retry` alone. nginx's counterpart: `ngx_http_upstream.c`.

pub mod engine;
mod family;
pub mod head;
pub mod health;
pub mod names;
pub mod pass;
pub mod peers;
pub mod pool;
pub mod protocol;
mod read_head;
pub mod relay;
pub mod retry;
mod send;
pub mod settings;
pub mod sockets;
mod spool;
pub mod store;
pub mod target;
pub mod tls;
pub mod tunnel;
mod zero_copy;
