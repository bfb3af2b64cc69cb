//! ngx_http_autoindex_module: lists directories that have no index file.
//!
//! `formats` writes the listings; here the settings, the handler and the reading of the directory. nginx's counterpart:
//! `ngx_http_autoindex_module.c`.

mod formats;

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::HSL;
use headwater_conf::interpret::bytes_path;
use headwater_conf::{Result, keywords, settings};
use headwater_wire::method::Method;

use super::Module;
use super::static_files::map_path;
use crate::config::LocationBuilder;
use crate::filters::{Chunk, End};
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::script::core_variables::argument;

/// Names of a callback longer than this are refused, bytes.
const MAX_CALLBACK: usize = 128;

/// The module.
pub static MODULE: Module = Module {
    directives: &[AutoindexSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_autoindex_module")
};

keywords! {
    /// `autoindex_format`.
    pub enum Format {
        /// A page.
        Html = "html",
        /// A JSON array.
        Json = "json",
        /// A JSON array in a call of the function that the `callback` argument names.
        Jsonp = "jsonp",
        /// XML.
        Xml = "xml",
    }
}

settings! {
    /// Directory listings.
    pub struct AutoindexSettings, raw AutoindexRaw, module "ngx_http_autoindex_module" {
        /// Lists directories that have no index file.
        "autoindex", HSL, "on | off", "off" => enabled: bool = false;
        /// Sets the format of listings.
        "autoindex_format", HSL, "html | xml | json | jsonp", "html" => format: Format = Format::Html;
        /// Shows times of HTML listings in the local zone rather than in UTC.
        "autoindex_localtime", HSL, "on | off", "off" => local_time: bool = false;
        /// Shows exact sizes in HTML listings rather than rounded ones.
        "autoindex_exact_size", HSL, "on | off", "on" => exact_size: bool = true;
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<AutoindexSettings>();
    if settings.enabled {
        builder.location.content.push(Box::new(Autoindex(settings)));
    }
    Ok(())
}

struct Autoindex(Arc<AutoindexSettings>);

/// One file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: Vec<u8>,
    kind: Kind,
    /// Unix seconds.
    mtime: i64,
    size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Other,
}

impl Handler for Autoindex {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let uri = r.uri.borrow().clone();
        if !uri.ends_with(b"/") || !matches!(r.method.get(), Method::Get | Method::Head) {
            return Outcome::Declined;
        }
        let mut path = map_path(r, &uri);
        if path.len() > 1 {
            path.pop();
        }
        if path.contains(&0) {
            return Outcome::Status(404);
        }
        let (format, callback) = match self.0.format {
            Format::Jsonp => match callback(r) {
                Ok(callback) if callback.is_empty() => (Format::Json, callback),
                Ok(callback) => (Format::Jsonp, callback),
                Err(status) => return Outcome::Status(status),
            },
            format => (format, Vec::new()),
        };
        let directory = match std::fs::read_dir(bytes_path(&path)) {
            Ok(directory) => directory,
            Err(error) => return Outcome::Status(open_failed(r, &path, &error)),
        };
        set_headers(r, format);
        if let Err(error) = r.send_header() {
            return error.outcome();
        }
        if r.header_only.get() {
            return match r.push_end() {
                Ok(()) => drain(r),
                Err(error) => error.outcome(),
            };
        }
        let Some(entries) = read(r, &path, directory) else { return Outcome::Close(500) };
        let listing = match format {
            Format::Html => {
                let charset = r.headers_out.borrow().charset.clone();
                let page = formats::Page {
                    uri: &uri,
                    utf8: charset.is_some_and(|charset| charset.eq_ignore_ascii_case(b"utf-8")),
                    exact_size: self.0.exact_size,
                    offset: if self.0.local_time { local_offset() } else { 0 },
                };
                formats::html(&page, &entries)
            }
            Format::Json => formats::json(&entries, None),
            Format::Jsonp => formats::json(&entries, Some(&callback)),
            Format::Xml => formats::xml(&entries),
        };
        match r.push(Chunk::Bytes(listing.into()), End::Last) {
            Ok(()) => drain(r),
            Err(error) => error.outcome(),
        }
    }
}

