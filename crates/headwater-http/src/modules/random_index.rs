//! ngx_http_random_index_module: a request for a directory gets any one of its files.
//!
//! A content handler that redirects. nginx's counterpart: `ngx_http_random_index_module.c`.

use std::os::unix::ffi::OsStrExt as _;

use bytes::Bytes;
use headwater_conf::context::LOCATION;
use headwater_conf::interpret::bytes_path;
use headwater_conf::{Result, settings};
use headwater_wire::method::Method;

use super::Module;
use super::static_files::map_path;
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::{Handler, Outcome, Redirect};
use crate::request::Request;

/// The module.
pub static MODULE: Module = Module {
    directives: &[RandomIndexSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_random_index_module")
};

settings! {
    /// Any file of a directory.
    pub struct RandomIndexSettings, raw RandomIndexRaw, module "ngx_http_random_index_module" {
        /// Answers requests for a directory with any one of its files whose name does not begin with a dot.
        "random_index", LOCATION, "on | off", "off" => enable: bool = false;
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    if builder.settings::<RandomIndexSettings>().enable {
        builder.location.content.push(Box::new(RandomIndex));
    }
    Ok(())
}

struct RandomIndex;

impl Handler for RandomIndex {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let uri = r.uri.borrow().clone();
        if !uri.ends_with(b"/") || !matches!(r.method.get(), Method::Get | Method::Head | Method::Post) {
            return Outcome::Declined;
        }
        let path = map_path(r, &uri);
        let entries = match std::fs::read_dir(bytes_path(&path)) {
            Ok(entries) => entries,
            Err(error) => return unreadable(r, &path, &error),
        };
        let files: Vec<Vec<u8>> = entries
            .flatten()
            .filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()))
            .map(|entry| entry.file_name().as_bytes().to_vec())
            .filter(|name| !name.starts_with(b"."))
            .collect();
        let Some(file) = files.get(choose(files.len())) else { return Outcome::Declined };
        let target = [uri.as_ref(), file].concat();
        Outcome::Redirect(Redirect::Uri(target.into(), Bytes::new()))
    }
}

/// Any number below `limit`.
fn choose(limit: usize) -> usize {
    let mut bytes = [0; 8];
    // Without random numbers from the system any file will do.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    let number = u64::from_ne_bytes(bytes);
    usize::try_from(number % u64::try_from(limit.max(1)).unwrap_or(1)).unwrap_or(0)
}

fn unreadable<'a>(r: &Request, path: &[u8], error: &std::io::Error) -> Outcome<'a> {
    let (level, status) = match error.raw_os_error() {
        Some(2 | 20 | 36) => (Level::Error, 404),
        Some(13) => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    let shown = path.strip_suffix(b"/").filter(|path| !path.is_empty()).unwrap_or(path);
    let (path, text) = (String::from_utf8_lossy(shown), os_error(error));
    r.log(level, format_args!("opendir() \"{path}\" failed {text}"));
    Outcome::Status(status)
}
