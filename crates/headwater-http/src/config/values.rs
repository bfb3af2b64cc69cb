//! Value types of the http core module's directives.
//!
//! Used by `config::core`'s settings and by modules that share a type. nginx's counterpart: the setters of `ngx_http_core_module.c`.

use std::path::PathBuf;
use std::sync::Arc;

use headwater_conf::value::{Milliseconds, parse_milliseconds, parse_number, parse_seconds, parse_size};
use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_io::tempfile::{FileError, TempDir, TempFile};

use super::core::{CoreRaw, OwnRaw};
use crate::script::Complex;

/// A directive without arguments that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence(pub bool);

impl Value for Presence {
    const ARGS: Args = Args::exactly(0);
    const INHERITS: bool = false;
    fn parse(_: &mut Cx<'_>, _: &Directive) -> Result<Self> {
        Ok(Presence(true))
    }
    // `internal` holds for the location that says it, not for those inside it.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

/// `root`: a path, absolute once variables are filled in.
#[derive(Debug, Clone)]
pub struct Root {
    /// The path; relative paths were joined to the prefix.
    pub path: Complex,
    /// Whether the path starts with a variable, so that it may turn out relative.
    pub prefix: PathBuf,
}

impl Root {
    pub(super) fn default_root() -> Self {
        Self { path: Complex::text(b"html"), prefix: PathBuf::new() }
    }
}

/// Reads a path that may hold variables; a path that starts with text is made absolute now.
pub fn path_value(cx: &mut Cx<'_>, directive: &Directive, index: usize) -> Result<Complex> {
    let text = directive.arg(index).to_vec();
    let absolute = if text.starts_with(b"/") || text.starts_with(b"$") {
        text
    } else {
        use std::os::unix::ffi::OsStrExt as _;
        cx.prefix_path(&text).as_os_str().as_bytes().to_vec()
    };
    Complex::compile_text(cx.state(), &absolute).map_err(|message| directive.error_at(index, message))
}

impl Value for Root {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let text = directive.arg(0);
        if text.windows(14).any(|w| w == b"$document_root")
            || text.windows(14).any(|w| w == b"$realpath_root")
        {
            let message = format!(
                "the ${} variable cannot be used in the \"root\" directive",
                if text.windows(14).any(|w| w == b"$document_root") {
                    "document_root"
                } else {
                    "realpath_root"
                }
            );
            return Err(directive.error_at(0, message));
        }
        let mut path = directive.clone();
        if let Some(word) = path.args.first_mut() {
            while word.text.len() > 1 && word.text.ends_with(b"/") {
                word.text.pop();
            }
            if word.text == b"/" {
                word.text.clear();
                return Ok(Self { path: Complex::text(b""), prefix: cx.prefix.clone() });
            }
        }
        Ok(Self { path: path_value(cx, &path, 0)?, prefix: cx.prefix.clone() })
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        if slot.is_some() {
            return Err(directive.duplicate());
        }
        if cx.raw::<OwnRaw>().alias.is_set() {
            return Err(
                directive.error("\"root\" directive is duplicate, \"alias\" directive was specified earlier")
            );
        }
        *slot = Some(Self::parse(cx, directive)?);
        Ok(())
    }
}

/// `alias`.
#[derive(Debug, Clone)]
pub struct Alias(pub Complex);

impl Value for Alias {
    const ARGS: Args = Args::exactly(1);
    const INHERITS: bool = false;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Alias(path_value(cx, directive, 0)?))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        if slot.is_some() {
            return Err(directive.duplicate());
        }
        if cx.raw::<CoreRaw>().root.is_set() {
            return Err(
                directive.error("\"alias\" directive is duplicate, \"root\" directive was specified earlier")
            );
        }
        if super::decl::in_named_location(cx) {
            return Err(directive.error("the \"alias\" directive cannot be used inside the named location"));
        }
        *slot = Some(Self::parse(cx, directive)?);
        Ok(())
    }

    // An alias belongs to its location; `if` and `limit_except` in it take it over when they are built.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

/// `types`: extension to MIME type.
#[derive(Debug, Clone)]
pub struct Types(pub Arc<rustc_hash::FxHashMap<Box<[u8]>, bytes::Bytes>>);

impl Types {
    pub(super) fn built_in() -> Self {
        let pairs = [("html", "text/html"), ("gif", "image/gif"), ("jpg", "image/jpeg")];
        let pairs =
            pairs.map(|(ext, mime)| (ext.as_bytes().into(), bytes::Bytes::from_static(mime.as_bytes())));
        Self(Arc::new(pairs.into_iter().collect()))
    }
}

