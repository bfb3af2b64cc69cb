//! Conditional requests: If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since.
//!
//! nginx's counterpart: `ngx_http_not_modified_filter_module.c`; RFC 9110 §13.

use headwater_conf::Result;
use headwater_wire::headers::KnownHeader;
use headwater_wire::{date, etag};

use super::{Filtered, HeaderFilter};
use crate::config::LocationBuilder;
use crate::config::core::IfModifiedSince;
use crate::request::{HeadersOut, Request};

/// Every location has it: it looks only at requests with such headers.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    builder.location.header_filters.push(Box::new(NotModified));
    Ok(())
}

struct NotModified;

const CONDITIONS: [KnownHeader; 4] = [
    KnownHeader::IfMatch,
    KnownHeader::IfUnmodifiedSince,
    KnownHeader::IfNoneMatch,
    KnownHeader::IfModifiedSince,
];

impl HeaderFilter for NotModified {
    fn filter(&self, r: &Request) -> Filtered {
        let out = &mut *r.headers_out.borrow_mut();
        if out.status() != 200 || !r.is_main() || out.no_not_modified {
            return Filtered::Pass;
        }
        let headers = &r.exchange.head.headers;
        if !CONDITIONS.iter().any(|known| headers.may_have(*known)) {
            return Filtered::Pass;
        }
        let tag = out.etag();
        if let Some(list) = headers.get(b"if-match")
            && !etag::matches(list, tag, false)
        {
            return Filtered::Status(412);
        }
        if let Some(value) = headers.get(b"if-unmodified-since") {
            let since = date::parse(value);
            if out.last_modified.is_none_or(|time| since.is_none_or(|since| time > since)) {
                return Filtered::Status(412);
            }
        }
        let since = headers.get(b"if-modified-since");
        let list = headers.get(b"if-none-match");
        if since.is_none() && list.is_none() {
            return Filtered::Pass;
        }
        if let Some(since) = since
            && modified(r, out, since)
        {
            return Filtered::Pass;
        }
        if let Some(list) = list
            && !etag::matches(list, tag, true)
        {
            return Filtered::Pass;
        }
        out.status = 304;
        out.status_line = None;
        out.content_type = None;
        out.content_length = None;
        out.allow_ranges = false;
        out.list.remove(b"Content-Encoding");
        out.list.remove(b"Accept-Ranges");
        Filtered::Pass
    }
}

fn modified(r: &Request, out: &HeadersOut, since: &[u8]) -> bool {
    let core = &r.loc().core;
    let Some(time) = out.last_modified else { return true };
    match core.if_modified_since {
        IfModifiedSince::Off => true,
        IfModifiedSince::Exact => date::parse(since) != Some(time),
        IfModifiedSince::Before => date::parse(since).is_none_or(|since| since < time),
    }
}
