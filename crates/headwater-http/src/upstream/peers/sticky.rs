//! `sticky`: requests of one client go to one peer, by a cookie of ours, by a route in the request, or by sessions learnt from answers.
//!
//! Asked by `group` when a request starts, when the head of an answer is there and when the answer is over. Directives: `modules::upstream::sticky`. nginx's
//! counterpart: `sticky` of nginx 1.29.6.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_io::clock;
use headwater_wire::headers::KnownHeader;

use crate::modules::limit_zone::Entries;
use crate::request::Request;
use crate::script::Complex;
use crate::script::core_variables::cookie_in;

/// How requests are bound to peers.
#[derive(Debug)]
pub enum Sticky {
    /// `cookie`.
    Cookie(Cookie),
    /// `route`: the first of these that is not empty names the peer.
    Route(Vec<Complex>),
    /// `learn`.
    Learn(Learn),
}

/// `sticky cookie`.
#[derive(Debug)]
pub struct Cookie {
    /// Its name.
    pub name: Box<[u8]>,
    /// How long the client keeps it.
    pub expires: Option<Expires>,
    /// Its `Domain`.
    pub domain: Option<Complex>,
    /// Its `Path`.
    pub path: Option<Box<[u8]>>,
    /// Whether it is `HttpOnly`.
    pub http_only: bool,
    /// Whether it is `Secure`.
    pub secure: bool,
    /// Its `SameSite`.
    pub same_site: Option<SameSite>,
}

/// `expires` of a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    /// So many seconds from now.
    After(u64),
    /// `max`.
    Max,
}

/// `samesite` of a cookie.
#[derive(Debug)]
pub enum SameSite {
    /// A value.
    Fixed(&'static str),
    /// The value of a variable; empty: none.
    Variable(Complex),
}

/// `sticky learn`.
#[derive(Debug)]
pub struct Learn {
    /// The first of these that is not empty names a session that an answer begins.
    pub create: Vec<Complex>,
    /// The first of these that is not empty names the session of a request.
    pub lookup: Vec<Complex>,
    /// The sessions.
    pub sessions: Sessions,
    /// How long a session lives without a request.
    pub timeout: Duration,
    /// Whether sessions are learnt as soon as the head of an answer is there.
    pub header: bool,
}

/// How many sessions at most give way to a new one: a name as long as the zone must not empty it.
const GIVE_WAY: usize = 8;

/// Sessions by name, shared by all generations that declare their zone alike.
pub type Sessions = Arc<Mutex<Entries<Session>>>;

/// A learnt session.
#[derive(Debug)]
pub struct Session {
    route: Arc<str>,
    /// Milliseconds of `clock::now_ms`.
    used: u64,
}

/// What is known of a request.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// The peer that it names.
    route: Option<Vec<u8>>,
    /// The name of its session, when there is one.
    session: Option<Vec<u8>>,
    /// Whether the peer was looked for.
    looked: bool,
}

impl Binding {
    /// A request that names this peer.
    #[cfg(test)]
    pub(super) fn to(route: &str) -> Self {
        Self { route: Some(route.as_bytes().to_vec()), ..Self::default() }
    }

    /// The peer that the request names, once.
    pub(super) fn take_wanted(&mut self) -> Option<&[u8]> {
        let first = !std::mem::replace(&mut self.looked, true);
        self.route.as_deref().filter(|_| first)
    }
}

impl Sticky {
    /// Finds out which peer a request is bound to.
    pub(super) fn look_up(&self, r: &Request) -> Binding {
        let mut binding = Binding::default();
        match self {
            Sticky::Cookie(cookie) => binding.route = cookie.of(r),
            Sticky::Route(variables) => binding.route = first_of(variables, r),
            Sticky::Learn(learn) => {
                let Some(name) = first_of(&learn.lookup, r) else { return binding };
                if let Some(route) = learn.find(&name, clock::now_ms()) {
                    binding.route = Some(route.as_bytes().to_vec());
                    binding.session = Some(name);
                }
            }
        }
        binding
    }

