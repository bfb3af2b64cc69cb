//! One server process, nginx or headwater, in a private directory.
//!
//! Called by the tests; calls the binary with nginx's command line and kills it and its children when dropped.
//! nginx counterpart: none.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::template::Template;

static NEXT_DIR: AtomicU32 = AtomicU32::new(0);

/// A private directory, removed on drop unless the environment says `KEEP=1`.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new directory below the system's temporary directory, with `html` and `logs` in it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new() -> io::Result<Self> {
        let number = NEXT_DIR.fetch_add(1, Ordering::Relaxed);
        // Equal lengths for all instances: the path appears in bodies whose length is compared.
        let name = format!("headwater-{:08}-{number:05}", process::id());
        let dir = std::env::temp_dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("html"))?;
        fs::create_dir_all(dir.join("logs"))?;
        Ok(Self(dir))
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// How the processes are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `daemon off; master_process off;`: one process.
    Single,
    /// `daemon off;`: as in production, reloads by `SIGHUP`.
    Master,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    dir: PathBuf,
}

impl Server {
    /// Writes `conf` into the directory of `template`, starts `binary` on it and waits until `port` accepts.
    ///
    /// # Errors
    /// When the server ends or does not listen within ten seconds; the message holds what it logged.
    pub fn start(
        binary: &Path,
        conf: &str,
        template: &mut Template,
        port: u16,
        mode: Mode,
    ) -> io::Result<Self> {
        let dir = template.dir().to_path_buf();
        let conf_file = dir.join("nginx.conf");
        fs::write(&conf_file, template.fill(conf)?)?;
        let stderr = File::create(dir.join("stderr.log"))?;
        let globals: &str = match mode {
            Mode::Single => "daemon off; master_process off;",
            Mode::Master => "daemon off;",
        };
        let child = Command::new(binary)
            .args([OsStr::new("-p"), dir.as_os_str(), OsStr::new("-c"), conf_file.as_os_str()])
            .args([OsStr::new("-e"), dir.join("error.log").as_os_str()])
            .args(["-g", globals])
            .stdin(process::Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .process_group(0)
            .spawn()?;
        let mut server = Self { child, dir };
        server.wait_until_it_listens(port)?;
        Ok(server)
    }

    /// The server's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process id of the process that was started: the master in [`Mode::Master`].
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process that was started.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal).map_err(Into::into)
    }

    /// The text of a file in the server's directory, empty when there is none.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks the server to end (`SIGTERM`), waits up to two seconds, then kills it.
    pub fn stop(&mut self) {
        let _ = self.signal(Signal::TERM);
        let end = Instant::now() + Duration::from_secs(2);
        while self.is_running() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        self.kill();
    }

    fn kill(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }

    fn wait_until_it_listens(&mut self, port: u16) -> io::Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if !self.is_running() {
                break;
            }
            thread::sleep(Duration::from_millis(3));
        }
        let said = format!("{}{}", self.read("stderr.log"), self.read("error.log"));
        Err(io::Error::other(format!("the server does not listen on {port}:\n{said}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
