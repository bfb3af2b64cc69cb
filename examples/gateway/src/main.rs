//! A gateway: several back ends are asked at the same time and their answers become one JSON document, each within its own deadline.
//!
//! `cargo run -p example-gateway -- -p examples/gateway -c nginx.conf`, then `curl http://127.0.0.1:8087/all`.

use std::process::ExitCode;
use std::time::Duration;

use headwater::module::prelude::*;

settings! {
    /// What is joined.
    pub struct JoinSettings, raw JoinRaw, module "join_module" {
        /// Adds the answer of the location of this URI to the document, under this name, unless it takes longer than the time.
        "join", LOCATION, "name uri time", "" => parts: List<Part> = List::default();
    }
}

/// One `join`.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    uri: Bytes,
    deadline: Duration,
}

impl Value for Part {
    const ARGS: Args = Args::exactly(3);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let deadline = headwater::conf::value::parse_milliseconds(directive.arg(2))
            .ok_or_else(|| directive.error_at(2, "invalid time"))?;
        let name = directive.word(0).str().into_owned();
        Ok(Self { name, uri: Bytes::copy_from_slice(directive.arg(1)), deadline })
    }
}

static JOIN: Module =
    Module { directives: &[JoinSettings::DIRECTIVES], build, ..Module::named("join_module") };

fn main() -> ExitCode {
    match headwater::Builder::from_command_line(std::env::args_os().skip(1)) {
        Ok(builder) => builder.module(&JOIN).run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let parts = builder.settings::<JoinSettings>().parts.to_vec();
    if !parts.is_empty() {
        builder.location.content_handler = Some(Arc::new(Gateway(parts)));
    }
    Ok(())
}

struct Gateway(Vec<Part>);

impl Handler for Gateway {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        Outcome::Wait(Box::pin(async move {
            let args = r.args.borrow().clone();
            // All of them run at once; one that is late is dropped, which cancels it.
            let answers = headwater::module::join_all(self.0.iter().map(|part| {
                let answer = r.subrequest(part.uri.clone()).args(args.clone()).limit(1 << 20).fetch();
                async move { tokio::time::timeout(part.deadline, answer).await }
            }));
            let mut document = String::from("{");
            for (part, answer) in self.0.iter().zip(answers.await) {
                let value = match answer {
                    Ok(Ok(answer)) if answer.status() == 200 => json(&answer.body),
                    Ok(Ok(answer)) => format!("{{\"error\":\"status {}\"}}", answer.status()),
                    Ok(Err(SubrequestError::ClientGone)) => return Outcome::Close(499),
                    Ok(Err(error)) => format!("{{\"error\":\"{error}\"}}"),
                    Err(_) => "{\"error\":\"too late\"}".to_owned(),
                };
                if document.len() > 1 {
                    document.push(',');
                }
                document.push_str(&format!("\"{}\":{value}", part.name));
            }
            document.push_str("}\n");
            say(r, document).await
        }))
    }
}

/// An answer as JSON: as it is when it looks like a document, else as a string.
fn json(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.starts_with(['{', '[', '"']) || text.parse::<f64>().is_ok() {
        return text.to_owned();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

async fn say(r: &Request, text: String) -> Outcome<'static> {
    {
        let mut head = r.headers_out.borrow_mut();
        head.status = 200;
        head.content_type = Some(Bytes::from_static(b"application/json"));
        head.content_length = Some(text.len() as u64);
    }
    let said = r.send_header().and_then(|()| r.push(Chunk::Bytes(text.into()), End::Last));
    match said {
        Ok(()) => r.drained().await.map_or_else(SendError::outcome, |()| Outcome::Done),
        Err(error) => error.outcome(),
    }
}
