//! `stub_status`: the numbers of connections and requests.
//!
//! nginx's counterpart: `ngx_http_stub_status_module.c`.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use headwater_conf::context::{LOCATION, SERVER};
use headwater_conf::{Args, DirectiveDef, Result};
use headwater_wire::method::Method;

use super::Module;
use crate::config::LocationBuilder;
use crate::filters::{Chunk, End};
use crate::flow::output::SendError;
use crate::flow::phases::{Handler, Outcome};
use crate::flow::worker::Totals;
use crate::request::Request;
use crate::script::VariableDef;

const NAME: &str = "ngx_http_stub_status_module";

/// `ngx_http_stub_status_module`.
pub static MODULE: Module = Module {
    directives: &[DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named("ngx_http_stub_status_module")
};

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "stub_status",
    module: NAME,
    contexts: SERVER.or(LOCATION),
    // nginx has always taken one argument without looking at it.
    args: Args::range(0, 1),
    syntax: "",
    default: "",
    doc: "Answers requests for the location with the numbers of connections and requests.\n",
    set: |cx, _| {
        cx.raw::<StubStatus>().0 = true;
        Ok(())
    },
}];

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "connections_active",
        NAME,
        |r, _, out| number(r, out, |t| t.active),
        "Client connections, idle ones included.",
    ),
    VariableDef::new(
        "connections_reading",
        NAME,
        |r, _, out| number(r, out, |t| t.reading),
        "Connections whose request head is being read.",
    ),
    VariableDef::new(
        "connections_writing",
        NAME,
        |r, _, out| number(r, out, |t| t.writing),
        "Connections whose request is being answered.",
    ),
    VariableDef::new(
        "connections_waiting",
        NAME,
        |r, _, out| number(r, out, |t| t.waiting),
        "Idle client connections.",
    ),
];

/// Whether this very block says `stub_status`.
#[derive(Debug, Clone, Default)]
struct StubStatus(bool);

fn number(r: &Request, out: &mut Vec<u8>, field: fn(&Totals) -> u64) -> bool {
    // Writing to a vector cannot fail.
    let _ = std::io::Write::write_fmt(out, format_args!("{}", field(&r.connection().worker.shared.totals())));
    true
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    if builder.own::<StubStatus>().is_some_and(|own| own.0) {
        builder.location.content_handler = Some(Arc::new(Status));
    }
    Ok(())
}

struct Status;

impl Handler for Status {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        if !matches!(r.method.get(), Method::Get | Method::Head) {
            return Outcome::Status(405);
        }
        let body = page(&r.connection().worker.shared.totals());
        {
            let mut out = r.headers_out.borrow_mut();
            out.status = 200;
            out.content_type = Some(Bytes::from_static(b"text/plain"));
            out.content_length = Some(body.len() as u64);
        }
        match send(r, body.as_bytes()) {
            Ok(()) => Outcome::Wait(Box::pin(async move {
                match r.drained().await {
                    Ok(()) => Outcome::Done,
                    Err(error) => error.outcome(),
                }
            })),
            Err(error) => error.outcome(),
        }
    }
}

fn send(r: &Request, body: &[u8]) -> std::result::Result<(), SendError> {
    r.send_header()?;
    if r.header_only.get() { r.push_end() } else { r.push(Chunk::Slice(body), End::Last) }
}

fn page(totals: &Totals) -> String {
    let mut text = String::with_capacity(160);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Active connections: {} ", totals.active);
    let _ = writeln!(text, "server accepts handled requests");
    let _ = writeln!(text, " {} {} {} ", totals.accepted, totals.handled, totals.requests);
    let _ = writeln!(
        text,
        "Reading: {} Writing: {} Waiting: {} ",
        totals.reading, totals.writing, totals.waiting
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_nginx_form() {
        let totals =
            Totals { accepted: 5, handled: 4, requests: 9, active: 3, reading: 0, writing: 1, waiting: 2 };
        let expected = "Active connections: 3 \nserver accepts handled requests\n 5 4 9 \nReading: 0 Writing: 1 Waiting: 2 \n";
        assert_eq!(page(&totals), expected);
    }
}
