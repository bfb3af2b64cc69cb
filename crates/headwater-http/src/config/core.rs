//! Settings of the http core module, and its value types.
//!
//! Blocks (`http`, `server`, `location`) are in `config::blocks`, `listen` in `config::listen`. nginx's counterpart:
//! `ngx_http_core_module.c`.

use std::path::PathBuf;
use std::sync::Arc;

use headwater_conf::context::{HS, HSL, HSLI, HTTP, LOCATION};
use headwater_conf::value::{
    Buffers, List, Milliseconds, Number, Offset, Size, parse_milliseconds, parse_number, parse_seconds,
    parse_size,
};
use headwater_conf::{Args, Cx, Directive, Result, Value, keywords, settings};
use headwater_io::tempfile::{TempDir, TempFile};

use super::ignored::Ignored;
use crate::script::{Complex, Predicates};

settings! {
    /// Settings that count before the location is known.
    pub struct ServerSettings, raw ServerRaw, module "ngx_http_core_module" {
        /// Sets the size of the buffer for a usual request head.
        "client_header_buffer_size", HS, "size", "1k" => client_header_buffer_size: Size = Size(1024);
        /// Sets the number and size of buffers for a large request head. A request line larger than one is answered 414, a header line 400.
        "large_client_header_buffers", HS, "number size", "4 8k" => large_client_header_buffers: Buffers = Buffers { number: 4, size: 8192 };
        /// Limits the time in which the client must send the whole request head.
        "client_header_timeout", HS, "time", "60s" => client_header_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Limits the number of request header lines.
        "max_headers", HS, "number", "1000" => max_headers: Number = Number(1000);
        /// Drops request headers with invalid names instead of rejecting nothing.
        "ignore_invalid_headers", HS, "on | off", "on" => ignore_invalid_headers: bool = true;
        /// Merges adjacent slashes of a URI into one.
        "merge_slashes", HS, "on | off", "on" => merge_slashes: bool = true;
        /// Allows underscores in request header names.
        "underscores_in_headers", HS, "on | off", "off" => underscores_in_headers: bool = false;
    }
}

keywords! {
    /// `satisfy`.
    pub enum Satisfy {
        /// Every access check must pass.
        All = "all",
        /// One access check is enough.
        Any = "any",
    }
}

keywords! {
    /// `lingering_close`.
    pub enum Lingering {
        /// Never.
        Off = "off",
        /// When the client may still be sending.
        On = "on",
        /// Always.
        Always = "always",
    }
}

keywords! {
    /// `if_modified_since`.
    pub enum IfModifiedSince {
        /// The header is ignored.
        Off = "off",
        /// The times must be equal.
        Exact = "exact",
        /// The response's time must not be later.
        Before = "before",
    }
}

keywords! {
    /// `client_body_in_file_only`.
    pub enum BodyInFile {
        /// Only bodies that are too large for the buffer.
        Off = "off",
        /// Always, and the file stays.
        On = "on",
        /// Always, and the file goes with the request.
        Clean = "clean",
    }
}

impl BodyInFile {
    /// Whether every body goes to a file.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != BodyInFile::Off
    }
}

