//! HTTP/1 as protocol callbacks. nginx's counterpart: `ngx_http_proxy_process_status_line`, `ngx_http_proxy_process_header`,
//! `ngx_http_proxy_input_filter_init`.

use std::sync::Arc;

use bytes::Bytes;
use headwater_wire::headers::{HeaderList, KnownHeader};
use headwater_wire::http1::chunked::{ChunkedDecoder, LAST_CHUNK, encode_chunk_header};
use headwater_wire::http1::request::{Progress, Version};
use headwater_wire::http1::response::ResponseParser;
use headwater_wire::http1::semantics::{
    ResponseFraming, parse_length, response_connection_close, response_framing,
};
use headwater_wire::method::Method;

use super::url::Scheme;
use super::{HttpVersion, ProxyLocation};
use crate::request::Request;
use crate::upstream::protocol::{Header, Piece, Protocol, ResponseHead};

/// How the response body is framed, as far as it has been read.
enum Body {
    None,
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
    UntilClose,
}

/// One request to an HTTP/1 back end.
pub(super) struct Http1 {
    location: Arc<ProxyLocation>,
    scheme: Scheme,
    uri: Option<Bytes>,
    parser: ResponseParser,
    /// Bytes of interim responses before the head.
    skipped: usize,
    body: Body,
    keepalive: bool,
    chunked_request: bool,
    complete: bool,
}

impl Http1 {
    pub(super) fn new(location: Arc<ProxyLocation>, scheme: Scheme, uri: Option<Bytes>) -> Self {
        Self {
            location,
            scheme,
            uri,
            parser: ResponseParser::new(),
            skipped: 0,
            body: Body::None,
            keepalive: false,
            chunked_request: false,
            complete: false,
        }
    }

    /// Passes `103 Early Hints` on; other interim responses concern nobody but us.
    fn pass_hints(&self, r: &Request, hints: &HeaderList) {
        let wanted = r.is_main() && r.exchange.head.version() >= Version::Http11;
        if !wanted || r.header_sent.get() || !r.loc().core.early_hints.any(r) {
            return;
        }
        let mut head = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
        for line in hints.iter().filter(|line| !self.location.conf.hide.contains(line.known, line.name)) {
            for part in [line.name, b": ", line.value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
        head.extend_from_slice(b"\r\n");
        r.send_interim(&head);
    }

    fn take_head(&mut self, r: &Request, buffer: &[u8], length: usize, head: &mut ResponseHead) -> Header {
        let bytes =
            buffer.get(self.skipped..self.skipped.saturating_add(length)).unwrap_or_default().to_vec();
        let (line, lines) = self.parser.take();
        if line.http09 {
            head.status = 200;
            head.keepalive = false;
            self.body = Body::UntilClose;
            return Header::Ok(self.skipped);
        }
        let text = line.text.get(&bytes).to_vec();
        head.headers = HeaderList::adopt(bytes, lines);
        head.status = line.status;
        head.status_line = Some(text.into());
        let framing = match response_framing(line.status, r.method.get() == Method::Head, &head.headers) {
            Ok(framing) => framing,
            Err(error) => {
                let text = error.describe(&head.headers);
                return Header::Invalid(String::from_utf8_lossy(&text).into_owned());
            }
        };
        let declared = head.headers.get_known(KnownHeader::ContentLength).and_then(parse_length);
        (self.body, head.content_length) = match framing {
            ResponseFraming::None => (Body::None, declared),
            ResponseFraming::Length(length) => (Body::Length(length), Some(length)),
            ResponseFraming::Chunked => {
                let conf = &self.location.conf;
                let decoder = if conf.pass_trailers {
                    ChunkedDecoder::with_trailers(conf.buffer_size)
                } else {
                    ChunkedDecoder::new()
                };
                (Body::Chunked(Box::new(decoder)), None)
            }
            ResponseFraming::Close => (Body::UntilClose, None),
        };
        // nginx does not trust the keep-alive of an HTTP/1.0 response.
        let version_keeps = (line.version_major, line.version_minor) >= (1, 1);
        self.keepalive = version_keeps
            && self.location.http_version == HttpVersion::Http11
            && !matches!(self.body, Body::UntilClose)
            && !response_connection_close(&head.headers);
        head.keepalive = self.keepalive;
        head.upgrade = line.status == 101;
        Header::Ok(self.skipped.saturating_add(length))
    }
}

/// Whether the client asked to change the protocol; a 101 that nobody asked for is an interim response.
fn wants_upgrade(r: &Request) -> bool {
    r.exchange.head.headers.get_known(KnownHeader::Upgrade).is_some()
}

impl Protocol for Http1 {
    fn scheme(&self) -> &'static str {
        self.scheme.text()
    }

    fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }

