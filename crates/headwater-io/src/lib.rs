//! Sockets, timers, parked connections, zero-copy, log files, process control; the only crate with unsafe code.
