//! The core modules' tables, and `try_files`, which is nginx's core too.
//!
//! nginx's counterpart: `ngx_http_core_module.c`, `ngx_http_try_files_module.c`, `ngx_syslog.c`.

use std::net::ToSocketAddrs as _;

use bytes::Bytes;
use headwater_conf::context::{LOCATION, SERVER};
use headwater_conf::value::parse_number;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_io::addr::Addr;
use headwater_io::syslog::{Syslog, SyslogOptions, facility, severity};

use super::{Module, open_files};
use crate::config::core::{CoreSettings, NoMeaning, OwnSettings, ServerSettings};
use crate::config::main::{EventSettings, MainSettings};
use crate::config::{LocationBuilder, decl, main};
use crate::flow::error_log::ErrorLogSettings;
use crate::flow::phases::{Handler, Outcome, Redirect};
use crate::request::Request;
use crate::script::Complex;

/// The main and events blocks, logs included.
pub static MAIN_MODULE: Module = Module {
    directives: &[
        &[headwater_conf::interpret::INCLUDE],
        main::DIRECTIVES,
        MainSettings::DIRECTIVES,
        EventSettings::DIRECTIVES,
        ErrorLogSettings::DIRECTIVES,
    ],
    ..Module::named("ngx_core_module")
};

/// The http core.
pub static MODULE: Module = Module {
    directives: &[
        decl::DIRECTIVES,
        ServerSettings::DIRECTIVES,
        CoreSettings::DIRECTIVES,
        OwnSettings::DIRECTIVES,
        NoMeaning::DIRECTIVES,
        TryFilesSettings::DIRECTIVES,
        open_files::OpenFileSettings::DIRECTIVES,
    ],
    variables: crate::script::core_variables::VARIABLES,
    build,
    ..Module::named("ngx_http_core_module")
};

settings! {
    /// `try_files`.
    pub struct TryFilesSettings, raw TryFilesRaw, module "ngx_http_core_module" {
        /// Uses the first file that exists; the last argument is a URI, a named location or `=code` for when none does.
        "try_files", SERVER.or(LOCATION), "file ... uri ;; file ... =code", "" => try_files: Option<TryFiles> = None;
    }
}

/// One `try_files`.
#[derive(Debug, Clone)]
pub struct TryFiles {
    files: Box<[(Complex, bool)]>,
    last: Last,
}

#[derive(Debug, Clone)]
enum Last {
    Status(u16),
    Uri(Complex),
}

impl Value for TryFiles {
    const ARGS: Args = Args::at_least(2);
    const INHERITS: bool = false;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let last_index = directive.args.len().saturating_sub(1);
        let mut files = Vec::new();
        for index in 0..last_index {
            let text = directive.arg(index).to_vec();
            let directory = text.ends_with(b"/") && text.len() > 1;
            let path = if directory { text.strip_suffix(b"/").unwrap_or(&text) } else { &text };
            let path = Complex::compile_text(cx.state(), path)
                .map_err(|message| directive.error_at(index, message))?;
            files.push((path, directory));
        }
        let last = match directive.arg(last_index).strip_prefix(b"=") {
            Some(code) => {
                let invalid = || {
                    let text = directive.word(last_index).str().into_owned();
                    directive.error_at(last_index, format!("invalid code \"{}\"", text))
                };
                let code =
                    parse_number(code).and_then(|code| u16::try_from(code).ok()).filter(|code| *code <= 999);
                Last::Status(code.ok_or_else(invalid)?)
            }
            None => Last::Uri(Complex::compile(cx, directive, last_index)?),
        };
        Ok(TryFiles { files: files.into(), last })
    }

    // nginx: a server's try_files works where no location was found; locations do not inherit it.
    fn inherit(_: &mut Option<Self>, _: &Option<Self>) {}
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    open_files::build(builder);
    if let Some(try_files) = builder.settings::<TryFilesSettings>().try_files.clone() {
        builder.location.precontent.push(Box::new(try_files));
    }
    Ok(())
}

impl Handler for TryFiles {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let location = r.loc();
        let root = super::static_files::document_root(r);
        for (file, directory) in &self.files {
            let name = file.value(r);
            let mut path = root.clone();
            match &location.alias {
                Some((_, length)) => path.extend_from_slice(name.get(*length..).unwrap_or(&name)),
                None => path.extend_from_slice(&name),
            }
            let Ok(metadata) = open_files::test(r, &path) else { continue };
            if metadata.is_dir() != *directory {
                continue;
            }
            // A directory is found without the slash that asked for it, so that the client is redirected to the one with it.
            *r.uri.borrow_mut() = Bytes::from(name.into_owned());
            r.valid_unparsed_uri.set(false);
            return Outcome::Declined;
        }
        match &self.last {
            Last::Status(code) => Outcome::Status(*code),
            Last::Uri(uri) => {
                let target = Bytes::from(uri.value(r).into_owned());
                if target.starts_with(b"@") {
                    return Outcome::Redirect(Redirect::Named(target));
                }
                match memchr::memchr(b'?', &target) {
                    Some(at) => {
                        let args = target.slice(at.saturating_add(1).min(target.len())..);
                        Outcome::Redirect(Redirect::Uri(target.slice(..at), args))
                    }
                    None => Outcome::Redirect(Redirect::Uri(target, Bytes::new())),
                }
            }
        }
    }
}

/// Reads `syslog:server=…,facility=…,severity=…,tag=…,nohostname` and makes the sender.
pub fn syslog(directive: &Directive, index: usize) -> Result<Syslog> {
    let text = directive.word(index).str().into_owned();
    let fail = |message: String| directive.error_at(index, message);
    let mut server = None;
    let mut options = SyslogOptions {
        server: Addr::unnamed_unix(),
        facility: 23,
        severity: 6,
        tag: "nginx".into(),
        hostname: Some(headwater_io::process::hostname()),
    };
    for part in text.strip_prefix("syslog:").unwrap_or_default().split(',') {
        match part.split_once('=') {
            Some(("server", value)) => {
                if server.is_some() {
                    return Err(fail("duplicate syslog \"server\"".into()));
                }
                server = Some(syslog_server(directive, index, value)?);
            }
            Some(("facility", value)) => {
                options.facility =
                    facility(value).ok_or_else(|| fail(format!("unknown syslog facility \"{value}\"")))?;
            }
            Some(("severity", value)) => {
                options.severity =
                    severity(value).ok_or_else(|| fail(format!("unknown syslog severity \"{value}\"")))?;
            }
            Some(("tag", value)) => {
                if value.len() > 32 {
                    return Err(fail("syslog tag length exceeds 32".into()));
                }
                if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    let message = "syslog \"tag\" only allows alphanumeric characters and underscore";
                    return Err(fail(message.into()));
                }
                options.tag = value.into();
            }
            None if part == "nohostname" => options.hostname = None,
            _ => return Err(fail(format!("unknown syslog parameter \"{part}\""))),
        }
    }
    options.server = server.ok_or_else(|| fail("no syslog server specified".into()))?;
    Syslog::new(options).map_err(|error| fail(format!("syslog: {}", crate::flow::os_error(&error))))
}

fn syslog_server(directive: &Directive, index: usize, value: &str) -> Result<Addr> {
    if let Some(path) = value.strip_prefix("unix:") {
        return Ok(Addr::unix(path));
    }
    let with_port =
        if value.ends_with(']') || !value.contains(':') { format!("{value}:514") } else { value.into() };
    let found = with_port.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found
        .map(Addr::Inet)
        .ok_or_else(|| directive.error_at(index, format!("host not found in syslog server \"{value}\"")))
}