settings! {
    /// Settings of a location, from http and server down.
    pub struct CoreSettings, raw CoreRaw, module "ngx_http_core_module" {
        /// Sets the document root. The path may hold variables.
        "root", HSLI, "path", "html" => root: Root = Root::default_root();
        /// Maps file name extensions to MIME types.
        "types", HSL, "", "text/html html; image/gif gif; image/jpeg jpg;" => types: Types = Types::built_in();
        /// Sets the MIME type of files whose extension is not in `types`.
        "default_type", HSL, "mime-type", "text/plain" => default_type: MimeType = MimeType(bytes::Bytes::from_static(b"text/plain"));
        /// Limits the size of a request body; 0 means no limit.
        "client_max_body_size", HSL, "size", "1m" => client_max_body_size: Offset = Offset(1 << 20);
        /// Sets how much of a request body is kept in memory.
        "client_body_buffer_size", HSL, "size", "16k" => client_body_buffer_size: Size = Size(16384);
        /// Limits the time between two reads of a request body.
        "client_body_timeout", HSL, "time", "60s" => client_body_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Keeps every request body in a file.
        "client_body_in_file_only", HSL, "on | clean | off", "off" => client_body_in_file_only: BodyInFile = BodyInFile::Off;
        /// Keeps the request body in one buffer. Bodies in memory always are in one here.
        "client_body_in_single_buffer", HSL, "on | off", "off" => client_body_in_single_buffer: bool = false;
        /// Sets the directory of request body files.
        "client_body_temp_path", HSL, "path [level1 [level2 [level3]]]", "client_body_temp" => client_body_temp_path: TempPath = TempPath::unset("client_body_temp");
        /// Limits the time between two writes to the client.
        "send_timeout", HSL, "time", "60s" => send_timeout: Milliseconds = Milliseconds::from_secs(60);
        /// Sends data to the client only when there is at least this much.
        "postpone_output", HSL, "size", "1460" => postpone_output: Size = Size(1460);
        /// Sets how long an idle client connection stays open, and the time in the `Keep-Alive` header.
        "keepalive_timeout", HSL, "timeout [header_timeout]", "75s" => keepalive_timeout: KeepaliveTimeout = KeepaliveTimeout { timeout: Milliseconds::from_secs(75), header: None };
        /// Sets how long an idle client connection is safe from being closed for shutdown.
        "keepalive_min_timeout", HSL, "timeout", "0" => keepalive_min_timeout: Milliseconds = Milliseconds::from_secs(0);
        /// Limits the number of requests of one connection.
        "keepalive_requests", HSL, "number", "1000" => keepalive_requests: Number = Number(1000);
        /// Limits the time in which one connection may serve requests.
        "keepalive_time", HSL, "time", "1h" => keepalive_time: Milliseconds = Milliseconds::from_secs(3600);
        /// Turns keepalive off for some browsers.
        "keepalive_disable", HSL, "none | browser ...", "msie6" => keepalive_disable: KeepaliveDisable = KeepaliveDisable { msie6: true, safari: false };
        /// Requires all access checks to pass, or any.
        "satisfy", HSL, "all | any", "all" => satisfy: Satisfy = Satisfy::All;
        /// Limits the rate of responses, bytes per second.
        "limit_rate", HSLI, "rate", "0" => limit_rate: Rate = Rate::none();
        /// Sends this much before the rate is limited.
        "limit_rate_after", HSLI, "size", "0" => limit_rate_after: Rate = Rate::none();
        /// Keeps reading from a client after the last response, so that it can read it.
        "lingering_close", HSL, "off | on | always", "on" => lingering_close: Lingering = Lingering::On;
        /// Limits the time of lingering.
        "lingering_time", HSL, "time", "30s" => lingering_time: Milliseconds = Milliseconds::from_secs(30);
        /// Limits the time between two reads while lingering.
        "lingering_timeout", HSL, "time", "5s" => lingering_timeout: Milliseconds = Milliseconds::from_secs(5);
        /// Resets connections that timed out, so that the kernel frees their memory.
        "reset_timedout_connection", HSL, "on | off", "off" => reset_timedout_connection: bool = false;
        /// Makes redirects absolute.
        "absolute_redirect", HSL, "on | off", "on" => absolute_redirect: bool = true;
        /// Uses the first server name in redirects rather than the `Host` header.
        "server_name_in_redirect", HSL, "on | off", "off" => server_name_in_redirect: bool = false;
        /// Puts the port into redirects.
        "port_in_redirect", HSL, "on | off", "on" => port_in_redirect: bool = true;
        /// Sends files from the kernel's cache without copying.
        "sendfile", HSLI, "on | off", "off" => sendfile: bool = false;
        /// Limits how much one sendfile call may send.
        "sendfile_max_chunk", HSL, "size", "2m" => sendfile_max_chunk: Size = Size(2 << 20);
        /// Holds small packets back while a response with `sendfile` is put together.
        "tcp_nopush", HSL, "on | off", "off" => tcp_nopush: bool = false;
        /// Sends small packets at once.
        "tcp_nodelay", HSL, "on | off", "on" => tcp_nodelay: bool = true;
        /// Sends chunked responses to HTTP/1.1 clients when the length is unknown.
        "chunked_transfer_encoding", HSL, "on | off", "on" => chunked_transfer_encoding: bool = true;
        /// Generates `ETag` for static files.
        "etag", HSL, "on | off", "on" => etag: bool = true;
        /// Says how `If-Modified-Since` is compared.
        "if_modified_since", HSL, "off | exact | before", "exact" => if_modified_since: IfModifiedSince = IfModifiedSince::Exact;
        /// Limits the number of ranges of a request; 0 turns ranges off.
        "max_ranges", HSL, "number", "" => max_ranges: Number = Number(usize::MAX);
        /// Logs files that were not found.
        "log_not_found", HSL, "on | off", "on" => log_not_found: bool = true;
        /// Logs subrequests in the access log.
        "log_subrequest", HSL, "on | off", "off" => log_subrequest: bool = false;
        /// Lets `error_page` apply again while an error page is made.
        "recursive_error_pages", HSL, "on | off", "off" => recursive_error_pages: bool = false;
        /// Shows the version in error pages and in the `Server` header.
        "server_tokens", HSL, "on | off | build | string", "on" => server_tokens: ServerTokens = ServerTokens::On;
        /// Adds comments to error pages so that MSIE shows them.
        "msie_padding", HSL, "on | off", "on" => msie_padding: bool = true;
        /// Issues refreshes instead of redirects for MSIE.
        "msie_refresh", HSL, "on | off", "off" => msie_refresh: bool = false;
        /// Sets the pages or URIs for error statuses.
        "error_page", HSLI, "code ... [=[response]] uri", "" => error_page: List<ErrorPage> = List::default();
        /// Passes `103 Early Hints` of back ends on when one of the strings is neither empty nor `0`.
        "early_hints", HSL, "string ...", "" => early_hints: Predicates = Predicates::default();
        /// Sets the buffers for files that are read rather than sent by the kernel.
        "output_buffers", HSL, "number size", "2 32k" => output_buffers: Buffers = Buffers { number: 2, size: 32768 };
        /// Limits the size of a subrequest's response that is kept in memory.
        "subrequest_output_buffer_size", HSL, "size", "8k" => subrequest_output_buffer_size: Size = Size(8192);
        /// Warns in the log when a variable is used that nothing has set.
        "uninitialized_variable_warn", headwater_conf::context::REWRITE.or(HTTP), "on | off", "on" => uninitialized_variable_warn: bool = true;
    }
}

