//! A back end's response head becomes the client's: what is hidden, what is processed, what is rewritten, `X-Accel-*`.
//!
//! Called by `engine` once per response. nginx's counterpart: `ngx_http_upstream_process_headers` and the `headers_in` table.

use bytes::Bytes;
use headwater_conf::value::parse_size;
use headwater_wire::headers::{HeaderList, KnownHeader};

use super::protocol::{Protocol, ResponseHead};
use super::settings::{IgnoreHeaders, UpstreamConf};
use crate::flow::phases::Redirect;
use crate::request::Request;

/// What the response head asks for.
pub enum Verdict {
    /// Pass the response on.
    Pass,
    /// `X-Accel-Redirect`: another location answers.
    Redirect(Redirect),
}

/// Copies the head into the request's response head.
pub fn process(r: &Request, conf: &UpstreamConf, protocol: &dyn Protocol, head: &ResponseHead) -> Verdict {
    accel(r, conf, head);
    if !conf.ignore.has(IgnoreHeaders::ACCEL_REDIRECT)
        && let Some(target) = head.headers.get_known(KnownHeader::XAccelRedirect)
    {
        return redirect(r, head, target);
    }
    let mut out = r.headers_out.borrow_mut();
    out.status = head.status;
    if out.list.is_empty() {
        out.list = HeaderList::with_capacity(head.headers.buffer().len(), head.headers.len());
    }
    out.status_line = head.status_line.clone();
    out.content_length = head.content_length;
    for line in head.headers.iter() {
        if conf.hide.contains(line.known, line.name) {
            continue;
        }
        let copy = || Bytes::copy_from_slice(line.value);
        match line.known {
            KnownHeader::Connection | KnownHeader::KeepAlive | KnownHeader::TransferEncoding => {}
            KnownHeader::ContentLength => {}
            KnownHeader::ContentType => out.content_type = Some(copy()),
            KnownHeader::LastModified => {
                out.last_modified = headwater_wire::date::parse(line.value);
                out.list.push(line.name, line.value);
            }
            KnownHeader::Location | KnownHeader::Refresh => match protocol.rewrite_redirect(r, line.value) {
                Some(value) if line.known == KnownHeader::Location && value.starts_with(b"/") => {
                    out.location = Some(value.into());
                }
                Some(value) => out.list.push(line.name, &value),
                None => out.list.push(line.name, line.value),
            },
            KnownHeader::SetCookie => match protocol.rewrite_cookie(r, line.value) {
                Some(value) => out.list.push(line.name, &value),
                None => out.list.push(line.name, line.value),
            },
            KnownHeader::AcceptRanges if conf.force_ranges => {}
            KnownHeader::Server => {
                out.has_server = true;
                out.list.push(line.name, line.value);
            }
            KnownHeader::Date => {
                out.has_date = true;
                out.list.push(line.name, line.value);
            }
            _ => out.list.push(line.name, line.value),
        }
    }
    out.allow_ranges = conf.force_ranges;
    // A body that comes once and in order can be cut once.
    out.single_range = conf.force_ranges;
    Verdict::Pass
}

/// `X-Accel-Buffering`, `X-Accel-Limit-Rate`, `X-Accel-Charset`.
fn accel(r: &Request, conf: &UpstreamConf, head: &ResponseHead) {
    let get = |known, flag| head.headers.get_known(known).filter(|_| !conf.ignore.has(flag));
    if let Some(value) = get(KnownHeader::XAccelBuffering, IgnoreHeaders::ACCEL_BUFFERING) {
        if value.eq_ignore_ascii_case(b"no") {
            r.overrides.buffering.set(Some(false));
        } else if value.eq_ignore_ascii_case(b"yes") {
            r.overrides.buffering.set(Some(true));
        }
    }
    if let Some(value) = get(KnownHeader::XAccelLimitRate, IgnoreHeaders::ACCEL_LIMIT_RATE) {
        r.limit_rate.set(parse_size(value).map(|rate| rate as u64).or(r.limit_rate.get()));
    }
    if let Some(value) = get(KnownHeader::XAccelCharset, IgnoreHeaders::ACCEL_CHARSET) {
        r.headers_out.borrow_mut().override_charset = Some(Bytes::copy_from_slice(value));
    }
}

/// Keeps what survives an `X-Accel-Redirect` and says where it goes.
fn redirect(r: &Request, head: &ResponseHead, target: &[u8]) -> Verdict {
    {
        let mut out = r.headers_out.borrow_mut();
        for line in head.headers.iter() {
            match line.known {
                KnownHeader::ContentType => out.content_type = Some(Bytes::copy_from_slice(line.value)),
                KnownHeader::SetCookie | KnownHeader::CacheControl | KnownHeader::Expires => {
                    out.list.push(line.name, line.value);
                }
                _ if line.name.eq_ignore_ascii_case(b"content-disposition") => {
                    out.list.push(line.name, line.value)
                }
                _ => {}
            }
        }
    }
    if target.starts_with(b"@") {
        return Verdict::Redirect(Redirect::Named(Bytes::copy_from_slice(target)));
    }
    if r.method.get() != headwater_wire::method::Method::Head {
        r.method.set(headwater_wire::method::Method::Get);
    }
    match headwater_wire::uri::parse_unsafe_uri(target) {
        Ok(uri) => {
            let path = Bytes::from(uri.path.into_owned());
            let args =
                uri.args.and_then(|range| target.get(range)).map_or(Bytes::new(), Bytes::copy_from_slice);
            Verdict::Redirect(Redirect::Uri(path, args))
        }
        Err(_) => Verdict::Redirect(Redirect::Uri(Bytes::new(), Bytes::new())),
    }
}