impl Value for Types {
    const ARGS: Args = Args::exactly(0).with_block();

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut map = rustc_hash::FxHashMap::default();
        for entry in cx.entries(directive)? {
            let mime = bytes::Bytes::copy_from_slice(&entry.name.text);
            for extension in &entry.args {
                let key: Box<[u8]> = extension.text.to_ascii_lowercase().into();
                if let Some(old) = map.insert(key, mime.clone()).filter(|old| *old != mime) {
                    let message = format!(
                        "duplicate extension \"{}\", content type: \"{}\", previous content type: \"{}\"",
                        extension.str(),
                        entry.name(),
                        String::from_utf8_lossy(&old)
                    );
                    cx.warn(&entry, message);
                }
            }
        }
        Ok(Self(Arc::new(map)))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let more = Self::parse(cx, directive)?;
        match slot {
            Some(have) => {
                Arc::make_mut(&mut have.0).extend(more.0.iter().map(|(k, v)| (k.clone(), v.clone())))
            }
            None => *slot = Some(more),
        }
        Ok(())
    }
}

/// `default_type`.
#[derive(Debug, Clone)]
pub struct MimeType(pub bytes::Bytes);

impl Value for MimeType {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self(bytes::Bytes::copy_from_slice(directive.arg(0))))
    }
}

/// `keepalive_timeout`.
#[derive(Debug, Clone, Copy)]
pub struct KeepaliveTimeout {
    /// How long the connection stays open.
    pub timeout: Milliseconds,
    /// Seconds for the `Keep-Alive` header.
    pub header: Option<u64>,
}

impl Value for KeepaliveTimeout {
    const ARGS: Args = Args::range(1, 2);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let timeout =
            parse_milliseconds(directive.arg(0)).ok_or_else(|| directive.complain("invalid value"))?;
        let header = match directive.args.get(1) {
            None => None,
            Some(word) => {
                Some(parse_seconds(&word.text).ok_or_else(|| directive.complain("invalid value"))?.as_secs())
            }
        };
        Ok(Self { timeout: Milliseconds(timeout), header: header.filter(|seconds| *seconds > 0) })
    }
}

/// `keepalive_disable`.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepaliveDisable {
    /// Old MSIE after a POST.
    pub msie6: bool,
    /// Safari on old macOS.
    pub safari: bool,
}

impl Value for KeepaliveDisable {
    const ARGS: Args = Args::at_least(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut value = Self::default();
        for (index, word) in directive.args.iter().enumerate() {
            match word.text.as_slice() {
                b"none" => value = Self::default(),
                b"msie6" => value.msie6 = true,
                b"safari" => value.safari = true,
                _ => return Err(directive.error_at(index, format!("invalid value \"{}\"", word.str()))),
            }
        }
        Ok(value)
    }
}

/// A rate or size that may hold variables.
#[derive(Debug, Clone)]
pub struct Rate {
    value: Complex,
    /// The number, when there are no variables.
    fixed: Option<u64>,
}

impl Rate {
    /// The number; 0 when the text is no size.
    #[must_use]
    pub fn value(&self, r: &crate::request::Request) -> u64 {
        self.fixed.unwrap_or_else(|| parse_size(&self.value.value(r)).map_or(0, |n| n as u64))
    }

    /// No limit.
    #[must_use]
    pub fn none() -> Self {
        Self { value: Complex::text(b"0"), fixed: Some(0) }
    }
}

impl Value for Rate {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let value = Complex::compile(cx, directive, 0)?;
        let fixed = match value.as_text() {
            None => None,
            Some(text) => Some(parse_size(text).ok_or_else(|| directive.complain("invalid value"))? as u64),
        };
        Ok(Self { value, fixed })
    }
}

/// `server_tokens`.
#[derive(Debug, Clone)]
pub enum ServerTokens {
    /// Name and version.
    On,
    /// The name alone.
    Off,
    /// Name, version and build.
    Build,
    /// Our own text; empty means no `Server` header.
    Text(Complex),
}

impl Value for ServerTokens {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(match directive.arg(0) {
            b"on" => Self::On,
            b"off" => Self::Off,
            b"build" => Self::Build,
            _ => Self::Text(Complex::compile(cx, directive, 0)?),
        })
    }
}

/// One `error_page`.
#[derive(Debug, Clone)]
pub struct ErrorPage {
    /// The statuses it is for.
    pub codes: Box<[u16]>,
    /// `=code`; `Some(0)` for a lone `=`: the page's own status.
    pub overwrite: Option<u16>,
    /// The URI, named location or URL.
    pub target: Complex,
    /// The query string, when the target is a plain URI that has one.
    pub args: bytes::Bytes,
}

