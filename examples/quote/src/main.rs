//! The classic of subrequests: a page about a stock whose numbers another server knows.
//!
//! `cargo run -p example-quote -- -p examples/quote -c nginx.conf`, then `curl http://127.0.0.1:8085/quote?sh000001`.
//!
//! The handler asks the location of `quote` for the query string of its own request, takes the answer apart (`var hq="name,price,…";`) and makes a page of it. How the location gets the answer,
//! by proxying, from a file or from memcached, is the configuration's business.

use std::process::ExitCode;

use headwater::module::prelude::*;

settings! {
    /// Where the numbers come from.
    pub struct QuoteSettings, raw QuoteRaw, module "quote_module" {
        /// Answers with a page about the stock in the query string; its numbers come from the location of this URI.
        "quote", LOCATION, "uri", "" => source: Option<Text> = None;
    }
}

static QUOTE: Module =
    Module { directives: &[QuoteSettings::DIRECTIVES], build, ..Module::named("quote_module") };

fn main() -> ExitCode {
    match headwater::Builder::from_command_line(std::env::args_os().skip(1)) {
        Ok(builder) => builder.module(&QUOTE).run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let source = builder.own::<QuoteRaw>().and_then(|raw| raw.source.get().cloned().flatten());
    if let Some(source) = source {
        builder.location.content_handler = Some(Arc::new(Quote(Bytes::copy_from_slice(&source))));
    }
    Ok(())
}

struct Quote(Bytes);

impl Handler for Quote {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        Outcome::Wait(Box::pin(async move {
            let symbol = r.args.borrow().clone();
            let answer = match r.subrequest(self.0.clone()).args(symbol.clone()).fetch().await {
                Ok(answer) if answer.status() == 200 => answer,
                Ok(answer) => return Outcome::Status(answer.status()),
                Err(error) => {
                    r.log(Level::Error, format_args!("no quote: {error}"));
                    return Outcome::Status(502);
                }
            };
            match parse(&answer.body) {
                Some((name, price)) => say(r, format!("stock[{name}], price now: {price}\n")).await,
                None => Outcome::Status(502),
            }
        }))
    }
}

/// Name and price in `var …="name,price,…";`.
fn parse(body: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(body).ok()?;
    let mut fields = text.split('"').nth(1)?.split(',');
    Some((fields.next().filter(|name| !name.is_empty())?, fields.next()?))
}

async fn say(r: &Request, text: String) -> Outcome<'static> {
    {
        let mut head = r.headers_out.borrow_mut();
        head.status = 200;
        head.content_type = Some(Bytes::from_static(b"text/plain; charset=utf-8"));
        head.content_length = Some(text.len() as u64);
    }
    let said = r.send_header().and_then(|()| r.push(Chunk::Bytes(text.into()), End::Last));
    match said {
        Ok(()) => r.drained().await.map_or_else(SendError::outcome, |()| Outcome::Done),
        Err(error) => error.outcome(),
    }
}