    /// Adds a cookie when the peer that answers is not the one the request names; learns a session when that need not wait for the end.
    pub(super) fn head_arrived(&self, r: &Request, route: &Arc<str>, binding: &Binding) {
        match self {
            Sticky::Cookie(cookie) if binding.route.as_deref() != Some(route.as_bytes()) => {
                let value = cookie.value(r, route);
                r.headers_out.borrow_mut().list.push(b"Set-Cookie", &value);
            }
            Sticky::Learn(learn) if learn.header => learn.learn(r, route, binding),
            _ => {}
        }
    }

    /// Learns a session.
    pub(super) fn answered(&self, r: &Request, route: &Arc<str>, binding: &Binding) {
        match self {
            Sticky::Learn(learn) if !learn.header => learn.learn(r, route, binding),
            _ => {}
        }
    }
}

/// The first value that is not empty.
fn first_of(values: &[Complex], r: &Request) -> Option<Vec<u8>> {
    values.iter().map(|value| value.value(r)).find(|value| !value.is_empty()).map(|value| value.into_owned())
}

impl Cookie {
    /// The value that a request has for it.
    fn of(&self, r: &Request) -> Option<Vec<u8>> {
        let mut lines = r.exchange.head.headers.get_all_known(KnownHeader::Cookie);
        lines
            .find_map(|line| cookie_in(line, &self.name))
            .filter(|value| !value.is_empty())
            .map(<[u8]>::to_vec)
    }

    fn value(&self, r: &Request, route: &str) -> Vec<u8> {
        let domain = self.domain.as_ref().map(|domain| domain.value(r).into_owned());
        let same_site = match &self.same_site {
            None => "",
            Some(SameSite::Fixed(value)) => value,
            Some(SameSite::Variable(value)) => same_site(&value.value(r)),
        };
        self.text(route, domain.as_deref().unwrap_or_default(), same_site, clock::unix_seconds())
    }

    fn text(&self, route: &str, domain: &[u8], same_site: &str, now: i64) -> Vec<u8> {
        let mut out = [&*self.name, b"=", route.as_bytes()].concat();
        // Writing to a vector cannot fail.
        let _ = match self.expires {
            None => Ok(()),
            Some(Expires::Max) => {
                write!(out, "; Expires=Thu, 31 Dec 2037 23:55:55 GMT; Max-Age=315360000")
            }
            Some(Expires::After(seconds)) => {
                let at = now.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX));
                out.extend_from_slice(b"; Expires=");
                out.extend_from_slice(&clock::http_date(at));
                write!(out, "; Max-Age={seconds}")
            }
        };
        let mut add = |name: &[u8], value: &[u8]| {
            if !value.is_empty() {
                out.extend_from_slice(name);
                out.extend_from_slice(value);
            }
        };
        add(b"; Domain=", domain);
        add(b"; ", if self.http_only { b"HttpOnly" } else { b"" });
        add(b"; SameSite=", same_site.as_bytes());
        add(b"; ", if self.secure { b"Secure" } else { b"" });
        add(b"; Path=", self.path.as_deref().unwrap_or_default());
        out
    }
}

/// The attribute that the value of a variable means.
fn same_site(value: &[u8]) -> &'static str {
    match value {
        b"" => "",
        value if value.eq_ignore_ascii_case(b"lax") => "Lax",
        value if value.eq_ignore_ascii_case(b"none") => "None",
        _ => "Strict",
    }
}

