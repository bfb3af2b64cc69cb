//! Headwater: a reverse proxy and HTTP server that runs an existing `nginx.conf`.
//!
//! This crate is the program (`cli`, `check`, `order`, `master`) and the front door for programs that embed the server: [`Builder`] runs one,
//! and the parts are re-exported ([`conf`], [`http`], [`io`]).
//!
//! ```no_run
//! use headwater::Builder;
//! use headwater::conf::MemorySource;
//!
//! let text = "events {} http { server { listen 127.0.0.1:8080; return 200 hello; } }";
//! let files = MemorySource::new().with("/srv/nginx.conf", text);
//! // Serves until the process gets SIGTERM or SIGQUIT.
//! Builder::new("/srv", "nginx.conf").source(files).error_log("stderr").run();
//! ```

mod check;
pub mod cli;
mod identity;
mod journal;
mod master;
pub mod module;
mod order;
mod reload;
mod setup;
mod sockets;
pub mod version;
mod workers;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub use headwater_conf as conf;
pub use headwater_http as http;
pub use headwater_io as io;

use crate::conf::{FileSource, Source};
use crate::http::modules::Modules;
use crate::setup::Setup;

/// Does what the `headwater` program does with these arguments, the program's name left out.
#[must_use]
pub fn run_command_line(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match cli::parse(args) {
        Ok(options) => options,
        Err(error) => {
            journal::console(format_args!("{error}"));
            return ExitCode::FAILURE;
        }
    };
    if options.version {
        // Standard error may be closed; there is nobody left to tell.
        let _ = write!(std::io::stderr(), "{}", version::text(&options));
        if !options.test {
            return ExitCode::SUCCESS;
        }
    }
    let setup = Setup::from_options(&options);
    if options.test {
        return check::run(&setup, &options);
    }
    match options.order {
        Some(order) => order::send(&setup, order),
        None => master::run(setup, false),
    }
}

/// A server inside another program.
///
/// The server takes over the process's signals (HUP, TERM, INT, QUIT, USR1) and writes a pid file, as the program does; it never goes
/// to the background. It must be started before the program starts threads of its own that do not block those signals.
pub struct Builder {
    setup: Setup,
}

impl Builder {
    /// A server with this prefix and configuration file, which may be relative to the prefix.
    pub fn new(prefix: impl Into<PathBuf>, file: impl Into<PathBuf>) -> Self {
        let prefix = prefix.into();
        let file = prefix.join(file.into());
        let prefix = setup::absolute(prefix);
        let setup = Setup {
            prefix,
            file,
            globals: None,
            error_log: None,
            source: Box::new(FileSource),
            modules: Modules::default(),
        };
        Self { setup }
    }

    /// A server that takes the program's command line, `-p`, `-c`, `-g` and `-e`.
    ///
    /// # Errors
    /// nginx's message for what is no such option.
    pub fn from_command_line(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        Ok(Self { setup: Setup::from_options(&cli::parse(args)?) })
    }

    /// Adds a module: its directives, variables, handlers. See [`module`].
    #[must_use]
    pub fn module(mut self, module: &'static module::Module) -> Self {
        self.setup.modules.add(module);
        self
    }

    /// Where configuration files come from; the file system unless this is called.
    #[must_use]
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.setup.source = Box::new(source);
        self
    }

    /// Directives of the main block besides the file, as with `-g`.
    #[must_use]
    pub fn globals(mut self, text: impl Into<String>) -> Self {
        self.setup.globals = Some(text.into());
        self
    }

    /// The error log of configurations that name none, as with `-e`; `stderr` is standard error.
    #[must_use]
    pub fn error_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.setup.error_log = Some(path.into());
        self
    }

    /// Serves until a signal ends it; the code is the one that the program would exit with.
    pub fn run(self) -> ExitCode {
        master::run(self.setup, true)
    }
}
