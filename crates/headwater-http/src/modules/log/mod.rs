//! Access logs: `access_log`, `log_format`, `open_log_file_cache`.
//!
//! The handler runs when a request is over. Lines go into the worker's buffer of the file (`target`), those of one turn of the loop in one
//! write. nginx's counterpart: `ngx_http_log_module.c`.

mod format;
mod target;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_conf::context::{HSL, HTTP, LIMIT_EXCEPT, LOCATION_IF};
use headwater_conf::value::{parse_milliseconds, parse_number, parse_seconds, parse_size};
use headwater_conf::{Args, Cx, Diagnostic, Directive, DirectiveDef, Result, Value, settings};
use headwater_io::logbuffer::BufferOptions;
use headwater_io::syslog::Syslog;

use super::Module;
use crate::config::LocationBuilder;
use crate::flow::error_log::{Level, LogFiles};
use crate::flow::phases::LogHandler;
use crate::request::Request;
use crate::script::{Complex, Variables};
use format::Format;
use target::{FileTarget, NamedTarget};

pub use target::{close_worker_logs, flush_worker_logs};

settings! {
    /// Where and how requests are logged.
    pub struct LogSettings, raw LogRaw, module "ngx_http_log_module" {
        /// Sets a log file, its format and buffering. May be given several times; `off` cancels all logs of this level.
        "access_log", HSL.or(LOCATION_IF).or(LIMIT_EXCEPT), "path [format [buffer=size] [gzip[=level]] [flush=time] [if=condition]] ;; off", "logs/access.log combined" => access_log: AccessLogs = AccessLogs::default();
        /// Keeps log files open whose names hold variables.
        "open_log_file_cache", HSL, "max=N [inactive=time] [min_uses=N] [valid=time] ;; off", "off" => open_log_file_cache: OpenCache = OpenCache(None);
    }
}

const FORMATS: &[DirectiveDef] = &[DirectiveDef {
    name: "log_format",
    module: "ngx_http_log_module",
    contexts: HTTP,
    args: Args::at_least(2),
    syntax: "name [escape=default|json|none] string ...",
    default: "combined \"...\"",
    doc: "Declares the format of a log line.\n",
    set: format::declare,
}];

/// `ngx_http_log_module`.
pub static MODULE: Module = Module {
    directives: &[LogSettings::DIRECTIVES, FORMATS],
    init,
    build,
    ..Module::named("ngx_http_log_module")
};

/// All `access_log` directives of a block.
#[derive(Debug, Clone, Default)]
pub struct AccessLogs {
    off: bool,
    logs: Vec<LogDecl>,
}

#[derive(Debug, Clone)]
struct LogDecl {
    destination: Destination,
    format: Arc<Format>,
    filter: Option<Complex>,
}

#[derive(Debug, Clone)]
enum Destination {
    File(PathBuf),
    Named(Complex),
    Syslog(Arc<Syslog>),
}

/// The buffering of each file: it belongs to the file, not to the directive.
#[derive(Default)]
struct Buffering(HashMap<PathBuf, BufferOptions>);

/// Every file named, whether or not a location comes to use it.
#[derive(Default)]
struct Named(Vec<PathBuf>);

/// Opens every file, so that one that cannot be opened is an error even where nothing is logged to it.
fn init(cx: &mut Cx<'_>) -> Result<()> {
    for path in cx.take_state::<Named>().0 {
        cx.state::<LogFiles>().open(&path)?;
    }
    Ok(())
}

impl Value for AccessLogs {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if directive.arg(0) == b"off" {
            return match directive.args.get(1) {
                None => Ok(Self { off: true, logs: Vec::new() }),
                Some(_) => Err(directive.invalid_parameter(1)),
            };
        }
        let destination = destination(cx, directive)?;
        let name = directive.args.get(1).map_or(&b"combined"[..], |word| &word.text);
        let format = format::find(cx, name).map_err(|text| directive.error_at(1, text))?;
        let (options, filter) = parameters(cx, directive)?;
        if let Some(options) = options {
            buffered(cx, directive, &destination, options)?;
        }
        Ok(Self { off: false, logs: vec![LogDecl { destination, format, filter }] })
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let more = Self::parse(cx, directive)?;
        let all = slot.get_or_insert_default();
        all.off |= more.off;
        all.logs.extend(more.logs);
        Ok(())
    }
}

