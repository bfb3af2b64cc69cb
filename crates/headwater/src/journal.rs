//! Where the master's own messages go: standard error while it starts, then the error log.
//!
//! Used by every room of this crate. nginx's counterpart: `ngx_log_error_core` with `ngx_use_stderr`, `ngx_log_init`.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use headwater_conf::diagnostic::os_error;
use headwater_conf::{Diagnostic, Files};
use headwater_http::flow::error_log::{ErrorLog, Level};
use headwater_io::LogFile;

/// Writes `headwater: …` to standard error.
pub(crate) fn console(text: fmt::Arguments<'_>) {
    // Standard error may be closed; there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "headwater: {text}");
}

/// The master's log.
pub(crate) struct Journal {
    early: Option<LogFile>,
    log: Option<Arc<ErrorLog>>,
    console: bool,
    quiet: bool,
}

impl Journal {
    /// Standard error, and the early error log when there is one; complains when it cannot be opened.
    pub(crate) fn start(early: Option<&Path>) -> Journal {
        let open = |path: &Path| match LogFile::open(path) {
            Ok(file) => Some(file),
            Err(error) => {
                let (path, error) = (path.display(), os_error(&error));
                console(format_args!(
                    "[alert] could not open error log file: open() \"{path}\" failed {error}"
                ));
                None
            }
        };
        Journal { early: early.and_then(open), log: None, console: true, quiet: false }
    }

    /// The same for a test of the configuration, with `-q`.
    pub(crate) fn quiet(mut self, quiet: bool) -> Journal {
        self.quiet = quiet;
        self
    }

    /// Goes on in the configuration's error log.
    pub(crate) fn use_log(&mut self, log: Arc<ErrorLog>) {
        self.log = Some(log);
        self.early = None;
    }

    /// Ends the copies on standard error.
    pub(crate) fn leave_console(&mut self) {
        self.console = false;
    }

    /// Writes one message.
    pub(crate) fn write(&self, level: Level, text: fmt::Arguments<'_>) {
        match (&self.log, &self.early) {
            (Some(log), _) => log.write(level, None, text),
            (None, Some(file)) if level <= Level::Notice => early_line(file, level, text),
            (None, _) => {}
        }
        if self.console && level <= Level::Warn {
            console(format_args!("[{}] {text}", level.as_str()));
        }
    }

    /// Writes what loading found; on standard error with the place in the file.
    pub(crate) fn diagnostic(&self, diagnostic: &Diagnostic, files: &Files) {
        let level = match diagnostic.level {
            headwater_conf::Level::Emerg => Level::Emerg,
            headwater_conf::Level::Warn => Level::Warn,
            headwater_conf::Level::Notice => Level::Notice,
        };
        let line = diagnostic.line(files);
        self.write(level, format_args!("{line}"));
        if !self.console || (self.quiet && level > Level::Warn) {
            return;
        }
        if level > Level::Warn {
            console(format_args!("[{}] {line}", level.as_str()));
        }
        let _ = write!(std::io::stderr(), "{}", diagnostic.snippet(files));
    }

    pub(crate) fn emerg(&self, text: fmt::Arguments<'_>) {
        self.write(Level::Emerg, text);
    }

    pub(crate) fn alert(&self, text: fmt::Arguments<'_>) {
        self.write(Level::Alert, text);
    }

    pub(crate) fn notice(&self, text: fmt::Arguments<'_>) {
        self.write(Level::Notice, text);
    }
}

fn early_line(file: &LogFile, level: Level, text: fmt::Arguments<'_>) {
    let pid = headwater_io::process::pid();
    let mut line = Vec::new();
    headwater_io::clock::with_error_log_time(|time| line.extend_from_slice(time));
    let _ = writeln!(line, " [{}] {pid}#{pid}: {text}", level.as_str());
    // A log that cannot be written has nowhere to complain.
    let _ = file.write(&line);
}
