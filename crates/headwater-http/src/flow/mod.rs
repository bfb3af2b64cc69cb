//! The way of a request, one file per room, in order: `accept` → `connection` (read head) → `route` → `phases` → content → `headers_out` →
//! `output` → `log`. `special` makes error pages and redirects; `worker` is the thread's own state. Data flows down this list and nothing
//! here imports upwards.

pub mod accept;
pub mod connection;
pub mod error_log;
pub(crate) mod head;
pub mod headers_out;
pub mod out_queue;
pub mod output;
pub mod phases;
pub mod pinned;
mod pipe_out;
mod post_action;
pub(crate) mod postpone;
pub mod route;
pub mod special;
pub mod status;
pub mod worker;

pub use headwater_conf::diagnostic::os_error;
