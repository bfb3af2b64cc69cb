//! ngx_http_userid_filter_module: cookies that tell clients apart.
//!
//! A header filter. nginx's counterpart: `ngx_http_userid_filter_module.c`.

use std::cell::Cell;
use std::io::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use headwater_conf::context::HSL;
use headwater_conf::value::{Number, Text, parse_seconds};
use headwater_conf::{Args, Cx, Directive, Result, Value, keywords, settings};
use headwater_wire::base64;
use headwater_wire::headers::KnownHeader;

use super::{Filtered, HeaderFilter};
use crate::config::LocationBuilder;
use crate::config::flags::flags;
use crate::flow::error_log::Level;
use crate::modules::Module;
use crate::request::Request;
use crate::script::core_variables::cookie_in;
use crate::script::{VarIndex, VariableDef, Variables};

const NAME: &str = "ngx_http_userid_filter_module";

/// The module.
pub static MODULE: Module =
    Module { directives: &[UserIdSettings::DIRECTIVES], variables: VARIABLES, ..Module::named(NAME) };

settings! {
    /// Cookies that tell clients apart.
    pub struct UserIdSettings, raw UserIdRaw, module "ngx_http_userid_filter_module" {
        /// Sets cookies, of the second or the first version, or only reads those that come.
        "userid", HSL, "on | v1 | log | off", "off" => mode: Mode = Mode::Off;
        /// Sets the number of the server in the identifier; otherwise the second version takes the server's address.
        "userid_service", HSL, "number", "" => service: Option<Number> = None;
        /// Sets the name of the cookie.
        "userid_name", HSL, "name", "uid" => name: Text = Text::from("uid");
        /// Sets the domain of the cookie.
        "userid_domain", HSL, "name | none", "none" => domain: Text = Text::from("none");
        /// Sets the path of the cookie.
        "userid_path", HSL, "path", "/" => path: Text = Text::from("/");
        /// Sets how long the client keeps the cookie.
        "userid_expires", HSL, "time | max | off", "off" => expires: Expires = Expires::Off;
        /// Adds flags to the cookie.
        "userid_flags", HSL, "off | flag ...", "off" => flags: CookieFlags = CookieFlags::OFF;
        /// Sets the `P3P` header that goes with the cookie.
        "userid_p3p", HSL, "string | none", "none" => p3p: Text = Text::from("none");
        /// Sets a mark at the end of the identifier; cookies without it are sent again.
        "userid_mark", HSL, "letter | digit | = | off", "off" => mark: Mark = Mark(None);
    }
}

keywords! {
    /// `userid`.
    pub enum Mode {
        /// Nothing.
        Off = "off",
        /// Cookies are read.
        Log = "log",
        /// Cookies of the first version are set.
        V1 = "v1",
        /// Cookies of the second version are set.
        On = "on",
    }
}

flags! {
    /// `userid_flags`.
    pub CookieFlags {
        /// None.
        OFF = 0, "off";
        /// Over TLS only.
        SECURE = 1, "secure";
        /// Not for scripts.
        HTTP_ONLY = 2, "httponly";
        /// Only from the same site.
        STRICT = 3, "samesite=strict";
        /// From the same site, and along links.
        LAX = 4, "samesite=lax";
        /// From everywhere.
        NONE = 5, "samesite=none";
    }
}

/// `userid_expires`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// With the session.
    Off,
    /// As late as there is.
    Max,
    /// After so many seconds.
    After(i64),
}

impl Value for Expires {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(match directive.arg(0) {
            b"max" => Self::Max,
            b"off" => Self::Off,
            text => {
                let time = parse_seconds(text).ok_or_else(|| directive.complain("invalid value"))?;
                match i64::try_from(time.as_secs()).unwrap_or(i64::MAX) {
                    0 => Self::Off,
                    seconds => Self::After(seconds),
                }
            }
        })
    }
}

/// `userid_mark`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub Option<u8>);

impl Value for Mark {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        match directive.arg(0) {
            b"off" => Ok(Self(None)),
            [mark] if mark.is_ascii_alphanumeric() || *mark == b'=' => Ok(Self(Some(*mark))),
            _ => Err(directive.complain("value must be \"off\" or a single letter, digit or \"=\"")),
        }
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new("uid_got", NAME, uid_got, "Name and identifier of the cookie that came."),
    VariableDef::new("uid_set", NAME, uid_set, "Name and identifier of the cookie that is sent."),
    VariableDef::new(
        "uid_reset",
        NAME,
        |r, _, out| {
            if let Some(reset) = r.root().extension::<Reset>() {
                out.extend_from_slice(&reset.0);
            }
            true
        },
        "Assigned by the configuration: when neither empty nor `0`, a new cookie is sent.",
    )
    .assignable(|r, value| {
        r.root().set_extension(Reset(value.to_vec()));
    }),
];

