//! Programs beside the server: back ends and browsers, each in a process group of its own that ends with the test.
//!
//! Called by tests with real programs. nginx counterpart: none.

use std::io;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program and its children, killed on drop.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts a program and waits until `ready` says that it listens.
    ///
    /// # Errors
    /// It cannot be started, or is not ready after 20 s.
    pub fn start(command: &mut Command, mut ready: impl FnMut() -> bool) -> io::Result<Self> {
        // Some end with their input, so that it stays open.
        let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = Self(quiet.process_group(0).spawn()?);
        let start = Instant::now();
        while !ready() {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("{command:?} does not listen")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(program)
    }

    /// Starts a program that listens on a port of 127.0.0.1.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub fn on_port(command: &mut Command, port: u16) -> io::Result<Self> {
        Self::start(command, || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
