//! `auth_basic`: users and passwords of Basic authentication (RFC 7617).
//!
//! An access handler; `password` knows the hashes. nginx's counterpart: `ngx_http_auth_basic_module.c`.

mod password;

use std::io;
use std::path::{Path, PathBuf};

use headwater_conf::context::HSLX;
use headwater_conf::interpret::bytes_path;
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};
use headwater_wire::method::Method;

use super::Module;
use crate::config::LocationBuilder;
use crate::flow::error_log::Level;
use crate::flow::phases::{Handler, Outcome};
use crate::request::Request;
use crate::script::Complex;
use crate::script::core_variables::basic_credentials;

/// The module.
pub static MODULE: Module = Module {
    directives: &[AuthBasicSettings::DIRECTIVES],
    build,
    ..Module::named("ngx_http_auth_basic_module")
};

settings! {
    /// Who may enter, by user and password.
    pub struct AuthBasicSettings, raw AuthBasicRaw, module "ngx_http_auth_basic_module" {
        /// Asks for a user and a password, in the name of a realm.
        "auth_basic", HSLX, "string | off", "off" => realm: Option<Complex> = None;
        /// Sets the file of users and password hashes: `name:hash:comment` lines.
        "auth_basic_user_file", HSLX, "file", "" => user_file: Option<UserFile> = None;
    }
}

/// `auth_basic_user_file`: relative to the main file.
#[derive(Debug, Clone)]
pub struct UserFile {
    path: Complex,
    prefix: PathBuf,
}

impl Value for UserFile {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Self { path: Complex::compile(cx, directive, 0)?, prefix: cx.conf_prefix.clone() })
    }
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<AuthBasicSettings>();
    if let (Some(realm), Some(file)) = (&settings.realm, &settings.user_file)
        && realm.as_text() != Some(b"off")
    {
        let handler = AuthBasic { realm: realm.clone(), file: file.clone() };
        builder.location.access.push(Box::new(handler));
    }
    Ok(())
}

struct AuthBasic {
    realm: Complex,
    file: UserFile,
}

impl Handler for AuthBasic {
    fn handle<'a>(&'a self, r: &'a Request) -> Outcome<'a> {
        let realm = self.realm.value(r);
        if realm.as_ref() == b"off" {
            return Outcome::Declined;
        }
        let Some((user, password)) = basic_credentials(r) else {
            r.log(Level::Info, format_args!("no user/password was provided for basic authentication"));
            return ask(r, &realm);
        };
        let path = self.file.prefix.join(bytes_path(&self.file.path.value(r)));
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) => return unreadable(r, &path, &error),
        };
        let shown = String::from_utf8_lossy(&user);
        match password::find(&text, &user).map(|hash| password::verify(&password, hash)) {
            Some(Ok(true)) => Outcome::Ok,
            Some(Ok(false)) => {
                r.log(Level::Error, format_args!("user \"{shown}\": password mismatch"));
                ask(r, &realm)
            }
            Some(Err(error)) => {
                r.log(Level::Crit, format_args!("crypt_r() failed {}", crate::flow::os_error(&error)));
                Outcome::Status(500)
            }
            None => {
                r.log(Level::Error, format_args!("user \"{shown}\" was not found in \"{}\"", path.display()));
                ask(r, &realm)
            }
        }
    }
}

fn unreadable<'a>(r: &Request, path: &Path, error: &io::Error) -> Outcome<'a> {
    let (level, status) = match error.kind() {
        io::ErrorKind::NotFound => (Level::Error, 403),
        _ => (Level::Crit, 500),
    };
    let text = crate::flow::os_error(error);
    r.log(level, format_args!("open() \"{}\" failed {text}", path.display()));
    Outcome::Status(status)
}

/// Asks for credentials; a client that asks for a tunnel is asked the way of proxies.
fn ask<'a>(r: &Request, realm: &[u8]) -> Outcome<'a> {
    let (name, status): (&[u8], u16) = match r.method.get() {
        Method::Connect => (b"Proxy-Authenticate", 407),
        _ => (b"WWW-Authenticate", 401),
    };
    let value = [b"Basic realm=\"", realm, b"\""].concat();
    r.headers_out.borrow_mut().list.push(name, &value);
    Outcome::Status(status)
}
