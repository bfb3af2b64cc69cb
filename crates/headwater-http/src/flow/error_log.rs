//! The error log: `error_log`, nginx's line format and context fields, levels.
//!
//! Called through `Request::log` and `Connection`'s and worker's loggers. nginx's counterpart: `ngx_log.c`, `ngx_http_log_error`.

use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_conf::context::{HTTP, LOCATION, MAIN, SERVER};
use headwater_conf::value::List;
use headwater_conf::{Args, Cx, Diagnostic, Directive, Result, Value, settings};
use headwater_io::logfile::LogFile;
use headwater_io::syslog::Syslog;

use crate::request::{Connection, Request};

/// Levels, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the words say it")]
pub enum Level {
    Emerg = 1,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

impl Level {
    const ALL: [(Level, &'static str); 8] = [
        (Level::Emerg, "emerg"),
        (Level::Alert, "alert"),
        (Level::Crit, "crit"),
        (Level::Error, "error"),
        (Level::Warn, "warn"),
        (Level::Notice, "notice"),
        (Level::Info, "info"),
        (Level::Debug, "debug"),
    ];

    /// nginx's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(level, _)| *level == self).map_or("", |(_, word)| word)
    }

    fn parse(word: &[u8]) -> Option<Level> {
        Self::ALL.iter().find(|(_, known)| known.as_bytes() == word).map(|(level, _)| *level)
    }
}

settings! {
    /// Where errors are logged.
    pub struct ErrorLogSettings, raw ErrorLogRaw, module "ngx_core_module" {
        /// Sets a log file, `stderr` or `syslog:`, and the lowest level that goes there. May be given several times.
        "error_log", MAIN.or(HTTP).or(SERVER).or(LOCATION), "file [level]", "logs/error.log error" => targets: List<ErrorTarget> = List::default();
    }
}

/// One `error_log`.
#[derive(Debug, Clone)]
pub struct ErrorTarget {
    destination: Destination,
    level: Level,
}

#[derive(Debug, Clone)]
enum Destination {
    File(PathBuf),
    Stderr,
    Syslog(Arc<Syslog>),
}

impl Value for ErrorTarget {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let destination = match directive.arg(0) {
            b"stderr" => Destination::Stderr,
            b"" => return Err(directive.error("invalid log name \"\"")),
            text if text.starts_with(b"syslog:") => {
                Destination::Syslog(Arc::new(crate::modules::core::syslog(directive, 0)?))
            }
            text => Destination::File(cx.prefix_path(text)),
        };
        let level = match directive.args.get(1) {
            None => Level::Error,
            Some(word) => Level::parse(&word.text)
                .ok_or_else(|| directive.error_at(1, format!("invalid log level \"{}\"", word.str())))?,
        };
        if let Some(word) = directive.args.get(2) {
            return Err(match Level::parse(&word.text) {
                Some(_) => directive.error_at(2, format!("duplicate log level \"{}\"", word.str())),
                None => directive.error_at(2, format!("invalid log level \"{}\"", word.str())),
            });
        }
        Ok(Self { destination, level })
    }
}

/// The log files of all generations, opened once each.
#[derive(Default, Clone)]
pub struct LogFiles {
    files: HashMap<PathBuf, Arc<LogFile>>,
    used: Vec<PathBuf>,
    default: Option<PathBuf>,
    known: Vec<(usize, Arc<ErrorLog>)>,
}

impl LogFiles {
    /// Opens a file, or gives the one that is open.
    pub fn open(&mut self, path: &Path) -> Result<Arc<LogFile>> {
        self.used.push(path.to_path_buf());
        if let Some(file) = self.files.get(path) {
            return Ok(file.clone());
        }
        let file = LogFile::open(path).map_err(|error| {
            Diagnostic::new(format!("open() \"{}\" failed {}", path.display(), super::os_error(&error)))
        })?;
        let file = Arc::new(file);
        self.files.insert(path.to_path_buf(), file.clone());
        Ok(file)
    }

    /// Sets the file for configurations that name none.
    pub fn set_default(&mut self, path: Option<&Path>, prefix: &Path) {
        self.default = Some(prefix.join(path.unwrap_or(Path::new("logs/error.log"))));
        self.used.clear();
        self.known.clear();
    }

    /// Forgets files that the last load did not use.
    pub fn retain_used(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.files.retain(|path, _| used.contains(path));
    }

    /// Opens all files anew (USR1).
    pub fn reopen(&self) -> Vec<(PathBuf, std::io::Error)> {
        self.files
            .iter()
            .filter_map(|(path, file)| file.reopen().err().map(|error| (path.clone(), error)))
            .collect()
    }

    /// Hands every file to the user that the process is about to become.
    pub fn chown(&self, uid: u32) {
        for file in self.files.values() {
            // A file on a file system without owners stays as it is; it is open already.
            let _ = file.chown(uid);
        }
    }

