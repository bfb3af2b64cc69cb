//! memcached as protocol callbacks. nginx's counterpart: `ngx_http_memcached_create_request`, `ngx_http_memcached_process_header`,
//! `ngx_http_memcached_filter`.

use std::sync::Arc;

use headwater_wire::memcached::{BodyDecoder, End, Head, HeadError, HeadParser, shown_line, write_get};
use headwater_wire::method::Method;

use super::MemcachedLocation;
use crate::flow::error_log::Level;
use crate::modules::static_files::content_type;
use crate::request::Request;
use crate::upstream::protocol::{Header, Piece, Protocol, ResponseHead, log};

const SCHEME: &str = "memcached://";

/// One request.
pub(super) struct Memcached {
    location: Arc<MemcachedLocation>,
    /// The key as it was sent.
    key: Vec<u8>,
    parser: HeadParser,
    /// `None` when there is no value.
    body: Option<BodyDecoder>,
    /// The answer was read to its end and nothing came behind it.
    complete: bool,
}

impl Memcached {
    pub(super) fn new(location: Arc<MemcachedLocation>) -> Self {
        Self { location, key: Vec::new(), parser: HeadParser::default(), body: None, complete: false }
    }

    /// nginx's text for a line that was refused.
    fn refusal(&self, error: HeadError, line: &[u8]) -> String {
        let line = String::from_utf8_lossy(line);
        let what = match error {
            HeadError::Response => return format!("memcached sent invalid response: \"{line}\""),
            HeadError::Key => "key",
            HeadError::Flags => "flags",
            HeadError::Length => "length",
        };
        let key = String::from_utf8_lossy(&self.key);
        format!("memcached sent invalid {what} in response \"{line}\" for key \"{key}\"")
    }

    /// What memcached cannot say of a value follows from the request and the flags.
    fn set_type(&self, r: &Request, flags: u64) {
        let kind = content_type(r);
        let mut out = r.headers_out.borrow_mut();
        out.content_type = Some(kind);
        if flags & self.location.gzip_flag != 0 {
            out.list.push(b"Content-Encoding", b"gzip");
        }
    }
}

impl Protocol for Memcached {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16> {
        let key = self.location.key.value(r);
        if key.is_empty() {
            r.log(Level::Error, format_args!("the \"$memcached_key\" variable is not set"));
            return Err(500);
        }
        self.key = write_get(&key, out).get(out).to_vec();
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {
        self.parser = HeadParser::default();
        self.body = None;
        self.complete = false;
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        let wants_flags = self.location.gzip_flag != 0;
        let Some((used, found)) = self.parser.parse(buffer, &self.key, wants_flags) else {
            return Header::Again;
        };
        match found {
            Ok(Head::Value { flags, length }) => {
                self.set_type(r, flags);
                self.body = Some(BodyDecoder::new(length));
                head.status = 200;
                head.content_length = Some(length);
            }
            Ok(Head::NotFound) => {
                let key = String::from_utf8_lossy(&self.key);
                log(r, SCHEME, b"", Level::Info, format_args!("key: \"{key}\" was not found by memcached"));
                self.complete = used == buffer.len();
                head.status = 404;
                head.content_length = Some(0);
            }
            Err(error) => return Header::Invalid(self.refusal(error, shown_line(buffer, used))),
        }
        Header::Ok(used)
    }

    fn input_filter_init(&mut self, r: &Request, _: &ResponseHead) {
        if r.method.get() == Method::Head {
            // The value is of no use, and it may be long: the connection is closed instead.
            self.body = None;
        }
    }

    fn input_filter(&mut self, r: &Request, buffer: &[u8]) -> Result<Piece, String> {
        let Some(decoder) = &mut self.body else {
            return Ok(Piece { consumed: buffer.len(), data: None, done: true });
        };
        let step = decoder.decode(buffer);
        let whole = step.consumed == buffer.len();
        self.complete = step.end == End::Complete && whole;
        let done = step.end != End::More;
        if done && !self.complete {
            log(r, SCHEME, b"", Level::Error, format_args!("memcached sent invalid trailer"));
        }
        Ok(Piece { consumed: buffer.len(), data: step.data, done })
    }

    fn plain_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, BodyDecoder::left)
    }

    fn passed(&mut self, count: u64) {
        if let Some(decoder) = &mut self.body {
            decoder.skip(count);
        }
    }

    // An answer has its end in itself.
    fn input_end(&mut self, _: &Request) -> bool {
        false
    }

    fn reusable(&self) -> bool {
        self.complete
    }
}
