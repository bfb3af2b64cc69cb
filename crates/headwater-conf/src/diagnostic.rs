//! Configuration errors and warnings: nginx's line, then for people the source line, a caret and the nearest known name.
//!
//! Made everywhere in configuration loading; printed by the binary. nginx's counterpart: `ngx_conf_log_error`.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::parse::Span;
use crate::source::Files;

/// The outcome of one configuration step.
pub type Result<T> = std::result::Result<T, Box<Diagnostic>>;

/// How grave a message is, nginx's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The configuration cannot be used.
    Emerg,
    /// The configuration is used; something in it is doubtful.
    Warn,
    /// Worth knowing: a directive that has no meaning here.
    Notice,
}

impl Level {
    /// nginx's word for the level, as in `[emerg]`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Emerg => "emerg",
            Level::Warn => "warn",
            Level::Notice => "notice",
        }
    }
}

/// One message about the configuration.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// How grave it is.
    pub level: Level,
    /// nginx's text, without the position.
    pub message: String,
    /// File and line as nginx reports them: the line on which the directive ended.
    pub position: Option<(u32, u32)>,
    /// What the caret points at.
    pub span: Option<Span>,
    /// A sentence that may help, for example the nearest known name.
    pub help: Option<String>,
    /// A file that is not one of the configuration's own (a missing file, for example).
    pub path: Option<PathBuf>,
}

impl Diagnostic {
    /// An error without a position (nginx prints these without `in FILE:LINE`).
    #[must_use]
    pub fn new(message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            level: Level::Emerg,
            message: message.into(),
            position: None,
            span: None,
            help: None,
            path: None,
        })
    }

    /// An error at a place: `line` is the line nginx would name.
    #[must_use]
    pub fn at(span: Span, line: u32, message: impl Into<String>) -> Box<Self> {
        let mut diagnostic = Self::new(message);
        diagnostic.position = Some((span.file, line));
        diagnostic.span = Some(span);
        diagnostic
    }

    /// The same with another level.
    #[must_use]
    pub fn with_level(mut self: Box<Self>, level: Level) -> Box<Self> {
        self.level = level;
        self
    }

    /// The same with a sentence that may help.
    #[must_use]
    pub fn with_help(mut self: Box<Self>, help: impl Into<String>) -> Box<Self> {
        self.help = Some(help.into());
        self
    }

    /// nginx's text: `unknown directive "x" in /etc/nginx/nginx.conf:3`.
    #[must_use]
    pub fn line(&self, files: &Files) -> String {
        match self.position {
            Some((file, line)) => {
                format!("{} in {}:{line}", self.message, files.path(file).display())
            }
            None => self.message.clone(),
        }
    }

    /// The lines for people that follow nginx's: the source line, the caret, the help. Empty when there is no place.
    #[must_use]
    pub fn snippet(&self, files: &Files) -> String {
        let mut out = String::new();
        if let Some(span) = self.span {
            let content = files.content(span.file);
            let start = (span.start as usize).min(content.len());
            let line_start = content
                .get(..start)
                .and_then(|head| memchr::memrchr(b'\n', head))
                .map_or(0, |at| at.saturating_add(1));
            let line_end = content
                .get(start..)
                .and_then(|tail| memchr::memchr(b'\n', tail))
                .map_or(content.len(), |at| at.saturating_add(start));
            let text = content.get(line_start..line_end).unwrap_or_default();
            let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text));
            let before = content.get(line_start..start).unwrap_or_default();
            let number = span.line.to_string();
            let margin = " ".repeat(number.len());
            let pad: String =
                String::from_utf8_lossy(before).chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let width = (span.end as usize).min(line_end).saturating_sub(start).max(1);
            let _ = writeln!(out, " {number} | {text}");
            let _ = writeln!(out, " {margin} | {pad}{}", "^".repeat(width));
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "   = help: {help}");
        }
        out
    }
}

/// An operating system error as nginx prints it: `(2: No such file or directory)`.
#[must_use]
pub fn os_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) => {
            let suffix = format!(" (os error {code})");
            format!("({code}: {})", text.strip_suffix(&suffix).unwrap_or(&text))
        }
        None => format!("({text})"),
    }
}

/// The known name closest to `name`, when it is close enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(name.len().min(candidate.len()) / 3).min(4))
        .min()
        .map(|(_, candidate)| candidate)
}
