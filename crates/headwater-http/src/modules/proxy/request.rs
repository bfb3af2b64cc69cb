//! The request to the back end: its line, headers and length. nginx's counterpart: `ngx_http_proxy_create_request`,
//! `ngx_http_proxy_init_headers`.

use headwater_conf::{Cx, Result};
use headwater_wire::escape::{Escape, escape_uri};

use super::url::Upstream;
use super::{FamilySettings, HttpVersion, Pass, ProxyLocation, ProxySettings};
use crate::request::Request;
use crate::script::{Complex, NameValue, Variables};
use crate::upstream::settings::NameSet;

/// Headers that a request gets unless `proxy_set_header` says otherwise; an empty value keeps the client's from passing.
const DEFAULTS: [(&str, &str); 8] = [
    ("Host", "$proxy_host"),
    ("Connection", ""),
    ("Content-Length", ""),
    ("Transfer-Encoding", ""),
    ("TE", ""),
    ("Keep-Alive", ""),
    ("Expect", ""),
    ("Upgrade", ""),
];

/// All that is known of the request at load.
pub(super) struct RequestTemplate {
    /// Headers to set, in order.
    set: Vec<NameValue>,
    /// Names of the client's headers that are not passed.
    replaced: NameSet,
    /// Whether the length is sent, which an own `Content-Length` or `Transfer-Encoding` prevents.
    sends_length: bool,
    method: Option<Complex>,
    body: Option<Complex>,
    pass_headers: bool,
    pass_body: bool,
}

impl RequestTemplate {
    pub(super) fn new(
        cx: &mut Cx<'_>,
        proxy: &ProxySettings,
        family: &FamilySettings,
        pass: &Pass,
    ) -> Result<Self> {
        let mut set: Vec<NameValue> = proxy.set_header.to_vec();
        let is_set = |set: &[NameValue], name: &str| {
            set.iter().any(|own| own.name.eq_ignore_ascii_case(name.as_bytes()))
        };
        let sends_length = !is_set(&set, "Content-Length") && !is_set(&set, "Transfer-Encoding");
        let mut replaced: Vec<Vec<u8>> = set.iter().map(|own| own.name.to_vec()).collect();
        for (name, value) in DEFAULTS {
            if is_set(&set, name) {
                continue;
            }
            replaced.push(name.as_bytes().to_vec());
            if !value.is_empty() {
                let value = Complex::compile_text(cx.state::<Variables>(), value.as_bytes())
                    .map_err(|message| pass.directive.error(message))?;
                set.push(NameValue { name: name.as_bytes().into(), value });
            }
        }
        set.retain(|own| own.value.as_text().is_none_or(|text| !text.is_empty()));
        Ok(Self {
            set,
            replaced: replaced.into_iter().collect(),
            sends_length,
            method: proxy.method.as_ref().map(|method| method.0.clone()),
            body: proxy.set_body.as_ref().map(|body| body.0.clone()),
            pass_headers: family.pass_request_headers,
            pass_body: family.pass_request_body,
        })
    }

    /// Writes the head; `uri` is that of a `proxy_pass` with variables. Gives whether the body will be chunked.
    pub(super) fn write(
        &self,
        r: &Request,
        location: &ProxyLocation,
        uri: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> bool {
        match &self.method {
            Some(method) => method.write(r, out),
            None if r.method.get() == r.exchange.head.line.method => {
                out.extend_from_slice(r.exchange.head.method_text());
            }
            None => out.extend_from_slice(r.method.get().as_str().as_bytes()),
        }
        out.push(b' ');
        write_uri(r, location, uri, out);
        out.extend_from_slice(match location.http_version {
            HttpVersion::Http10 => b" HTTP/1.0\r\n",
            HttpVersion::Http11 => b" HTTP/1.1\r\n",
        });
        for header in &self.set {
            write_header(r, header, out);
        }
        let own_body = self.body.as_ref().map(|body| body.value(r));
        let chunked = self.write_length(r, location, own_body.as_deref(), out);
        if self.pass_headers {
            for line in r.exchange.head.headers.iter() {
                if !self.replaced.contains(line.known, line.name) {
                    out.extend_from_slice(line.name);
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(line.value);
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
        out.extend_from_slice(b"\r\n");
        if let Some(body) = own_body {
            out.extend_from_slice(&body);
        }
        chunked
    }

    fn write_length(
        &self,
        r: &Request,
        location: &ProxyLocation,
        own: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> bool {
        let body = &r.exchange.body;
        let length = if let Some(own) = own {
            Some(own.len() as u64)
        } else if !self.pass_body {
            None
        } else if !r.is_main() {
            // A subrequest has of the client's body what was read of it.
            Some(r.stored_body().len()).filter(|length| *length > 0)
        } else if body.is_chunked() && !body.is_complete() {
            if self.sends_length && location.http_version == HttpVersion::Http11 {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            return true;
        } else if body.is_chunked() {
            Some(body.stored.borrow().len())
        } else {
            // A request without a body says nothing; one that said 0 says 0.
            match r.exchange.head.framing {
                headwater_wire::http1::semantics::BodyFraming::Length(_) => body.declared(),
                _ => None,
            }
        };
        if let Some(length) = length
            && self.sends_length
        {
            out.extend_from_slice(b"Content-Length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        false
    }
}

fn write_header(r: &Request, header: &NameValue, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&header.name);
    out.extend_from_slice(b": ");
    let before = out.len();
    header.value.write(r, out);
    if out.len() == before {
        out.truncate(start);
    } else {
        out.extend_from_slice(b"\r\n");
    }
}

fn write_uri(r: &Request, location: &ProxyLocation, dynamic: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(uri) = dynamic.filter(|uri| !uri.is_empty()) {
        out.extend_from_slice(uri);
        return;
    }
    let own: &[u8] = match &location.upstream {
        Upstream::Fixed { uri, .. } => uri,
        Upstream::Dynamic(_) => &[],
    };
    if own.is_empty() && r.valid_unparsed_uri.get() && r.is_main() {
        out.extend_from_slice(r.exchange.head.unparsed_uri());
        return;
    }
    let uri = r.uri.borrow();
    let replaces = r.location_found.get() && !own.is_empty();
    let skip = if replaces { r.loc().name.len() } else { 0 };
    if replaces {
        out.extend_from_slice(own);
    }
    let rest = uri.get(skip..).unwrap_or_default();
    let quoted = r.exchange.head.unparsed_uri().contains(&b'%');
    if quoted || r.internal.get() {
        escape_uri(rest, Escape::Uri, out);
    } else {
        out.extend_from_slice(rest);
    }
    let args = r.args.borrow();
    if !args.is_empty() {
        out.push(b'?');
        out.extend_from_slice(&args);
    }
}