fn destination(cx: &mut Cx<'_>, directive: &Directive) -> Result<Destination> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = directive.arg(0);
    if text.starts_with(b"syslog:") {
        return Ok(Destination::Syslog(Arc::new(super::core::syslog(directive, 0)?)));
    }
    let path = cx.prefix_path(text);
    if !text.contains(&b'$') {
        cx.state::<Named>().0.push(path.clone());
        return Ok(Destination::File(path));
    }
    let path = path.as_os_str().as_bytes();
    let value = Complex::compile_text(cx.state::<Variables>(), path);
    value.map(Destination::Named).map_err(|message| directive.error_at(0, message))
}

/// Reads what follows the format.
fn parameters(cx: &mut Cx<'_>, directive: &Directive) -> Result<(Option<BufferOptions>, Option<Complex>)> {
    let mut size = None;
    let mut flush = None;
    let mut gzip = None;
    let mut filter = None;
    for (index, word) in directive.args.iter().enumerate().skip(2) {
        let complain = |what: &str, text: &[u8]| {
            directive.error_at(index, format!("invalid {what} \"{}\"", String::from_utf8_lossy(text)))
        };
        if let Some(text) = word.after("buffer=") {
            size = parse_size(text).filter(|size| *size > 0);
            if size.is_none() {
                return Err(complain("buffer size", text));
            }
        } else if let Some(text) = word.after("flush=") {
            flush = parse_milliseconds(text).filter(|time| !time.is_zero());
            if flush.is_none() {
                return Err(complain("flush time", text));
            }
        } else if word.text == b"gzip" {
            gzip = Some(1);
        } else if let Some(text) = word.after("gzip=") {
            gzip = parse_number(text)
                .filter(|level| (1..=9).contains(level))
                .and_then(|level| u32::try_from(level).ok());
            if gzip.is_none() {
                return Err(complain("compression level", text));
            }
        } else if let Some(text) = word.after("if=") {
            let value = Complex::compile_text(cx.state::<Variables>(), text);
            filter = Some(value.map_err(|message| directive.error_at(index, message))?);
        } else {
            return Err(directive.invalid_parameter(index));
        }
    }
    if gzip.is_some() && size.is_none() {
        size = Some(64 * 1024);
    }
    match size {
        Some(size) => Ok((Some(BufferOptions { size, flush, gzip }), filter)),
        None if flush.is_some() => {
            Err(directive
                .error(format!("no buffer is defined for access_log \"{}\"", directive.word(0).str())))
        }
        None => Ok((None, filter)),
    }
}

/// Notes the buffering of a file, which all its logs share.
fn buffered(
    cx: &mut Cx<'_>,
    directive: &Directive,
    destination: &Destination,
    options: BufferOptions,
) -> Result<()> {
    let path = match destination {
        Destination::File(path) => path,
        Destination::Named(_) => return Err(directive.error("buffered logs cannot have variables in name")),
        Destination::Syslog(_) => return Err(directive.error("logs to syslog cannot be buffered")),
    };
    let known = cx.state::<Buffering>().0.entry(path.clone()).or_insert(options);
    if *known != options {
        let message =
            format!("access_log \"{}\" already defined with conflicting parameters", directive.word(0).str());
        return Err(directive.error(message));
    }
    Ok(())
}

/// `open_log_file_cache`.
#[derive(Debug, Clone, Copy)]
pub struct OpenCache(pub Option<OpenCacheLimits>);

/// The limits of the cache of open log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenCacheLimits {
    /// How many files.
    pub max: usize,
    /// A file not used for so long is closed.
    pub inactive: Duration,
    /// Only files used this often within `inactive` stay open.
    pub min_uses: usize,
    /// After this time it is checked that the file still has its name.
    pub valid: Duration,
}

