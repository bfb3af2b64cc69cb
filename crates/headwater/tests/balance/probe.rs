//! The server of these tests: a module whose protocol speaks HTTP/1 and notes every call.

use std::collections::HashMap;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use headwater::module::prelude::*;
use headwater_testkit::fault::matrix::{CONF, NEXT};
use headwater_wire::headers::HeaderList as Lines;
use headwater_wire::http1::chunked::ChunkedDecoder;
use headwater_wire::http1::semantics::{ResponseFraming, response_framing};
use headwater_wire::http1::{Progress, ResponseParser};

upstream_family!("probe_", "probe_module", NextUpstream);

settings! {
    /// What only this module has.
    pub struct ProbeSettings, raw ProbeRaw, module "probe_module" {
        /// Passes requests on and notes the calls.
        "probe_pass", LOCATION, "address", "" => pass: Option<FixedPass> = None;
    }
}

static PROBE: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, ProbeSettings::DIRECTIVES],
    variables: &[VariableDef::new(
        "probe_calls",
        "probe_module",
        calls,
        "The calls of the cell that the argument names.",
    )],
    build,
    ..Module::named("probe_module")
};

/// The calls so far by cell, one letter each.
static CALLS: Mutex<Option<HashMap<Vec<u8>, String>>> = Mutex::new(None);

/// Serves with the module.
pub(crate) fn serve(args: Vec<OsString>) -> ExitCode {
    match headwater::Builder::from_command_line(args) {
        Ok(builder) => builder.module(&PROBE).run(),
        Err(_) => ExitCode::FAILURE,
    }
}

/// The configuration of the fault matrix, with this module instead of `proxy`.
pub(crate) fn conf() -> String {
    let mut conf = CONF.replace("proxy_http_version 1.1;", "").replace("%%NEXT%%", NEXT);
    while let Some(start) = conf.find("proxy_set_header") {
        let end = conf[start..].find(';').map_or(conf.len(), |end| start + end + 1);
        conf.replace_range(start..end, "");
    }
    let conf = conf.replace("proxy_pass http://", "probe_pass ").replace("proxy_", "probe_");
    conf.replace("location = /alive", "location = /calls { return 200 $probe_calls; }\n location = /alive")
}

fn note(cell: &[u8], letter: char) {
    let mut all = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().entry(cell.to_vec()).or_default().push(letter);
}

fn calls(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let args = r.args.borrow();
    let cell = args.strip_prefix(b"cell=").unwrap_or_default();
    let all = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(calls) = all.as_ref().and_then(|all| all.get(cell)) {
        out.extend_from_slice(calls.as_bytes());
    }
    true
}

struct ProbeLocation {
    conf: UpstreamConf,
    route: Route,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let Some(pass) = builder.own::<ProbeRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let conf = builder.settings::<FamilySettings>().conf(&[]);
    let route = Route::new(builder, &pass.0, plain_address)?;
    builder.location.content_handler = Some(Arc::new(ProbeLocation { conf, route }));
    Ok(())
}

impl Handler for ProbeLocation {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let args = r.args.borrow().to_vec();
        let probe = Probe {
            cell: r.uri.borrow().split(|byte| *byte == b'/').nth(2).unwrap_or_default().to_vec(),
            panics: String::from_utf8_lossy(args.strip_prefix(b"panic=").unwrap_or_default()).into_owned(),
            parser: ResponseParser::new(),
            skipped: 0,
            body: Body::Close,
        };
        Outcome::Wait(Box::pin(self.route.run(r, &self.conf, Box::new(probe))))
    }
}

enum Body {
    Length(u64),
    Chunked(ChunkedDecoder),
    Close,
}

struct Probe {
    cell: Vec<u8>,
    panics: String,
    parser: ResponseParser,
    skipped: usize,
    body: Body,
}

impl Probe {
    fn called(&self, letter: char, name: &str) {
        note(&self.cell, letter);
        assert!(!self.panics.split(',').any(|one| one == name), "{name} was told to panic");
    }
}

impl Protocol for Probe {
    fn scheme(&self) -> &'static str {
        "probe://"
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> std::result::Result<(), u16> {
        self.called('C', "create_request");
        out.extend_from_slice(r.method.get().as_str().as_bytes());
        out.extend_from_slice(b" ");
        out.extend_from_slice(&r.uri.borrow());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
        let length = r.stored_body().len();
        if length > 0 {
            out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {
        self.called('R', "reinit_request");
        self.parser = ResponseParser::new();
        self.skipped = 0;
        self.body = Body::Close;
    }

    fn needs_length(&self) -> bool {
        true
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        self.called('H', "process_header");
        loop {
            let rest = buffer.get(self.skipped..).unwrap_or_default();
            let len = match self.parser.parse(rest) {
                Ok(Progress::Partial) => return Header::Again,
                Err(_) => return Header::Invalid("no response".to_owned()),
                Ok(Progress::Complete { len }) => len,
            };
            let bytes = rest.get(..len).unwrap_or_default().to_vec();
            let (line, lines) = self.parser.take();
            let upgrade = line.status == 101 && r.header_in(b"upgrade").is_some();
            if (100..200).contains(&line.status) && !upgrade {
                self.skipped += len;
                self.parser = ResponseParser::new();
                continue;
            }
            head.status = line.status;
            head.headers = Lines::adopt(bytes, lines);
            head.upgrade = upgrade;
            if !line.http09 {
                self.body = match response_framing(line.status, false, &head.headers) {
                    Err(_) => return Header::Invalid("no length".to_owned()),
                    Ok(ResponseFraming::None) => Body::Length(0),
                    Ok(ResponseFraming::Length(length)) => Body::Length(length),
                    Ok(ResponseFraming::Chunked) => Body::Chunked(ChunkedDecoder::new()),
                    Ok(ResponseFraming::Close) => Body::Close,
                };
            }
            if let Body::Length(length) = self.body {
                head.content_length = Some(length);
            }
            return Header::Ok(self.skipped + len);
        }
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {
        self.called('I', "input_filter_init");
    }

    fn input_filter(&mut self, _: &Request, buffer: &[u8]) -> std::result::Result<Piece, String> {
        self.called('D', "input_filter");
        match &mut self.body {
            Body::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= used as u64;
                Ok(Piece { consumed: used, data: Some(0..used), done: *left == 0 })
            }
            Body::Chunked(decoder) => {
                let step = decoder.decode(buffer).map_err(|_| "invalid chunk".to_owned())?;
                Ok(Piece { consumed: step.consumed, data: step.data, done: step.done })
            }
            Body::Close => Ok(Piece { consumed: buffer.len(), data: Some(0..buffer.len()), done: false }),
        }
    }

    fn input_end(&mut self, _: &Request) -> bool {
        self.called('E', "input_end");
        matches!(self.body, Body::Close)
    }

    fn reusable(&self) -> bool {
        false
    }

    fn abort_request(&mut self, _: &Request) {
        self.called('A', "abort_request");
    }

    fn finalize_request(&mut self, _: &Request, _: u16) {
        self.called('F', "finalize_request");
    }
}
