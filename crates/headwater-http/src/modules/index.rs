//! ngx_http_index_module: URIs that end with a slash are answered by an index file. nginx's counterpart:
//! `ngx_http_index_module.c`.

use bytes::Bytes;
use headwater_conf::context::HSL;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_wire::method::Method;

use super::static_files::{map_path, open_failed};
use super::{Module, open_files};
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome, Redirect};
use crate::request::Request;
use crate::script::Complex;

/// The module.
pub static MODULE: Module =
    Module { directives: &[IndexSettings::DIRECTIVES], build, ..Module::named("ngx_http_index_module") };

settings! {
    /// Index files.
    pub struct IndexSettings, raw IndexRaw, module "ngx_http_index_module" {
        /// Sets the files that answer a URI with a slash at its end; the first that exists is used. The last may be an absolute path.
        "index", HSL, "file ...", "index.html" => files: IndexFiles = IndexFiles(vec![Complex::text(b"index.html")]);
    }
}

/// `index`.
#[derive(Debug, Clone)]
pub struct IndexFiles(Vec<Complex>);

impl Value for IndexFiles {
    const ARGS: Args = Args::at_least(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut files = Vec::new();
        let last = directive.args.len().saturating_sub(1);
        for index in 0..directive.args.len() {
            if directive.arg(index).is_empty() {
                return Err(directive.error_at(
                    index,
                    format!("index \"\" in \"{}\" directive is invalid", directive.name()),
                ));
            }
            if directive.arg(index).starts_with(b"/") && index != last {
                cx.warn(
                    directive,
                    format!("only the last index in \"{}\" directive should be absolute", directive.name()),
                );
            }
            files.push(Complex::compile(cx, directive, index)?);
        }
        Ok(Self(files))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let more = Self::parse(cx, directive)?;
        match slot {
            Some(have) => have.0.extend(more.0),
            None => *slot = Some(more),
        }
        Ok(())
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let files = builder.settings::<IndexSettings>().files.clone();
    builder.location.content.push(Box::new(files));
    Ok(())
}

impl Handler for IndexFiles {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let uri = r.uri.borrow().clone();
        if !uri.ends_with(b"/") || !matches!(r.method.get(), Method::Get | Method::Head | Method::Post) {
            return Outcome::Declined;
        }
        let directory = map_path(r, &uri);
        let mut directory_checked = false;
        for file in &self.0 {
            let name = file.value(r);
            if name.starts_with(b"/") {
                return Outcome::Redirect(Redirect::Uri(
                    Bytes::from(name.into_owned()),
                    r.args.borrow().clone(),
                ));
            }
            let mut path = directory.clone();
            path.extend_from_slice(&name);
            match open_files::test(r, &path) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(_) => {
                    let mut target = uri.to_vec();
                    target.extend_from_slice(&name);
                    return Outcome::Redirect(Redirect::Uri(target.into(), r.args.borrow().clone()));
                }
                Err(error) if matches!(error.raw_os_error(), Some(2 | 20)) => {
                    if !std::mem::replace(&mut directory_checked, true)
                        && let Some(status) = check_directory(r, &directory, &path)
                    {
                        return Outcome::Status(status);
                    }
                }
                Err(error) => return Outcome::Status(open_failed(r, &path, &error)),
            }
        }
        Outcome::Declined
    }
}

/// A missing directory is "not found" rather than "forbidden".
fn check_directory(r: &Request, directory: &[u8], path: &[u8]) -> Option<u16> {
    match open_files::test(r, directory) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => {
            r.log(
                Level::Alert,
                format_args!("\"{}\" is not a directory", String::from_utf8_lossy(directory)),
            );
            None
        }
        Err(error) if matches!(error.raw_os_error(), Some(2 | 20 | 36)) => {
            if r.loc().core.log_not_found {
                let text = crate::flow::os_error(&error);
                r.log(
                    Level::Error,
                    format_args!("\"{}\" is not found {text}", String::from_utf8_lossy(path)),
                );
            }
            Some(404)
        }
        Err(error) => Some(open_failed(r, directory, &error)),
    }
}
