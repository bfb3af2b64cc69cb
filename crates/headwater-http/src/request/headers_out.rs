//! The response head under construction. nginx's counterpart: `ngx_http_headers_out_t`.

use bytes::Bytes;
use headwater_wire::headers::{HeaderList, KnownHeader};

/// The response head under construction. Fields that filters work with have places of their own; all else is in `list`.
#[derive(Default, Clone)]
pub struct HeadersOut {
    /// The status code; 0 means 200.
    pub status: u16,
    /// Code and reason as they came from a back end, `404 Not Here`.
    pub status_line: Option<Bytes>,
    /// Whether `list` has a back end's `Server`, so that ours is left out.
    pub has_server: bool,
    /// The same for `Date`.
    pub has_date: bool,
    /// `Content-Type` without a charset that was added here.
    pub content_type: Option<Bytes>,
    /// A charset to add to the type.
    pub charset: Option<Bytes>,
    /// A charset that a back end asks for (`X-Accel-Charset`).
    pub override_charset: Option<Bytes>,
    /// `Content-Length`.
    pub content_length: Option<u64>,
    /// `Last-Modified`, Unix seconds; sent in its own place unless `list` has the header.
    pub last_modified: Option<i64>,
    /// `Location`; made absolute when it starts with `/`.
    pub location: Option<Bytes>,
    /// Whether a `Location` that starts with `/` stays as it is.
    pub location_as_is: bool,
    /// Whether byte ranges may be served.
    pub allow_ranges: bool,
    /// Whether at most one range may be served.
    pub single_range: bool,
    /// Where the body starts in the whole entity (slice).
    pub content_offset: u64,
    /// Whether `Vary: Accept-Encoding` is due.
    pub vary_accept_encoding: bool,
    /// Whether If-Modified-Since and its like must not be tested.
    pub no_not_modified: bool,
    /// Everything else, in order.
    pub list: HeaderList,
    /// Trailer fields to send after a chunked body.
    pub trailers: Vec<(Bytes, Bytes)>,
    /// Whether trailers are to be sent though none is known yet.
    pub expect_trailers: bool,
}

impl HeadersOut {
    /// The status that will be sent.
    #[must_use]
    pub fn status(&self) -> u16 {
        if self.status == 0 { 200 } else { self.status }
    }

    /// Forgets the length, for filters that change the body.
    pub fn clear_content_length(&mut self) {
        self.content_length = None;
    }

    /// Forgets that ranges may be served.
    pub fn clear_accept_ranges(&mut self) {
        self.allow_ranges = false;
        self.list.remove(b"Accept-Ranges");
    }

    /// Forgets how old the body is and which version, for filters that make it anew each time.
    pub fn clear_last_modified(&mut self) {
        self.last_modified = None;
        self.list.remove_known(KnownHeader::LastModified);
        self.list.remove_known(KnownHeader::Etag);
    }

    /// `ETag`, quotes included.
    #[must_use]
    pub fn etag(&self) -> Option<&[u8]> {
        self.list.get_known(KnownHeader::Etag)
    }

    /// `Content-Encoding`.
    #[must_use]
    pub fn content_encoding(&self) -> Option<&[u8]> {
        self.list.get_known(KnownHeader::ContentEncoding)
    }

    /// Turns a strong entity tag into a weak one, for filters that change the body (nginx: `ngx_http_weak_etag`).
    pub fn weaken_etag(&mut self) {
        let Some(etag) = self.etag().map(<[u8]>::to_vec) else { return };
        if etag.starts_with(b"W/") && etag.len() > 2 {
            return;
        }
        if etag.starts_with(b"\"") {
            self.list.replace_known(KnownHeader::Etag, &[b"W/", etag.as_slice()].concat());
        } else {
            self.list.remove_known(KnownHeader::Etag);
        }
    }

    /// Forgets what described the body that will not be sent (nginx: before an error page).
    pub fn clear_body_headers(&mut self) {
        self.content_length = None;
        self.last_modified = None;
        self.list.remove_known(KnownHeader::LastModified);
        self.allow_ranges = false;
        self.list.remove_known(KnownHeader::Etag);
        self.list.remove_known(KnownHeader::ContentEncoding);
        self.list.remove(b"Accept-Ranges");
    }
}
