//! A module for a protocol that nginx lacks: `redis_pass` answers with values out of Redis.
//!
//! `cargo run -p example-redis -- -p examples/redis -c nginx.conf`, then `redis-cli set /hello world` and `curl http://127.0.0.1:8084/hello`.
//!
//! Shows keepalive: responses of RESP say how long they are, so that connections go back to the pool of the `upstream` block.

use std::process::ExitCode;

use headwater::module::prelude::*;

upstream_family!("redis_", "redis_module", NextUpstream, [connection]);

settings! {
    /// What only this module has.
    pub struct RedisSettings, raw RedisRaw, module "redis_module" {
        /// Answers with the value that Redis has for the location's key; 404 when there is none.
        "redis_pass", LOCATION, "address", "" => pass: Option<FixedPass> = None;
        /// Sets the key.
        "redis_key", HSL, "string", "$uri" => key: Option<Key> = None;
    }
}

/// `redis_key`: a text with variables.
#[derive(Debug, Clone)]
pub struct Key(Complex);

impl Value for Key {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self(Complex::compile(cx, directive, 0)?))
    }
}

static REDIS: Module = Module {
    directives: &[FamilySettings::DIRECTIVES, RedisSettings::DIRECTIVES],
    build,
    ..Module::named("redis_module")
};

fn main() -> ExitCode {
    match headwater::Builder::from_command_line(std::env::args_os().skip(1)) {
        Ok(builder) => builder.module(&REDIS).run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A location that says `redis_pass`.
struct RedisLocation {
    conf: UpstreamConf,
    route: Route,
    key: Complex,
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let Some(pass) = builder.own::<RedisRaw>().and_then(|raw| raw.pass.get().cloned().flatten()) else {
        return Ok(());
    };
    let conf = UpstreamConf {
        pass_request_body: false,
        buffering: true,
        buffers: 32 * 1024,
        ..builder.settings::<FamilySettings>().conf(&[])
    };
    let key = match &builder.settings::<RedisSettings>().key {
        Some(key) => key.0.clone(),
        None => Complex::compile_text(builder.cx.state::<Variables>(), b"$uri")
            .map_err(|message| pass.0.directive.error(message))?,
    };
    let route = Route::new(builder, &pass.0, plain_address)?;
    builder.location.content_handler =
        Some(Arc::new(RedisHandler(Arc::new(RedisLocation { conf, route, key }))));
    Ok(())
}

struct RedisHandler(Arc<RedisLocation>);

impl Handler for RedisHandler {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let conversation = Redis { location: self.0.clone(), left: 0 };
        Outcome::Wait(Box::pin(self.0.route.run(r, &self.0.conf, Box::new(conversation))))
    }
}

/// The line end behind a value.
const TRAILER: usize = 2;

/// One `GET`.
struct Redis {
    location: Arc<RedisLocation>,
    /// Bytes of the value and of its trailer still to come.
    left: usize,
}

impl Protocol for Redis {
    fn scheme(&self) -> &'static str {
        "redis://"
    }

    fn create_request(&mut self, r: &Request, out: &mut Vec<u8>) -> std::result::Result<(), u16> {
        let key = self.location.key.value(r);
        out.extend_from_slice(format!("*2\r\n$3\r\nGET\r\n${}\r\n", key.len()).as_bytes());
        out.extend_from_slice(&key);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn reinit_request(&mut self, _: &Request) {
        self.left = 0;
    }

    fn process_header(&mut self, r: &Request, buffer: &[u8], head: &mut ResponseHead) -> Header {
        let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else { return Header::Again };
        let line = buffer[..end].trim_ascii_end();
        let used = end + 1;
        match line.strip_prefix(b"$").map(std::str::from_utf8) {
            Some(Ok("-1")) => {
                head.status = 404;
                head.content_length = Some(0);
            }
            Some(Ok(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let Some(length) =
                    digits.parse::<usize>().ok().filter(|length| *length < usize::MAX - TRAILER)
                else {
                    return Header::Invalid("redis sent an impossible length".to_owned());
                };
                self.left = length + TRAILER;
                head.status = 200;
                head.content_length = Some(length as u64);
                r.headers_out.borrow_mut().content_type =
                    Some(Bytes::from_static(b"application/octet-stream"));
            }
            _ => {
                let line = String::from_utf8_lossy(line);
                return Header::Invalid(format!("redis sent \"{line}\" instead of a value"));
            }
        }
        Header::Ok(used)
    }

    fn input_filter_init(&mut self, _: &Request, _: &ResponseHead) {}

    fn input_filter(&mut self, _: &Request, buffer: &[u8]) -> std::result::Result<Piece, String> {
        let used = buffer.len().min(self.left);
        let data = used.min(self.left.saturating_sub(TRAILER));
        self.left -= used;
        Ok(Piece { consumed: used, data: Some(0..data), done: self.left == 0 })
    }

    fn input_end(&mut self, _: &Request) -> bool {
        false
    }

    fn reusable(&self) -> bool {
        self.left == 0
    }
}
