//! Scripted clients and origins, and the nginx oracle, for the differential and behavioural tests.
//!
//! Called by the tests under `crates/headwater/tests` and by `bench/run`; calls nothing of Headwater itself:
//! the server under test is always a separate process, so that nginx and Headwater are handled alike.
//! nginx counterpart: none (nginx's own tests are Perl scripts with the same two-sided idea).

pub mod case;
pub mod certificates;
pub mod client;
pub mod compare;
pub mod dns;
pub mod example;
pub mod fault;
pub mod load;
pub mod normalize;
pub mod oracle;
pub mod origin;
pub mod program;
pub mod report;
pub mod response;
pub mod run;
pub mod script;
pub mod server;
pub mod subject;
pub mod template;
pub mod text;
