//! An authorisation gate: a request passes when another location vouches for its token, and the answer is remembered for a while.
//!
//! `cargo run -p example-gate -- -p examples/gate -c nginx.conf`, then `curl -H 'X-Token: sesame' http://127.0.0.1:8089/`.
//!
//! An access handler. The token's owner, which the location says in its body, becomes `$gate_user`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater::module::prelude::*;

/// How long an answer is believed, and how many are remembered.
const BELIEVED: Duration = Duration::from_secs(5);
const REMEMBERED: usize = 10_000;

settings! {
    /// Who vouches.
    pub struct GateSettings, raw GateRaw, module "gate_module" {
        /// Lets requests pass whose `X-Token` the location of this URI knows (200, with the owner's name); `off` lets all pass.
        "gate", HSL, "uri | off", "off" => uri: Option<Text> = None;
    }
}

static GATE: Module = Module {
    directives: &[GateSettings::DIRECTIVES],
    variables: &[VariableDef::new("gate_user", "gate_module", user, "Whose token the request has.")],
    build,
    ..Module::named("gate_module")
};

fn main() -> ExitCode {
    match headwater::Builder::from_command_line(std::env::args_os().skip(1)) {
        Ok(builder) => builder.module(&GATE).run(),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<GateSettings>();
    if let Some(uri) = settings.uri.as_deref().filter(|uri| *uri != b"off") {
        let gate = Gate { uri: Bytes::copy_from_slice(uri), known: Mutex::default() };
        builder.location.access.push(Box::new(gate));
    }
    Ok(())
}

/// The owner, kept with the request.
struct User(String);

fn user(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    r.root().extension::<User>().is_some_and(|user| {
        out.extend_from_slice(user.0.as_bytes());
        true
    })
}

/// The owner of a token, none for one that is nobody's, and until when that is believed.
type Answer = (Option<String>, Instant);

struct Gate {
    uri: Bytes,
    known: Mutex<HashMap<Vec<u8>, Answer>>,
}

impl Handler for Gate {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let Some(token) = r.header_in(b"x-token") else { return Outcome::Status(401) };
        if let Some(owner) = self.remembered(token) {
            return verdict(r, owner);
        }
        Outcome::Wait(Box::pin(async move {
            match r.subrequest(self.uri.clone()).without_body().limit(256).fetch().await {
                Ok(answer) if answer.status() == 200 => {
                    let owner = Some(String::from_utf8_lossy(&answer.body).trim().to_owned());
                    self.remember(token, owner.clone());
                    verdict(r, owner)
                }
                Ok(answer) if answer.status() < 500 => {
                    self.remember(token, None);
                    verdict(r, None)
                }
                // Who cannot say no has not said yes; that is not remembered.
                Ok(_) | Err(_) => Outcome::Status(503),
            }
        }))
    }
}

impl Gate {
    fn remembered(&self, token: &[u8]) -> Option<Option<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(token).filter(|(_, until)| *until > Instant::now()).map(|(owner, _)| owner.clone())
    }

    fn remember(&self, token: &[u8], owner: Option<String>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(token.to_vec(), (owner, Instant::now() + BELIEVED));
    }
}

fn verdict(r: &Request, owner: Option<String>) -> Outcome<'static> {
    match owner {
        Some(owner) => {
            r.set_extension(User(owner));
            Outcome::Ok
        }
        None => Outcome::Status(403),
    }
}
