//! Values of the `*_ssl_*` directives. The directives are in `family`.
//!
//! Read at load; `client` makes a configuration of them. nginx's counterpart: the setters of `ngx_http_proxy_module.c` for TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headwater_conf::diagnostic::os_error;
use headwater_conf::value::{parse_number, parse_seconds};
use headwater_conf::{Args, Cx, Directive, Result, Value};

use crate::config::flags::flags;
use crate::script::Complex;

flags! {
    /// Words of `*_ssl_protocols`.
    pub ProtocolSet {
        /// Not supported.
        SSL2 = 1, "SSLv2";
        /// Not supported.
        SSL3 = 2, "SSLv3";
        /// Not supported.
        TLS1 = 3, "TLSv1";
        /// Not supported.
        TLS1_1 = 4, "TLSv1.1";
        /// TLS 1.2.
        TLS1_2 = 5, "TLSv1.2";
        /// TLS 1.3.
        TLS1_3 = 6, "TLSv1.3";
    }
}

/// `*_ssl_protocols`: at least one protocol that is supported.
#[derive(Debug, Clone, Copy)]
pub struct Protocols(pub ProtocolSet);

impl Protocols {
    /// The default.
    pub const USUAL: Self = Self(ProtocolSet::TLS1_2.and(ProtocolSet::TLS1_3));
    const OLD: [ProtocolSet; 4] =
        [ProtocolSet::SSL2, ProtocolSet::SSL3, ProtocolSet::TLS1, ProtocolSet::TLS1_1];
}

impl Value for Protocols {
    const ARGS: Args = ProtocolSet::ARGS;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let set = ProtocolSet::parse(cx, directive)?;
        if !set.has(ProtocolSet::TLS1_2) && !set.has(ProtocolSet::TLS1_3) {
            let message = format!("\"{}\" names no supported protocol", directive.name());
            return Err(directive.error(message).with_help("TLSv1.2 and TLSv1.3 are supported"));
        }
        if Self::OLD.iter().any(|old| set.has(*old)) {
            let message = format!(
                "\"{}\" names protocols before TLSv1.2, which are not supported and not used",
                directive.name()
            );
            cx.notice(directive, message);
        }
        Ok(Self(set))
    }
}

/// A text that may hold variables, and where it stands.
#[derive(Debug, Clone)]
pub struct Placed {
    /// For errors that show up later.
    pub directive: Directive,
    /// The text.
    pub value: Complex,
}

impl Value for Placed {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self { directive: directive.clone(), value: Complex::compile(cx, directive, 0)? })
    }
}

/// A file of certificates that is read when it is needed; its path is relative to the configuration's directory.
#[derive(Debug, Clone)]
pub struct NamedFile {
    /// For errors that show up later.
    pub directive: Directive,
    /// The path; none for an empty name, which stands for no file.
    pub path: Option<PathBuf>,
}

impl Value for NamedFile {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let name = directive.arg(0);
        let path = (!name.is_empty()).then(|| cx.conf_path(name));
        Ok(Self { directive: directive.clone(), path })
    }
}

/// `*_ssl_password_file`: passwords, which are tried one after the other.
#[derive(Clone, Default)]
pub struct Passwords(pub Arc<Vec<Vec<u8>>>);

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passwords", self.0.len())
    }
}

impl Value for Passwords {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let path = cx.conf_path(directive.arg(0));
        let text = cx.source.read(&path).map_err(|error| {
            directive.error(format!("open() \"{}\" failed {}", path.display(), os_error(&error)))
        })?;
        let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        Ok(Self(Arc::new(lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())))
    }
}

/// `*_ssl_certificate_cache`: how certificates whose names hold variables are kept.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// How many.
    pub max: usize,
    /// How long one stays that is not asked for.
    pub inactive: Duration,
    /// How long one is used before its file is read again.
    pub valid: Duration,
}

/// The same, where `off` stands for none.
#[derive(Debug, Clone, Copy, Default)]
pub struct CertificateCache(pub Option<CacheLimits>);

impl Value for CertificateCache {
    const ARGS: Args = Args::range(1, 3);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut limits =
            CacheLimits { max: 0, inactive: Duration::from_secs(10), valid: Duration::from_secs(60) };
        let mut off = false;
        for (index, word) in directive.args.iter().enumerate() {
            let seconds = |text| parse_seconds(text).ok_or_else(|| directive.invalid_parameter(index));
            if let Some(text) = word.after("max=") {
                let max = parse_number(text).filter(|max| *max > 0);
                limits.max = max.ok_or_else(|| directive.invalid_parameter(index))?;
            } else if let Some(text) = word.after("inactive=") {
                limits.inactive = seconds(text)?;
            } else if let Some(text) = word.after("valid=") {
                limits.valid = seconds(text)?;
            } else if word.is("off") {
                off = true;
            } else {
                return Err(directive.invalid_parameter(index));
            }
        }
        if off {
            return Ok(Self(None));
        }
        if limits.max == 0 {
            let message = format!("\"{}\" must have the \"max\" parameter", directive.name());
            return Err(directive.error(message));
        }
        Ok(Self(Some(limits)))
    }
}

/// One `*_ssl_conf_command`.
#[derive(Debug, Clone)]
pub struct ConfCommand {
    /// For errors that show up later.
    pub directive: Directive,
}

impl Value for ConfCommand {
    const ARGS: Args = Args::exactly(2);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self { directive: directive.clone() })
    }
}
