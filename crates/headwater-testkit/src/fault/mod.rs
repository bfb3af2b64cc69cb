//! Back ends that misbehave by script, clients that look closely, and what a process holds.
//!
//! Called by the tests `faults`, `balance` and `nth_io` of the server. A request names its script and its cell in the URI
//! (`/mode/CELL/SCRIPT`), so that thousands of them run at the same time through one server. nginx counterpart: none.

pub mod backend;
pub mod catalogue;
pub mod client;
pub mod crowd;
pub mod matrix;
pub mod script;
pub mod usage;
pub mod world;
