//! ngx_http_static_module, and the mapping of URIs to paths that other modules use too.
//!
//! nginx's counterpart: `ngx_http_static_module.c`, `ngx_http_map_uri_to_path`, `ngx_http_set_content_type`.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use headwater_conf::interpret::bytes_path;
use headwater_io::scratch::with_scratch;
use headwater_io::tempfile::{read_at, read_exact_at};
use headwater_wire::http1::chunked::push_hex;
use headwater_wire::method::Method;

use super::Module;
use super::open_files::{OpenFile, open};
use crate::config::{Location, LocationBuilder, LocationKind};
use crate::filters::{Chunk, End};
use crate::flow::error_log::Level;
use crate::flow::headers_out::escaped;
use crate::flow::out_queue::FileRange;
use crate::flow::output::SendError;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;

/// Files up to this size are read and sent with their head in one write.
const READ_LIMIT: u64 = 32 * 1024;

/// The module.
pub static MODULE: Module = Module { build, ..Module::named("ngx_http_static_module") };

fn build(builder: &mut LocationBuilder<'_, '_>) -> headwater_conf::Result<()> {
    builder.location.content.push(Box::new(Static));
    Ok(())
}

struct Static;

/// The document root of the request, absolute (nginx: `$document_root`).
#[must_use]
pub fn document_root(r: &Request) -> Vec<u8> {
    let location = r.loc();
    let value = match &location.alias {
        Some((alias, _)) => alias.value(r),
        None => location.core.root.path.value(r),
    };
    absolute(r, value.as_ref())
}

fn absolute(r: &Request, path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") || path.is_empty() {
        return path.to_vec();
    }
    r.exchange.generation.main.prefix.join(bytes_path(path)).as_os_str().as_bytes().to_vec()
}

fn alias_rest<'u>(location: &Location, length: usize, uri: &'u [u8]) -> &'u [u8] {
    match location.kind {
        LocationKind::Regex(_) => &[],
        _ => uri.get(length..).unwrap_or_default(),
    }
}

/// The path of a URI under the location's `root` or `alias`.
#[must_use]
pub fn map_path(r: &Request, uri: &[u8]) -> Vec<u8> {
    let location = r.loc();
    let mut path = document_root(r);
    // With the byte that ends it for the kernel.
    path.reserve(uri.len().saturating_add(1));
    match &location.alias {
        Some((_, length)) => path.extend_from_slice(alias_rest(location, *length, uri)),
        None => path.extend_from_slice(uri),
    }
    path
}

/// The MIME type by the URI's extension.
#[must_use]
pub fn content_type(r: &Request) -> Bytes {
    let core = &r.loc().core;
    let uri = r.uri.borrow();
    if let Some(range) = headwater_wire::uri::exten(&uri)
        && let Some(extension) = uri.get(range)
        && !extension.is_empty()
    {
        if let Some(kind) = core.types.0.get(extension) {
            return kind.clone();
        }
        if extension.iter().any(u8::is_ascii_uppercase)
            && let Some(kind) = core.types.0.get(extension.to_ascii_lowercase().as_slice())
        {
            return kind.clone();
        }
    }
    core.default_type.0.clone()
}

/// The status and log level for a file that cannot be opened.
pub fn open_failed(r: &Request, path: &[u8], error: &io::Error) -> u16 {
    let (level, status) = match error.raw_os_error() {
        Some(2 | 20 | 36) => (Level::Error, 404),
        Some(13 | 40) => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    if status != 404 || r.loc().core.log_not_found {
        let (path, text) = (String::from_utf8_lossy(path), crate::flow::os_error(error));
        r.log(level, format_args!("open() \"{path}\" failed {text}"));
    }
    status
}

/// Sets what the head says of a file: length, time, tag, type.
pub fn set_file_headers(r: &Request, metadata: &Metadata) {
    let kind = content_type(r);
    let core = &r.loc().core;
    let mut out = r.headers_out.borrow_mut();
    out.status = 200;
    out.content_length = Some(metadata.len());
    out.last_modified = Some(metadata.mtime());
    if core.etag {
        let mut tag = Vec::with_capacity(40);
        tag.push(b'"');
        push_hex(metadata.mtime().cast_unsigned(), &mut tag);
        tag.push(b'-');
        push_hex(metadata.len(), &mut tag);
        tag.push(b'"');
        out.list.set(b"ETag", &tag);
    }
    if out.content_type.is_none() {
        out.content_type = Some(kind);
    }
    out.allow_ranges = true;
}

impl Handler for Static {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let method = r.method.get();
        if !matches!(method, Method::Get | Method::Head | Method::Post) {
            return Outcome::Status(405);
        }
        let uri = r.uri.borrow().clone();
        if uri.ends_with(b"/") || uri.is_empty() {
            return Outcome::Declined;
        }
        let path = map_path(r, &uri);
        if path.contains(&0) {
            return Outcome::Status(404);
        }
        let opened = match open(r, &path) {
            Ok(opened) => opened,
            Err(error) => return Outcome::Status(open_failed(r, &path, &error)),
        };
        if opened.metadata.is_dir() {
            return redirect_to_directory(r, &uri);
        }
        if !opened.metadata.is_file() {
            r.log(Level::Crit, format_args!("\"{}\" is not a regular file", String::from_utf8_lossy(&path)));
            return Outcome::Status(404);
        }
        if method == Method::Post {
            return Outcome::Status(405);
        }
        r.action.set("sending response to client");
        set_file_headers(r, &opened.metadata);
        send_file(r, opened)
    }
}

