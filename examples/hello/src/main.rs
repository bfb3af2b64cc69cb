//! A module with a protocol of its own: `hello_pass` asks a search service and passes its answer on.
//!
//! `cargo run -p example-hello -- -p examples/hello -c nginx.conf`, then `curl 'http://127.0.0.1:8082/?lumia'`.
//!
//! The module forwards the query string of a request as `GET /search?q=…` to the back end that its directive names. It consists of the directive, the
//! callbacks that build a request and understand a response, and nothing else: connecting, time-outs, retries, buffering for slow clients, logs and `$upstream_*` come
//! with the engine.

use std::process::ExitCode;

use headwater::module::prelude::*;

upstream_family!("hello_", "hello_module", NextUpstream, [connection]);

settings! {
    /// What only this module has.
    pub struct HelloSettings, raw HelloRaw, module "hello_module" {
        /// Answers with what the search service at this address finds for the query string.
        "hello_pass", LOCATION, "address", "" => pass: Option<FixedPass> = None;
    }
}

static HELLO: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, HelloSettings::DIRECTIVES],
    build,
    ..Module::named("hello_module")
};

fn main() -> ExitCode {
    match headwater::Builder::from_command_line(std::env::args_os().skip(1)) {
        Ok(builder) => builder.module(&HELLO).run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A location that says `hello_pass`.
struct HelloLocation {
    conf: UpstreamConf,
    route: Route,
}

/// Called for every location while the configuration is loaded.
fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let Some(pass) = builder.own::<HelloRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let conf = UpstreamConf {
        buffering: true,
        buffers: 32 * 1024,
        ..builder.settings::<FamilySettings>().conf(&[])
    };
    let route = Route::new(builder, &pass.0, plain_address)?;
    builder.location.content_handler = Some(Arc::new(HelloLocation { conf, route }));
    Ok(())
}

impl Handler for HelloLocation {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        Outcome::Wait(Box::pin(self.route.run(r, &self.conf, Box::<Hello>::default())))
    }
}

/// One request to the search service.
#[derive(Default)]
struct Hello {
    /// Bytes of the body still to come, when the response says how many.
    left: Option<u64>,
}

impl Protocol for Hello {
    fn scheme(&self) -> &'static str {
        "hello://"
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> std::result::Result<(), u16> {
        out.extend_from_slice(b"GET /search?q=");
        out.extend_from_slice(&r.args.borrow());
        out.extend_from_slice(b" HTTP/1.0\r\nHost: search\r\nConnection: close\r\n\r\n");
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {
        *self = Self::default();
    }

    fn process_header(&mut self, _: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        let Some(length) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Header::Again;
        };
        let mut lines = buffer[..length].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines.next().and_then(|line| line.strip_prefix(b"HTTP/1.")?.get(2..5));
        let Some(status) = status.and_then(number) else {
            return Header::Invalid("upstream sent no valid status line".to_owned());
        };
        for line in lines {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let (name, value) =
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                head.content_length = number(value);
            } else {
                head.headers.push(name, value);
            }
        }
        head.status = u16::try_from(status).unwrap_or(502);
        Header::Ok(length + 4)
    }

    fn input_filter_init(&mut self, _: &Request, head: &ResponseHead) {
        self.left = head.content_length;
    }

    fn input_filter(&mut self, _: &Request, buffer: &[u8]) -> std::result::Result<Piece, String> {
        let used = self
            .left
            .map_or(buffer.len(), |left| buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.left = self.left.map(|left| left - used as u64);
        Ok(Piece { consumed: used, data: Some(0..used), done: self.left == Some(0) })
    }

    fn input_end(&mut self, _: &Request) -> bool {
        // Without a length the end of the connection is that of the body.
        self.left.is_none()
    }

    fn reusable(&self) -> bool {
        false
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
