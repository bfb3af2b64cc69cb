//! Sockets, timers, parked connections, zero-copy, log files, process control; the only crate with unsafe code.
//!
//! Everything that touches a descriptor lives here, so that the rest of the workspace can forbid `unsafe`. Streams,
//! timers, parked sets and log buffers belong to one worker: a thread with a tokio `current_thread` runtime and a
//! `LocalSet`. Listening sockets, log files and syslog targets are shared between workers.
//!
//! Counterparts in nginx: `src/os/unix`, `src/event` and the file half of `src/core`.

pub mod fault;
mod sys;

pub mod addr;
pub mod alloc;
pub mod clock;
pub mod connect;
pub mod crypt;
pub mod listener;
pub mod logbuffer;
pub mod logfile;
pub mod parked;
pub mod process;
pub mod resolver;
pub mod scratch;
pub mod signals;
pub mod sockopt;
pub mod splice;
pub mod stream;
pub mod strftime;
pub mod syslog;
pub mod tempfile;
pub mod timer;
pub mod tls;

pub use addr::Addr;
pub use clock::{
    http_date, now, now_ms, unix_now, unix_seconds, with_http_date, with_iso8601, with_time_local,
};
pub use connect::ConnectOptions;
pub use listener::{Acceptor, ListenOptions, ListenSocket, bind, is_out_of_descriptors};
pub use logbuffer::{BufferOptions, LogBuffer};
pub use logfile::LogFile;
pub use parked::{Event, Parked};
pub use scratch::{SCRATCH_SIZE, with_scratch};
pub use signals::{Sig, Signals, block_all_for_workers};
pub use sockopt::{KeepaliveParams, TcpInfo};
pub use stream::{Stream, StreamKind};
pub use syslog::{Syslog, SyslogOptions};
pub use tempfile::{FileError, TempDir, TempFile};
pub use timer::{Elapsed, Timer, sleep, with_timeout};
