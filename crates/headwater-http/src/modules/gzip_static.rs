//! ngx_http_gzip_static_module: sends a file's ready-made `.gz` neighbour instead of it.
//!
//! Runs before the static module. nginx's counterpart: `ngx_http_gzip_static_module.c`.

use std::sync::Arc;

use headwater_conf::context::HSL;
use headwater_conf::{Result, keywords, settings};
use headwater_wire::headers::KnownHeader;
use headwater_wire::method::Method;

use super::Module;
use super::open_files::open;
use super::static_files::{map_path, send_file, set_file_headers};
use crate::config::LocationBuilder;
use crate::filters::gzip::acceptance::AcceptanceSettings;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;

/// The module.
pub static MODULE: Module = Module {
    directives: &[GzipStaticSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_gzip_static_module")
};

keywords! {
    /// `gzip_static`.
    pub enum GzipStatic {
        /// Never.
        Off = "off",
        /// To clients that accept gzip.
        On = "on",
        /// To all clients.
        Always = "always",
    }
}

settings! {
    /// Whether compressed files are looked for.
    pub struct GzipStaticSettings, raw GzipStaticRaw, module "ngx_http_gzip_static_module" {
        /// Sends the file with `.gz` added to its name, when there is one: to clients that accept gzip, or to all.
        "gzip_static", HSL, "on | off | always", "off" => mode: GzipStatic = GzipStatic::Off;
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let mode = builder.settings::<GzipStaticSettings>().mode;
    if mode != GzipStatic::Off {
        let acceptance = builder.settings::<AcceptanceSettings>();
        let always = mode == GzipStatic::Always;
        builder.location.content.push(Box::new(Compressed { always, acceptance }));
    }
    Ok(())
}

struct Compressed {
    always: bool,
    acceptance: Arc<AcceptanceSettings>,
}

impl Handler for Compressed {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let uri = r.uri.borrow().clone();
        if !matches!(r.method.get(), Method::Get | Method::Head) || uri.is_empty() || uri.ends_with(b"/") {
            return Outcome::Declined;
        }
        let accepted = self.always || self.acceptance.allows(r, &r.headers_out.borrow());
        // Whether there are two forms decides about Vary, so the file is looked for in any case then.
        if !accepted && !self.acceptance.vary {
            return Outcome::Declined;
        }
        let mut path = map_path(r, &uri);
        path.extend_from_slice(b".gz");
        if path.contains(&0) {
            return Outcome::Declined;
        }
        let opened = match open(r, &path) {
            Ok(opened) => opened,
            Err(error) => {
                log_open(r, &path, &error);
                return Outcome::Declined;
            }
        };
        if !self.always {
            r.headers_out.borrow_mut().vary_accept_encoding = self.acceptance.vary;
        }
        if !accepted || opened.metadata.is_dir() {
            return Outcome::Declined;
        }
        if !opened.metadata.is_file() {
            r.log(Level::Crit, format_args!("\"{}\" is not a regular file", String::from_utf8_lossy(&path)));
            return Outcome::Status(404);
        }
        r.action.set("sending response to client");
        set_file_headers(r, &opened.metadata);
        r.headers_out.borrow_mut().list.push_known(KnownHeader::ContentEncoding, b"gzip");
        send_file(r, opened)
    }
}

/// Most files have no compressed neighbour: only what is odd is logged.
fn log_open(r: &Request, path: &[u8], error: &std::io::Error) {
    let level = match error.raw_os_error() {
        Some(2 | 20 | 36) => return,
        Some(13 | 40) => Level::Error,
        _ => Level::Crit,
    };
    let (path, text) = (String::from_utf8_lossy(path), crate::flow::os_error(error));
    r.log(level, format_args!("open() \"{path}\" failed {text}"));
}