settings! {
    /// Settings of one location that those inside it do not take over.
    pub struct OwnSettings, raw OwnRaw, module "ngx_http_core_module" {
        /// Replaces the location's part of the URI by a path.
        "alias", LOCATION, "path", "" => alias: Option<Alias> = None;
        /// Makes the location usable for internal requests only.
        "internal", LOCATION, "", "" => internal: Presence = Presence(false);
    }
}

settings! {
    /// Directives of the core module that size nginx's own structures and mean nothing here.
    pub struct NoMeaning, raw NoMeaningRaw, module "ngx_http_core_module" {
        /// Has no meaning here: connections have no pools.
        "connection_pool_size", HS, "size", "512" => connection_pool_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: requests have no pools.
        "request_pool_size", HS, "size", "4k" => request_pool_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: name tables size themselves.
        "server_names_hash_max_size", HTTP, "size", "512" => server_names_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: name tables size themselves.
        "server_names_hash_bucket_size", HTTP, "size", "64" => server_names_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: type tables size themselves.
        "types_hash_max_size", HSL, "size", "1024" => types_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: type tables size themselves.
        "types_hash_bucket_size", HSL, "size", "64" => types_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: variable tables size themselves.
        "variables_hash_max_size", HTTP, "size", "1024" => variables_hash_max_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: variable tables size themselves.
        "variables_hash_bucket_size", HTTP, "size", "64" => variables_hash_bucket_size: Ignored<1, 1> = Ignored;
        /// Has no meaning here: the kernel reads ahead.
        "read_ahead", HSL, "size", "0" => read_ahead: Ignored<1, 1> = Ignored;
        /// Has no meaning on Linux.
        "send_lowat", HSL, "size", "0" => send_lowat: Ignored<1, 1> = Ignored;
    }
}

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
    fn default_root() -> Self {
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
    fn built_in() -> Self {
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
        let make = || if keep { dir.create_named() } else { dir.create() };
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