impl Value for ErrorPage {
    const ARGS: Args = Args::at_least(2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (_, codes) = directive.args.split_last().ok_or_else(|| directive.complain("invalid value"))?;
        let mut codes = codes;
        let mut overwrite = None;
        if let Some((last, rest)) = codes.split_last()
            && let Some(code) = last.text.strip_prefix(b"=")
        {
            let at = codes.len().saturating_sub(1);
            overwrite = Some(match code {
                [] => 0,
                code => parse_number(code)
                    .and_then(|code| u16::try_from(code).ok())
                    .ok_or_else(|| directive.error_at(at, format!("invalid value \"{}\"", last.str())))?,
            });
            codes = rest;
            if codes.is_empty() {
                return Err(directive.error_at(at, format!("invalid value \"{}\"", last.str())));
            }
        }
        let codes = codes
            .iter()
            .enumerate()
            .map(|(at, word)| error_code(directive, at, &word.text))
            .collect::<Result<_>>()?;
        let last = directive.args.len().saturating_sub(1);
        let text = directive.arg(last).to_vec();
        let has_variables = text.contains(&b'$');
        let question =
            text.iter().position(|byte| *byte == b'?').filter(|_| text.starts_with(b"/") && !has_variables);
        let (path, args) = match question {
            Some(at) => {
                (text.get(..at).unwrap_or_default(), text.get(at.saturating_add(1)..).unwrap_or_default())
            }
            None => (text.as_slice(), [].as_slice()),
        };
        let target =
            Complex::compile_text(cx.state(), path).map_err(|message| directive.error_at(last, message))?;
        Ok(Self { codes, overwrite, target, args: bytes::Bytes::copy_from_slice(args) })
    }
}

fn error_code(directive: &Directive, at: usize, text: &[u8]) -> Result<u16> {
    let shown = String::from_utf8_lossy(text).into_owned();
    let code =
        parse_number(text).ok_or_else(|| directive.error_at(at, format!("invalid value \"{shown}\"")))?;
    if code == 499 {
        return Err(directive.error_at(at, format!("invalid value \"{shown}\"")));
    }
    u16::try_from(code)
        .ok()
        .filter(|code| (300..=599).contains(code))
        .ok_or_else(|| directive.error_at(at, format!("value \"{shown}\" must be between 300 and 599")))
}

/// A directory for temp files with hashed levels, made on first use.
#[derive(Debug, Clone)]
pub struct TempPath(TempDir);

impl TempPath {
    /// The default directory, relative to the prefix.
    #[must_use]
    pub fn unset(name: &str) -> Self {
        Self(TempDir { path: PathBuf::from(name), levels: [0; 3] })
    }

    /// The directory, absolute.
    #[must_use]
    pub fn directory(&self, prefix: &std::path::Path) -> PathBuf {
        prefix.join(&self.0.path)
    }

    /// A new temp file; with `keep` it stays when the request is over.
    pub fn create(&self, prefix: &std::path::Path, keep: bool) -> std::io::Result<TempFile> {
        let dir = TempDir { path: prefix.join(&self.0.path), levels: self.0.levels };
        let make = || if keep { Ok(dir.create_named()?) } else { dir.create() };
        let mut file = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                headwater_io::process::prepare_dir(&dir.path, None)?;
                make()?
            }
            other => other?,
        };
        if keep {
            file.keep();
        }
        Ok(file)
    }

    /// A new temp file with a name, which goes when it is dropped, unless it got another name before.
    pub fn create_named(&self, prefix: &std::path::Path) -> std::result::Result<TempFile, FileError> {
        let dir = TempDir { path: prefix.join(&self.0.path), levels: self.0.levels };
        match dir.create_named() {
            Err(failed)
                if failed.error.kind() == std::io::ErrorKind::NotFound
                    && headwater_io::process::prepare_dir(&dir.path, None).is_ok() =>
            {
                dir.create_named()
            }
            other => other,
        }
    }
}

impl Value for TempPath {
    const ARGS: Args = Args::range(1, 4);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut levels = [0; 3];
        for (slot, at) in levels.iter_mut().zip(1..directive.args.len()) {
            let level = parse_number(directive.arg(at)).and_then(|level| u8::try_from(level).ok());
            *slot = level.filter(|level| (1..=3).contains(level)).ok_or_else(|| {
                directive.error_at(at, format!("invalid value \"{}\"", directive.word(at).str()))
            })?;
        }
        Ok(Self(TempDir { path: cx.prefix_path(directive.arg(0)), levels }))
    }
}