fn redirect_to_directory<'a>(r: &Request, uri: &[u8]) -> Outcome<'a> {
    let mut target = escaped(uri);
    target.push(b'/');
    let args = r.args.borrow();
    if !args.is_empty() {
        target.push(b'?');
        target.extend_from_slice(&args);
    }
    r.headers_out.borrow_mut().location = Some(target.into());
    Outcome::Status(301)
}

/// Sends the head and the file as the body; the head's fields are set already.
pub fn send_file(r: &Request, opened: OpenFile) -> Outcome<'_> {
    if let Err(error) = r.send_header() {
        return error.outcome();
    }
    if r.header_only.get() || opened.metadata.len() == 0 {
        return finish(r, r.push_end());
    }
    let length = opened.metadata.len();
    let partial = r.headers_out.borrow().status() == 206;
    if length <= READ_LIMIT {
        return finish(r, push_small(r, &opened.file, length));
    }
    // Parts are cut from the whole file, in the order asked for.
    if partial || (r.loc().core.sendfile && !r.need_in_memory.get()) {
        let range = FileRange { file: opened.file, offset: 0, len: length };
        return finish(r, r.push(Chunk::File(range), End::Last));
    }
    Outcome::Wait(Box::pin(copy_file(r, opened)))
}

fn finish(r: &Request, pushed: Result<(), SendError>) -> Outcome<'_> {
    match pushed {
        Ok(()) if r.queued() == 0 => Outcome::Done,
        Ok(()) => Outcome::Wait(Box::pin(async move {
            match r.drained().await {
                Ok(()) => Outcome::Done,
                Err(error) => error.outcome(),
            }
        })),
        Err(error) => error.outcome(),
    }
}

fn push_small(r: &Request, file: &File, length: u64) -> Result<(), SendError> {
    with_scratch(|scratch| {
        let want = usize::try_from(length).unwrap_or(usize::MAX).min(scratch.len());
        let slot = scratch.get_mut(..want).unwrap_or_default();
        if let Err(error) = read_exact_at(file, slot, 0) {
            r.log(Level::Alert, format_args!("read() failed {}", crate::flow::os_error(&error)));
            return Err(SendError::Broken);
        }
        r.push(Chunk::Slice(slot), End::Last)
    })
}

async fn copy_file(r: &Request, opened: OpenFile) -> Outcome<'static> {
    let mut offset = 0;
    let length = opened.metadata.len();
    while offset < length {
        let read = with_scratch(|scratch| {
            let want =
                usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX).min(scratch.len());
            let slot = scratch.get_mut(..want).unwrap_or_default();
            let got = read_at(&opened.file, slot, offset);
            match got {
                Ok(got) if got > 0 => {
                    let end = if offset.saturating_add(got as u64) >= length { End::Last } else { End::More };
                    r.push(Chunk::Slice(slot.get(..got).unwrap_or_default()), end).map(|()| got)
                }
                Ok(_) => {
                    r.log(Level::Alert, format_args!("the file was truncated while it was being sent"));
                    Err(SendError::Broken)
                }
                Err(error) => {
                    r.log(Level::Alert, format_args!("pread() failed {}", crate::flow::os_error(&error)));
                    Err(SendError::Broken)
                }
            }
        });
        match read {
            Ok(got) => offset = offset.saturating_add(got as u64),
            Err(error) => return error.outcome(),
        }
        if let Err(error) = r.drained().await {
            return error.outcome();
        }
    }
    Outcome::Done
}