    /// The log that settings ask for; the same settings give the same log.
    pub fn error_log(&mut self, settings: &Arc<ErrorLogSettings>) -> Result<Arc<ErrorLog>> {
        let key = Arc::as_ptr(settings) as usize;
        if let Some((_, log)) = self.known.iter().find(|(known, _)| *known == key) {
            return Ok(log.clone());
        }
        let mut targets = Vec::new();
        for target in settings.targets.iter() {
            let sink = match &target.destination {
                Destination::File(path) => Sink::File(self.open(path)?),
                Destination::Stderr => Sink::File(Arc::new(LogFile::stderr())),
                Destination::Syslog(syslog) => Sink::Syslog(syslog.clone()),
            };
            targets.push((target.level, sink));
        }
        if targets.is_empty() {
            let path = self.default.clone().unwrap_or_default();
            let sink = if path.ends_with("stderr") && !path.exists() {
                Sink::File(Arc::new(LogFile::stderr()))
            } else {
                Sink::File(self.open(&path)?)
            };
            targets.push((Level::Error, sink));
        }
        let level = targets.iter().map(|(level, _)| *level).max().unwrap_or(Level::Error);
        let log = Arc::new(ErrorLog { level, targets });
        self.known.push((key, log.clone()));
        Ok(log)
    }
}

enum Sink {
    File(Arc<LogFile>),
    Syslog(Arc<Syslog>),
}

/// Where one location's errors go.
pub struct ErrorLog {
    level: Level,
    targets: Vec<(Level, Sink)>,
}

impl ErrorLog {
    /// A log to standard error, for the time before there is a configuration.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        Self { level, targets: vec![(level, Sink::File(Arc::new(LogFile::stderr())))] }
    }

    /// The first file it writes to, which may be standard error; `None` when there is only syslog.
    #[must_use]
    pub fn file(&self) -> Option<&LogFile> {
        self.targets.iter().find_map(|(_, sink)| match sink {
            Sink::File(file) => Some(&**file),
            Sink::Syslog(_) => None,
        })
    }

    /// Whether anything listens at this level.
    #[must_use]
    pub fn wants(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Writes one line: `2026/01/02 03:04:05 [error] 1#1: text`.
    pub fn write(&self, level: Level, connection: Option<u64>, text: fmt::Arguments<'_>) {
        if !self.wants(level) {
            return;
        }
        let mut line = Vec::with_capacity(256);
        headwater_io::clock::with_error_log_time(|time| line.extend_from_slice(time));
        let pid = headwater_io::process::pid();
        let tid = headwater_io::process::tid();
        // Writing to a vector cannot fail.
        let _ = write!(line, " [{}] {pid}#{tid}: ", level.as_str());
        if let Some(number) = connection {
            let _ = write!(line, "*{number} ");
        }
        let _ = write!(line, "{text}");
        line.push(b'\n');
        for (lowest, sink) in &self.targets {
            if level > *lowest {
                continue;
            }
            // A log that cannot be written has nowhere to complain.
            let _ = match sink {
                Sink::File(file) => file.write(&line),
                Sink::Syslog(syslog) => {
                    let severity = (level as u8).saturating_sub(1);
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    syslog.send_with(severity, text.get(20..).unwrap_or_default())
                }
            };
        }
    }
}

impl Connection {
    /// Logs for a connection that has no request: `…, client: 1.2.3.4, server: 0.0.0.0:80`.
    pub fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        let generation = self.worker.generation();
        let root = generation
            .listener(&self.listener)
            .map(|listener| generation.server(listener.names.default).root);
        let log = match root {
            Some(root) => &generation.location(root).error_log,
            None => &generation.main.error_log,
        };
        if !log.wants(level) {
            return;
        }
        let mut context = Vec::new();
        context.extend_from_slice(b", client: ");
        self.peer.write_ip(&mut context);
        context.extend_from_slice(b", server: ");
        self.listener.write_full(&mut context);
        log.write(level, Some(self.number), format_args!("{text}{}", String::from_utf8_lossy(&context)));
    }
}

impl Request {
    /// Logs with nginx's context: client, server, request, upstream, host, referrer.
    pub fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        let log = &self.loc().error_log;
        if log.wants(level) {
            let (number, context) = match self.probe() {
                Some(probe) => (None, probe.log_context()),
                None => (Some(self.connection().number), self.log_context()),
            };
            let action = self.action.get();
            if action.is_empty() {
                log.write(level, number, format_args!("{text}{context}"));
            } else {
                log.write(level, number, format_args!("{text} while {action}{context}"));
            }
        }
    }

    fn log_context(&self) -> String {
        let mut out = Vec::with_capacity(200);
        out.extend_from_slice(b", client: ");
        self.peer().write_ip(&mut out);
        out.extend_from_slice(b", server: ");
        out.extend_from_slice(self.srv().name.as_bytes());
        let head = &self.exchange.head;
        let mut field = |name: &str, value: &[u8]| {
            out.extend_from_slice(b", ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": \"");
            out.extend_from_slice(value);
            out.push(b'"');
        };
        field("request", head.request_line());
        if !self.is_main() {
            field("subrequest", &self.uri.borrow());
        }
        if let Some(url) = self.upstream_url.borrow().as_ref() {
            field("upstream", url);
        }
        if let Some(host) = head.headers.get(b"host") {
            field("host", host);
        }
        if let Some(referer) = head.headers.get(b"referer") {
            field("referrer", referer);
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}