/// What `set $uid_reset` assigned.
struct Reset(Vec<u8>);

/// Puts the filter into locations that set cookies, and the settings into those that read them.
pub fn install(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let settings = builder.settings::<UserIdSettings>();
    if settings.mode == Mode::Off {
        return Ok(());
    }
    let reset = builder.cx.state::<Variables>().index("uid_reset");
    let user = Arc::new(UserId { settings, reset });
    if matches!(user.settings.mode, Mode::V1 | Mode::On) {
        builder.location.header_filters.push(Box::new(Filter(user.clone())));
    }
    builder.attach(user);
    Ok(())
}

struct UserId {
    settings: Arc<UserIdSettings>,
    reset: VarIndex,
}

struct Filter(Arc<UserId>);

/// An identifier: service, time, process, number.
type Id = [u32; 4];

/// What is known of one request's cookie.
#[derive(Default)]
struct Known {
    cookie: Vec<u8>,
    got: Option<Id>,
    set: Cell<Option<Id>>,
    reset: Cell<bool>,
}

/// The first numbers of this process, and the next of the second version.
static START: OnceLock<u32> = OnceLock::new();
static NEXT_V1: AtomicU32 = AtomicU32::new(1);
static NEXT_V2: AtomicU32 = AtomicU32::new(FIRST_V2);
const FIRST_V2: u32 = 0x0303_0302;

fn uid_got(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let root = r.root();
    match root.loc().settings::<UserId>() {
        Some(user) => write_id(&user.settings.name, user.known(root).got, out),
        None => false,
    }
}

fn uid_set(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    let root = r.root();
    match root.loc().settings::<UserId>() {
        Some(user) if user.settings.mode != Mode::Log => {
            let known = user.known(root);
            user.create(root, &known);
            write_id(&user.settings.name, known.set.get(), out)
        }
        _ => false,
    }
}

fn write_id(name: &[u8], id: Option<Id>, out: &mut Vec<u8>) -> bool {
    let Some([a, b, c, d]) = id else { return false };
    out.extend_from_slice(name);
    // Writing to a vector cannot fail.
    let _ = write!(out, "={a:08X}{b:08X}{c:08X}{d:08X}");
    true
}

impl UserId {
    /// What came with the request, read once.
    fn known(&self, r: &Request) -> Rc<Known> {
        if let Some(known) = r.extension::<Known>() {
            return known;
        }
        let mut known = Known::default();
        let mut lines = r.exchange.head.headers.get_all_known(KnownHeader::Cookie);
        let found = lines.find_map(|line| Some((line, cookie_in(line, &self.settings.name)?)));
        if let Some((line, cookie)) = found {
            known.cookie = cookie.to_vec();
            let shown = String::from_utf8_lossy(line);
            match cookie.get(..22).map(base64::decode) {
                None => {
                    r.log(Level::Error, format_args!("client sent too short userid cookie \"{shown}\""));
                }
                Some(None) => {
                    r.log(Level::Error, format_args!("client sent invalid userid cookie \"{shown}\""));
                }
                Some(Some(bytes)) => known.got = id_of(&bytes),
            }
        }
        r.set_extension(known)
    }

    /// Makes the identifier to send, when one is to be sent.
    fn create(&self, r: &Request, known: &Known) {
        if known.set.get().is_some() {
            return;
        }
        if let Some(got) = known.got {
            let mut reset = Vec::new();
            r.exchange.generation.variables.write(self.reset, r, &mut reset);
            if reset.is_empty() || reset == b"0" {
                let mark = self.settings.mark.0;
                let marked = mark.is_none_or(|mark| known.cookie.get(22..24) == Some(&[mark, b'=']));
                if !marked {
                    known.set.set(Some(got));
                }
                return;
            }
            known.reset.set(true);
            if reset == b"log" {
                let mut text = Vec::new();
                write_id(&self.settings.name, known.got, &mut text);
                let text = String::from_utf8_lossy(&text);
                r.log(Level::Notice, format_args!("userid cookie \"{text}\" was reset"));
            }
        }
        known.set.set(Some(self.fresh(r)));
    }

