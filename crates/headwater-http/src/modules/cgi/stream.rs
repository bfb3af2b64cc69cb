//! A conversation with a back end that takes a request and answers with a CGI head and a body until it closes: SCGI and uwsgi.
//!
//! The two differ in [`Encode`] alone. Called by their modules. nginx's counterpart: `ngx_http_scgi_process_header`, `ngx_http_scgi_input_filter_init`
//! and their copies for uwsgi.

use std::sync::Arc;

use bytes::Bytes;
use headwater_wire::cgi::CgiResponseParser;
use headwater_wire::headers::{HeaderList, KnownHeader};
use headwater_wire::http1::Progress;

use super::response::{Rest, invalid_line, take_head};
use crate::flow::phases::{BackEnd, Handler, Outcome};
use crate::flow::pinned::pinned;
use crate::request::Request;
use crate::upstream::pass::{Route, Security};
use crate::upstream::protocol::{Header, Piece, Protocol, ResponseHead};
use crate::upstream::settings::UpstreamConf;

/// How a protocol writes requests.
pub(in crate::modules) trait Encode: Send + Sync + 'static {
    /// `scgi://` or `uwsgi://`.
    const SCHEME: &'static str;
    /// How addresses begin whose connections are secured by TLS, if there are such.
    const SECURE_SCHEME: &'static str = Self::SCHEME;

    /// Appends a request without its body. An error is the response's status.
    fn encode(&self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16>;
}

/// A location that passes requests.
pub(in crate::modules) struct CgiLocation<E> {
    pub(in crate::modules) conf: UpstreamConf,
    pub(in crate::modules) route: Route,
    pub(in crate::modules) encode: E,
}

/// Its content handler.
pub(in crate::modules) struct CgiHandler<E>(pub(in crate::modules) Arc<CgiLocation<E>>);

impl<E: Encode> Handler for CgiHandler<E> {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let conversation = |security| Box::new(CgiStream::new(self.0.clone(), security)) as Box<dyn Protocol>;
        Outcome::Wait(pinned(|| self.0.route.run_with(r, &self.0.conf, conversation)))
    }

    fn back_end(&self) -> Option<BackEnd<'_>> {
        Some(self.0.route.back_end(&self.0.conf, true))
    }
}

/// One request.
struct CgiStream<E> {
    location: Arc<CgiLocation<E>>,
    security: Security,
    parser: CgiResponseParser,
    rest: Rest,
}

impl<E: Encode> CgiStream<E> {
    fn new(location: Arc<CgiLocation<E>>, security: Security) -> Self {
        Self { location, security, parser: CgiResponseParser::default(), rest: Rest::Unknown }
    }

    fn take_head(&mut self, r: &Request, bytes: &[u8], head: &mut ResponseHead) -> Result<(), String> {
        let (line, lines) = self.parser.take();
        let line = line.map(|line| (line.status, Bytes::copy_from_slice(line.text.get(bytes))));
        self.rest = take_head(r, HeaderList::adopt(bytes.to_vec(), lines), line, head)?;
        let asked = || r.exchange.head.headers.get_known(KnownHeader::Upgrade).is_some();
        head.upgrade = head.status == 101 && asked();
        Ok(())
    }
}

impl<E: Encode> Protocol for CgiStream<E> {
    fn scheme(&self) -> &'static str {
        match self.security {
            Security::Plain => E::SCHEME,
            Security::Tls => E::SECURE_SCHEME,
        }
    }

    fn is_secure(&self) -> bool {
        self.security == Security::Tls
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16> {
        self.location.encode.encode(r, out)
    }

    fn reinit_request(&mut self, _: &Request) {
        *self = Self::new(self.location.clone(), self.security);
    }

    fn needs_length(&self) -> bool {
        true
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        match self.parser.parse(buffer) {
            Ok(Progress::Partial) => Header::Again,
            Ok(Progress::Complete { len }) => {
                match self.take_head(r, buffer.get(..len).unwrap_or_default(), head) {
                    Ok(()) => Header::Ok(len),
                    Err(text) => Header::Invalid(text),
                }
            }
            Err(error) => Header::Invalid(invalid_line(error, self.parser.offending(), buffer)),
        }
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {}

    fn input_filter(&mut self, r: &Request, buffer: &[u8]) -> Result<Piece, String> {
        let consumed = buffer.len();
        if matches!(self.rest, Rest::Head(_)) {
            return Ok(Piece { consumed, data: None, done: true });
        }
        let counted = self.rest.take(r, E::SCHEME, consumed);
        Ok(Piece { consumed, data: Some(0..counted), done: self.rest == Rest::Length(0) })
    }

    fn plain_bytes(&self) -> u64 {
        if let Rest::Length(left) = self.rest { left } else { 0 }
    }

    fn passed(&mut self, count: u64) {
        if let Rest::Length(left) = &mut self.rest {
            *left = left.saturating_sub(count);
        }
    }

    fn input_end(&mut self, _: &Request) -> bool {
        !self.rest.is_missing()
    }

    // The end of the connection is the end of a response.
    fn reusable(&self) -> bool {
        false
    }
}