impl Value for OpenCache {
    const ARGS: Args = Args::range(1, 4);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut limits = OpenCacheLimits {
            max: 0,
            inactive: Duration::from_secs(10),
            min_uses: 1,
            valid: Duration::from_secs(60),
        };
        let mut off = false;
        for (index, word) in directive.args.iter().enumerate() {
            let good = if let Some(text) = word.after("max=") {
                parse_number(text).map(|number| limits.max = number)
            } else if let Some(text) = word.after("inactive=") {
                parse_seconds(text).map(|time| limits.inactive = time)
            } else if let Some(text) = word.after("min_uses=") {
                parse_number(text).map(|number| limits.min_uses = number)
            } else if let Some(text) = word.after("valid=") {
                parse_seconds(text).map(|time| limits.valid = time)
            } else if word.text == b"off" {
                off = true;
                Some(())
            } else {
                None
            };
            if good.is_none() {
                let message = format!("invalid \"open_log_file_cache\" parameter \"{}\"", word.str());
                return Err(directive.error_at(index, message));
            }
        }
        if off {
            return Ok(Self(None));
        }
        if limits.max == 0 {
            return Err(directive.error("\"open_log_file_cache\" must have \"max\" parameter"));
        }
        Ok(Self(Some(limits)))
    }
}

/// One log at run time.
struct AccessLog {
    sink: Sink,
    format: Arc<Format>,
    filter: Option<Complex>,
}

enum Sink {
    File(Arc<FileTarget>),
    Named(NamedTarget),
    Syslog(Arc<Syslog>),
}

/// The logs of one group of settings; locations with the same settings share them.
#[derive(Clone)]
struct Handler(Arc<Vec<AccessLog>>);

/// Logs that were built for settings, so that each group is built once.
#[derive(Default)]
struct Built(HashMap<usize, (Arc<LogSettings>, Handler)>);

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<LogSettings>();
    if settings.access_log.off {
        return Ok(());
    }
    let key = Arc::as_ptr(&settings) as usize;
    let known = builder.cx.state::<Built>().0.get(&key).map(|(_, handler)| handler.clone());
    let handler = match known {
        Some(handler) => handler,
        None => {
            let handler = Handler(Arc::new(open(builder.cx, &settings)?));
            builder.cx.state::<Built>().0.insert(key, (settings, handler.clone()));
            handler
        }
    };
    builder.location.log.push(Box::new(handler));
    Ok(())
}

/// Opens the files.
fn open(cx: &mut Cx<'_>, settings: &LogSettings) -> Result<Vec<AccessLog>> {
    let fallback;
    let mut decls = &settings.access_log.logs;
    if decls.is_empty() {
        let destination = Destination::File(cx.prefix_path(b"logs/access.log"));
        let format = format::combined(cx).map_err(Diagnostic::new)?;
        fallback = vec![LogDecl { destination, format, filter: None }];
        decls = &fallback;
    }
    let mut logs = Vec::with_capacity(decls.len());
    for decl in decls {
        let sink = match &decl.destination {
            Destination::File(path) => {
                let options = cx.state::<Buffering>().0.get(path).copied();
                let file = cx.state::<LogFiles>().open(path)?;
                Sink::File(FileTarget::of(file, options))
            }
            Destination::Named(path) => {
                Sink::Named(NamedTarget::new(path.clone(), settings.open_log_file_cache.0))
            }
            Destination::Syslog(syslog) => Sink::Syslog(syslog.clone()),
        };
        logs.push(AccessLog { sink, format: decl.format.clone(), filter: decl.filter.clone() });
    }
    Ok(logs)
}

impl LogHandler for Handler {
    fn log(&self, r: &Request) {
        for log in self.0.iter() {
            if log.filter.as_ref().is_none_or(|filter| filter.is_true(r)) {
                log.log(r);
            }
        }
    }
}

impl AccessLog {
    fn log(&self, r: &Request) {
        match &self.sink {
            Sink::File(file) => file.append(r, |line| {
                self.format.write(r, line);
                line.push(b'\n');
            }),
            Sink::Named(file) => {
                let mut line = Vec::with_capacity(256);
                self.format.write(r, &mut line);
                line.push(b'\n');
                file.write(r, &line);
            }
            Sink::Syslog(syslog) => {
                let mut line = Vec::with_capacity(256);
                self.format.write(r, &mut line);
                if syslog.send(&line).is_err() {
                    r.log(Level::Warn, format_args!("send() to syslog failed"));
                }
            }
        }
    }
}