    fn fresh(&self, r: &Request) -> Id {
        let time = u32::try_from(headwater_io::clock::unix_seconds()).unwrap_or(u32::MAX);
        let start = *START.get_or_init(|| {
            let micros = headwater_io::clock::unix_now().subsec_micros();
            (micros / 20) << 16 | std::process::id()
        });
        let service = self.settings.service.map(|number| u32::try_from(*number).unwrap_or(u32::MAX));
        if self.settings.mode == Mode::V1 {
            return [service.unwrap_or(0), time, start, NEXT_V1.fetch_add(0x100, Ordering::Relaxed)];
        }
        let number = NEXT_V2.fetch_add(0x100, Ordering::Relaxed);
        if number < FIRST_V2 {
            NEXT_V2.store(FIRST_V2, Ordering::Relaxed);
        }
        let service = match service {
            Some(service) => service.to_be(),
            None => u32::from_ne_bytes(match r.connection().local().ip() {
                Some(IpAddr::V4(ip)) => ip.octets(),
                Some(IpAddr::V6(ip)) => {
                    let [.., a, b, c, d] = ip.octets();
                    [a, b, c, d]
                }
                None => [0; 4],
            }),
        };
        [service, time.to_be(), start.to_be(), number.to_be()]
    }

    fn cookie(&self, known: &Known, id: Id) -> Vec<u8> {
        let settings = &self.settings;
        let mut out = [&*settings.name, b"="].concat();
        if known.got.is_none() || known.reset.get() {
            let bytes: Vec<u8> = id.iter().flat_map(|part| part.to_ne_bytes()).collect();
            let mut text = base64::encode(&bytes);
            if let (Some(mark), Some(slot)) = (settings.mark.0, text.get_mut(22)) {
                *slot = mark;
            }
            out.extend_from_slice(&text);
        } else {
            out.extend_from_slice(known.cookie.get(..22).unwrap_or_default());
            out.extend([settings.mark.0.unwrap_or(b'='), b'=']);
        }
        match settings.expires {
            Expires::Off => {}
            Expires::Max => out.extend_from_slice(b"; expires=Thu, 31-Dec-37 23:55:55 GMT"),
            Expires::After(seconds) => {
                let time = headwater_io::clock::unix_seconds().saturating_add(seconds);
                out.extend_from_slice(b"; expires=");
                out.extend_from_slice(&cookie_time(time));
            }
        }
        if settings.domain.as_ref() != b"none" {
            out.extend_from_slice(b"; domain=");
            out.extend_from_slice(&settings.domain);
        }
        out.extend_from_slice(b"; path=");
        out.extend_from_slice(&settings.path);
        for (flag, text) in [
            (CookieFlags::SECURE, "; secure"),
            (CookieFlags::HTTP_ONLY, "; httponly"),
            (CookieFlags::STRICT, "; samesite=strict"),
            (CookieFlags::LAX, "; samesite=lax"),
            (CookieFlags::NONE, "; samesite=none"),
        ] {
            if settings.flags.has(flag) {
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }
}

/// The words of an identifier; one whose number is 0 counts as none.
fn id_of(bytes: &[u8]) -> Option<Id> {
    let mut id = Id::default();
    for (part, word) in id.iter_mut().zip(bytes.chunks(4)) {
        *part = u32::from_ne_bytes(word.try_into().ok()?);
    }
    Some(id).filter(|[.., number]| *number != 0)
}

/// A time as cookies have it: years that browsers of old knew have two digits (nginx: `ngx_http_cookie_time`).
fn cookie_time(time: i64) -> Vec<u8> {
    let date = headwater_io::clock::http_date(time);
    let part = |range: std::ops::Range<usize>| date.get(range).unwrap_or_default();
    let year = part(12..16);
    let year = if year > &b"2037"[..] { year } else { part(14..16) };
    [part(0..7), b"-", part(8..11), b"-", year, part(16..29)].concat()
}

impl HeaderFilter for Filter {
    fn filter(&self, r: &Request) -> Filtered {
        if !r.is_main() {
            return Filtered::Pass;
        }
        let known = self.0.known(r);
        self.0.create(r, &known);
        if let Some(id) = known.set.get() {
            let cookie = self.0.cookie(&known, id);
            let mut out = r.headers_out.borrow_mut();
            out.list.push(b"Set-Cookie", &cookie);
            let p3p = &self.0.settings.p3p;
            if p3p.as_ref() != b"none" && !p3p.is_empty() {
                out.list.push(b"P3P", p3p);
            }
        }
        Filtered::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_time_has_two_digits_until_2037() {
        assert_eq!(cookie_time(784_111_777), b"Sun, 06-Nov-94 08:49:37 GMT");
        assert_eq!(cookie_time(2_145_916_555), b"Thu, 31-Dec-37 23:55:55 GMT");
        assert_eq!(cookie_time(2_145_916_800), b"Fri, 01-Jan-2038 00:00:00 GMT");
    }

    #[test]
    fn id_of_a_number_of_zero_is_none() {
        let bytes: Vec<u8> = [1_u32, 2, 3, 4].iter().flat_map(|part| part.to_ne_bytes()).collect();
        assert_eq!(id_of(&bytes), Some([1, 2, 3, 4]));
        assert_eq!(id_of(&[0; 16]), None);
    }
}