fn drain(r: &Request) -> Outcome<'_> {
    Outcome::Wait(Box::pin(async move {
        match r.drained().await {
            Ok(()) => Outcome::Done,
            Err(error) => error.outcome(),
        }
    }))
}

fn set_headers(r: &Request, format: Format) {
    let mut out = r.headers_out.borrow_mut();
    out.status = 200;
    out.content_type = Some(Bytes::from_static(match format {
        Format::Html => b"text/html",
        Format::Json => b"application/json",
        Format::Jsonp => b"application/javascript",
        Format::Xml => b"text/xml",
    }));
    if format == Format::Xml {
        out.charset = Some(Bytes::from_static(b"utf-8"));
    }
}

/// The function's name for JSONP; it must not be able to hold anything but a name.
fn callback(r: &Request) -> std::result::Result<Vec<u8>, u16> {
    let args = r.args.borrow();
    let name = argument(&args, b"callback").unwrap_or_default();
    let problem = if name.len() > MAX_CALLBACK {
        "too long"
    } else if name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')) {
        return Ok(name.to_vec());
    } else {
        "invalid"
    };
    let shown = String::from_utf8_lossy(name);
    r.log(Level::Info, format_args!("client sent {problem} callback name: \"{shown}\""));
    Err(400)
}

fn open_failed(r: &Request, path: &[u8], error: &std::io::Error) -> u16 {
    let (level, status) = match error.raw_os_error() {
        Some(2 | 20 | 36) => (Level::Error, 404),
        Some(13) => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    let (path, text) = (String::from_utf8_lossy(path), crate::flow::os_error(error));
    r.log(level, format_args!("opendir() \"{path}\" failed {text}"));
    status
}

/// The local zone's present distance from UTC, whole minutes as seconds.
fn local_offset() -> i64 {
    let seconds = i64::from(chrono::Local::now().offset().local_minus_utc());
    seconds / 60 * 60
}

/// Reads a directory: directories first, then by name. `None` when it cannot be read to its end.
fn read(r: &Request, path: &[u8], directory: std::fs::ReadDir) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let failed = |call: &str, path: &[u8], error: &std::io::Error| {
        let (path, text) = (String::from_utf8_lossy(path), crate::flow::os_error(error));
        r.log(Level::Crit, format_args!("{call} \"{path}\" failed {text}"));
    };
    for item in directory {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                failed("readdir()", path, &error);
                return None;
            }
        };
        let name = item.file_name().as_bytes().to_vec();
        if name.starts_with(b".") {
            continue;
        }
        let full = [path, b"/", name.as_slice()].concat();
        let metadata = match std::fs::metadata(bytes_path(&full)) {
            Ok(metadata) => metadata,
            // A link that leads nowhere is shown as it is.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 40)) => {
                match std::fs::symlink_metadata(bytes_path(&full)) {
                    Ok(metadata) => metadata,
                    Err(error) => {
                        failed("lstat()", &full, &error);
                        return None;
                    }
                }
            }
            Err(error) => {
                failed("stat()", &full, &error);
                if error.raw_os_error() == Some(13) {
                    continue;
                }
                return None;
            }
        };
        let kind = match () {
            () if metadata.is_dir() => Kind::Directory,
            () if metadata.is_file() => Kind::File,
            () => Kind::Other,
        };
        entries.push(Entry { name, kind, mtime: metadata.mtime(), size: metadata.len() });
    }
    sort(&mut entries);
    Some(entries)
}

fn sort(entries: &mut [Entry]) {
    entries.sort_by(|a, b| {
        let (first, second) = (a.kind != Kind::Directory, b.kind != Kind::Directory);
        first.cmp(&second).then_with(|| a.name.cmp(&b.name))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_first_then_names_by_bytes() {
        let entry = |name: &str, kind| Entry { name: name.into(), kind, mtime: 0, size: 0 };
        let mut entries = [
            entry("b", Kind::File),
            entry("a", Kind::Other),
            entry("z", Kind::Directory),
            entry("B", Kind::File),
            entry("y", Kind::Directory),
        ];
        sort(&mut entries);
        let names: Vec<&[u8]> = entries.iter().map(|entry| entry.name.as_slice()).collect();
        assert_eq!(names, [&b"y"[..], b"z", b"B", b"a", b"b"]);
    }
}