    fn uri<'b>(&self, request: &'b [u8]) -> &'b [u8] {
        request.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> Result<(), u16> {
        let location = self.location.clone();
        self.chunked_request = location.template.write(r, &location, self.uri.as_deref(), out);
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {
        self.parser = ResponseParser::new();
        self.skipped = 0;
        self.body = Body::None;
        self.keepalive = false;
        self.complete = false;
    }

    fn encode_body(&mut self, data: &[u8], last: bool, out: &mut Vec<u8>) {
        if !self.chunked_request {
            out.extend_from_slice(data);
            return;
        }
        if !data.is_empty() {
            encode_chunk_header(data.len(), out);
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        if last {
            out.extend_from_slice(LAST_CHUNK);
        }
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        loop {
            let rest = buffer.get(self.skipped..).unwrap_or_default();
            match self.parser.parse(rest) {
                Ok(Progress::Partial) => return Header::Again,
                Err(error) => {
                    let span = self.parser.offending();
                    let line = String::from_utf8_lossy(span.get(rest)).into_owned();
                    let bad = rest.get(span.end()).copied().unwrap_or_default();
                    return Header::Invalid(format!("{}: \"{line}\\x{bad:02x}...\"", error.message()));
                }
                Ok(Progress::Complete { len }) => {
                    let status = self.parser.status_line().map_or(0, |line| line.status);
                    if (100..200).contains(&status) && !(status == 101 && wants_upgrade(r)) {
                        if status == 103 {
                            let head = rest.get(..len).unwrap_or_default().to_vec();
                            let (_, lines) = self.parser.take();
                            self.pass_hints(r, &HeaderList::adopt(head, lines));
                        }
                        head.status = status;
                        self.skipped = self.skipped.saturating_add(len);
                        self.parser = ResponseParser::new();
                        continue;
                    }
                    return self.take_head(r, buffer, len, head);
                }
            }
        }
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {}

    fn input_filter(&mut self, r: &Request, buffer: &[u8]) -> Result<Piece, String> {
        let piece = match &mut self.body {
            Body::None => {
                if !buffer.is_empty() {
                    self.keepalive = false;
                    r.log(
                        crate::flow::error_log::Level::Warn,
                        format_args!("upstream sent more data than specified in \"Content-Length\" header"),
                    );
                }
                // They stay in the buffer, so that the connection is not used again.
                Piece { consumed: 0, data: None, done: true }
            }
            Body::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left = left.saturating_sub(used as u64);
                let done = *left == 0;
                if done && buffer.len() > used {
                    // What follows a response was not asked for: the connection is not used again.
                    self.keepalive = false;
                    r.log(
                        crate::flow::error_log::Level::Warn,
                        format_args!("upstream sent more data than specified in \"Content-Length\" header"),
                    );
                }
                Piece { consumed: used, data: Some(0..used), done }
            }
            Body::Chunked(decoder) => {
                let step = decoder
                    .decode(buffer)
                    .map_err(|_| "upstream sent invalid chunked response".to_owned())?;
                if step.done && step.consumed < buffer.len() {
                    self.keepalive = false;
                    r.log(
                        crate::flow::error_log::Level::Warn,
                        format_args!("upstream sent data after final chunk"),
                    );
                }
                Piece { consumed: step.consumed, data: step.data, done: step.done }
            }
            Body::UntilClose => Piece { consumed: buffer.len(), data: Some(0..buffer.len()), done: false },
        };
        self.complete = piece.done;
        Ok(piece)
    }

    fn plain_bytes(&self) -> u64 {
        if let Body::Length(left) = self.body { left } else { 0 }
    }

    fn passed(&mut self, count: u64) {
        if let Body::Length(left) = &mut self.body {
            *left = left.saturating_sub(count);
        }
    }

    fn input_end(&mut self, _: &Request) -> bool {
        self.keepalive = false;
        matches!(self.body, Body::UntilClose | Body::None)
    }

    fn reusable(&self) -> bool {
        self.keepalive && self.complete
    }

    fn rewrite_redirect(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        super::redirect::rewrite(r, &self.location.redirects, value)
    }

    fn rewrite_cookie(&self, r: &Request, value: &[u8]) -> Option<Vec<u8>> {
        self.location.cookies.rewrite(r, value)
    }

    fn trailers(&mut self) -> Option<HeaderList> {
        match &mut self.body {
            Body::Chunked(decoder) => Some(decoder.take_trailers()).filter(|list| !list.is_empty()),
            _ => None,
        }
    }
}