impl Learn {
    /// The peer of a session that did not time out; it is used now.
    fn find(&self, name: &[u8], now: u64) -> Option<Arc<str>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get_mut(name).is_some_and(|session| self.is_over(session, now)) {
            sessions.remove(name);
        }
        let session = sessions.touch(name)?;
        session.used = now;
        Some(session.route.clone())
    }

    fn is_over(&self, session: &Session, now: u64) -> bool {
        u128::from(now.saturating_sub(session.used)) > self.timeout.as_millis()
    }

    /// Keeps the session that an answer begins; one whose peer could not serve is bound to the peer that did.
    fn learn(&self, r: &Request, route: &Arc<str>, binding: &Binding) {
        let now = clock::now_ms();
        if let Some(name) = first_of(&self.create, r) {
            self.keep(&name, route, now);
        }
        if let Some(name) = &binding.session
            && binding.route.as_deref() != Some(route.as_bytes())
        {
            self.keep(name, route, now);
        }
    }

    fn keep(&self, name: &[u8], route: &Arc<str>, now: u64) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.touch(name) {
            *session = Session { route: route.clone(), used: now };
            return;
        }
        while sessions.oldest().is_some_and(|oldest| self.is_over(oldest, now)) {
            sessions.drop_oldest();
        }
        for _ in 0..GIVE_WAY {
            if sessions.insert(name, Session { route: route.clone(), used: now }) {
                return;
            }
            sessions.drop_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie() -> Cookie {
        Cookie {
            name: b"srv".as_slice().into(),
            expires: None,
            domain: None,
            path: None,
            http_only: false,
            secure: false,
            same_site: None,
        }
    }

    #[test]
    fn cookie_text_has_what_is_asked_for() {
        assert_eq!(cookie().text("a", b"", "", 0), b"srv=a");
        let full = Cookie {
            expires: Some(Expires::After(3600)),
            path: Some(b"/".as_slice().into()),
            http_only: true,
            secure: true,
            ..cookie()
        };
        let wanted = "srv=a; Expires=Thu, 01 Jan 1970 01:00:00 GMT; Max-Age=3600; Domain=.e.com; HttpOnly; SameSite=Lax; Secure; Path=/";
        assert_eq!(String::from_utf8_lossy(&full.text("a", b".e.com", "Lax", 0)), wanted);
        let max = Cookie { expires: Some(Expires::Max), ..cookie() };
        let wanted = "srv=b; Expires=Thu, 31 Dec 2037 23:55:55 GMT; Max-Age=315360000";
        assert_eq!(String::from_utf8_lossy(&max.text("b", b"", "", 0)), wanted);
    }

    #[test]
    fn same_site_of_a_variable_is_strict_unless_known() {
        let of = |value: &str| same_site(value.as_bytes());
        assert_eq!(
            [of(""), of("LAX"), of("none"), of("strict"), of("x")],
            ["", "Lax", "None", "Strict", "Strict"]
        );
    }

    #[test]
    fn sessions_time_out_move_and_make_room() {
        let sessions = Arc::new(Mutex::new(Entries::new(32 * 1024, 200)));
        let learn = Learn {
            create: Vec::new(),
            lookup: Vec::new(),
            sessions,
            timeout: Duration::from_secs(1),
            header: false,
        };
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        learn.keep(b"one", &a, 0);
        assert_eq!(learn.find(b"one", 1000), Some(a.clone()));
        assert_eq!(learn.find(b"one", 2000), Some(a.clone()), "a look-up is a use");
        learn.keep(b"one", &b, 2000);
        assert_eq!(learn.find(b"one", 2000), Some(b));
        assert_eq!(learn.find(b"one", 3001), None);
        for number in 0..1000_u32 {
            learn.keep(&number.to_be_bytes(), &a, 4000);
        }
        assert_eq!(learn.find(&999_u32.to_be_bytes(), 4000), Some(a));
        assert_eq!(learn.find(&0_u32.to_be_bytes(), 4000), None, "the oldest went");
        learn.keep(&[b'x'; 40_000], &learn.find(&999_u32.to_be_bytes(), 4000).expect("there"), 4000);
        assert!(learn.find(&950_u32.to_be_bytes(), 4000).is_some(), "too long a name empties nothing");
    }
}
