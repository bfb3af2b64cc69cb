//! Settings of back ends as the engine takes them, whatever the family, and the types of their values. The directives are in `family`.
//!
//! nginx's counterpart: `ngx_http_upstream_conf_t`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use headwater_conf::value::Text;
use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_wire::headers::KnownHeader;

pub use super::sockets::Bind;
use super::sockets::LocalAddress;
use super::store::{Store, StoreAccess};
use super::tls::TlsConf;
use crate::config::core::{Rate, TempPath};
use crate::config::flags::flags;

/// What a location says about its back ends, whatever the protocol.
#[derive(Debug, Clone)]
pub struct UpstreamConf {
    /// Limits connecting.
    pub connect_timeout: Duration,
    /// Limits the time between two writes of the request.
    pub send_timeout: Duration,
    /// Limits the time between two reads of the response.
    pub read_timeout: Duration,
    /// When to try another peer.
    pub next_upstream: NextUpstream,
    /// How many attempts; 0 for as many as there are peers.
    pub next_upstream_tries: usize,
    /// How long further attempts may start; zero for ever.
    pub next_upstream_timeout: Duration,
    /// Whether the response is read at the back end's speed.
    pub buffering: bool,
    /// The largest response head, and the buffer without buffering; bytes.
    pub buffer_size: usize,
    /// How much of a response waits in memory for a slow client; bytes.
    pub buffers: usize,
    /// How much of a response may wait in a temp file; 0: none. Bytes.
    pub max_temp_file_size: u64,
    /// Where temp files go.
    pub temp_path: TempPath,
    /// Whether the whole request body is read before a peer is chosen.
    pub request_buffering: bool,
    /// Whether a client that leaves does not cancel the request.
    pub ignore_client_abort: bool,
    /// Whether `error_page` applies to the back end's statuses.
    pub intercept_errors: bool,
    /// Whether 404 is answered here, whatever `error_page` says.
    pub intercept_404: bool,
    /// Response headers that are not passed.
    pub hide: NameSet,
    /// `X-Accel-*` and others whose meaning is ignored.
    pub ignore: IgnoreHeaders,
    /// Whether request headers are passed.
    pub pass_request_headers: bool,
    /// Whether the request body is passed.
    pub pass_request_body: bool,
    /// Whether TCP keepalive is on.
    pub socket_keepalive: bool,
    /// The local address.
    pub bind: Option<LocalAddress>,
    /// The kernel's buffer for sending, bytes; 0: its default.
    pub socket_sndbuf: usize,
    /// The kernel's buffer for receiving, bytes; 0: its default.
    pub socket_rcvbuf: usize,
    /// Bytes per second from the back end.
    pub limit_rate: Rate,
    /// Whether ranges are cut here even if the back end does not offer them.
    pub force_ranges: bool,
    /// Whether trailer fields are passed on.
    pub pass_trailers: bool,
    /// Whether and where responses are saved.
    pub store: Store,
    /// The mode of saved files.
    pub store_access: StoreAccess,
    /// TLS, for requests whose protocol is secure.
    pub tls: Option<Arc<TlsConf>>,
}

impl Default for UpstreamConf {
    /// What holds for a family that has no directive for it.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            read_timeout: Duration::from_secs(60),
            next_upstream: NextUpstream::USUAL,
            next_upstream_tries: 0,
            next_upstream_timeout: Duration::ZERO,
            buffering: false,
            buffer_size: 4096,
            buffers: 0,
            max_temp_file_size: 0,
            temp_path: TempPath::unset(""),
            request_buffering: true,
            ignore_client_abort: false,
            intercept_errors: false,
            intercept_404: false,
            hide: NameSet::default(),
            ignore: IgnoreHeaders::default(),
            pass_request_headers: true,
            pass_request_body: true,
            socket_keepalive: false,
            bind: None,
            socket_sndbuf: 0,
            socket_rcvbuf: 0,
            limit_rate: Rate::none(),
            force_ranges: false,
            pass_trailers: false,
            store: Store::Off,
            store_access: StoreAccess::USUAL,
            tls: None,
        }
    }
}

/// What response headers changed for one request.
#[derive(Debug, Default)]
pub struct UpstreamOverrides {
    /// `X-Accel-Buffering`.
    pub buffering: Cell<Option<bool>>,
}

/// Response headers that `proxy_pass` hides unless told to pass them.
pub const HIDDEN_BY_PROXY: [&str; 8] = [
    "date",
    "server",
    "x-pad",
    "x-accel-expires",
    "x-accel-redirect",
    "x-accel-limit-rate",
    "x-accel-buffering",
    "x-accel-charset",
];

/// Response headers that FastCGI and SCGI servers have hidden unless told to pass them.
pub const HIDDEN_BY_CGI: [&str; 6] = [
    "status",
    "x-accel-expires",
    "x-accel-redirect",
    "x-accel-limit-rate",
    "x-accel-buffering",
    "x-accel-charset",
];

/// Response headers that uwsgi servers have hidden unless told to pass them.
pub const HIDDEN_BY_UWSGI: [&str; 5] =
    ["x-accel-expires", "x-accel-redirect", "x-accel-limit-rate", "x-accel-buffering", "x-accel-charset"];

/// The headers to hide: the usual ones and `hide`, without those in `pass`.
#[must_use]
pub fn hidden(usual: &[&str], hide: &[Text], pass: &[Text]) -> NameSet {
    let usual = usual.iter().map(|name| name.as_bytes().to_vec());
    let own = hide.iter().map(|name| name.to_ascii_lowercase());
    usual.filter(|name| !pass.iter().any(|pass| pass.eq_ignore_ascii_case(name))).chain(own).collect()
}

/// A set of header names: one bit for each known one, the others by text.
#[derive(Debug, Clone, Default)]
pub struct NameSet {
    known: u64,
    others: Vec<Box<[u8]>>,
}

impl NameSet {
    /// Whether a header's name is in the set.
    #[must_use]
    pub fn contains(&self, known: KnownHeader, name: &[u8]) -> bool {
        match known {
            KnownHeader::Other => self.others.iter().any(|other| other.eq_ignore_ascii_case(name)),
            known => self.known & known.bit() != 0,
        }
    }
}

impl FromIterator<Vec<u8>> for NameSet {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(names: I) -> Self {
        let mut set = Self::default();
        for name in names {
            match KnownHeader::lookup(&name) {
                KnownHeader::Other => set.others.push(name.into()),
                known => set.known |= known.bit(),
            }
        }
        set
    }
}

flags! {
    /// Conditions of `*_next_upstream`.
    pub NextUpstream {
        /// No connection, or it broke.
        ERROR = 1, "error";
        /// A time ran out.
        TIMEOUT = 2, "timeout";
        /// The response head was no such.
        INVALID_HEADER = 3, "invalid_header";
        /// Status 500.
        HTTP_500 = 4, "http_500";
        /// Status 502.
        HTTP_502 = 5, "http_502";
        /// Status 503.
        HTTP_503 = 6, "http_503";
        /// Status 504.
        HTTP_504 = 7, "http_504";
        /// Status 403.
        HTTP_403 = 8, "http_403";
        /// Status 404.
        HTTP_404 = 9, "http_404";
        /// Status 429.
        HTTP_429 = 10, "http_429";
        /// Also for methods that must not be repeated.
        NON_IDEMPOTENT = 11, "non_idempotent";
        /// Never.
        OFF = 12, "off";
        /// The location may not ask the server; nothing here forbids that.
        DENIED = 13, "denied";
    }
}

flags! {
    /// Headers of `*_ignore_headers`.
    pub IgnoreHeaders {
        /// `X-Accel-Redirect`.
        ACCEL_REDIRECT = 1, "X-Accel-Redirect";
        /// `X-Accel-Expires`.
        ACCEL_EXPIRES = 2, "X-Accel-Expires";
        /// `X-Accel-Limit-Rate`.
        ACCEL_LIMIT_RATE = 3, "X-Accel-Limit-Rate";
        /// `X-Accel-Buffering`.
        ACCEL_BUFFERING = 4, "X-Accel-Buffering";
        /// `X-Accel-Charset`.
        ACCEL_CHARSET = 5, "X-Accel-Charset";
        /// `Expires`.
        EXPIRES = 6, "Expires";
        /// `Cache-Control`.
        CACHE_CONTROL = 7, "Cache-Control";
        /// `Set-Cookie`.
        SET_COOKIE = 8, "Set-Cookie";
        /// `Vary`.
        VARY = 9, "Vary";
    }
}

impl NextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | denied | invalid_header | http_500 | http_502 | http_503 | http_504 | http_403 | http_404 | http_429 | non_idempotent | off ...";
    /// The default.
    pub const USUAL: Self = Self::ERROR.and(Self::TIMEOUT);

    /// The conditions; `off` leaves none.
    #[must_use]
    pub fn conditions(self) -> Self {
        if self.has(Self::OFF) { Self::OFF } else { self }
    }
}

/// Conditions of `*_next_upstream` for back ends that are no gateways: they know no `http_502` and `http_504`.
#[derive(Debug, Clone, Copy)]
pub struct CgiNextUpstream(NextUpstream);

impl CgiNextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | denied | invalid_header | http_500 | http_503 | http_403 | http_404 | http_429 | non_idempotent | off ...";
    /// The default.
    pub const USUAL: Self = Self(NextUpstream::USUAL);

    /// As [`NextUpstream::conditions`].
    #[must_use]
    pub fn conditions(self) -> NextUpstream {
        self.0.conditions()
    }
}

impl Value for CgiNextUpstream {
    const ARGS: Args = NextUpstream::ARGS;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let mut slot = None;
        Self::set(&mut slot, cx, directive)?;
        Ok(slot.unwrap_or(Self(NextUpstream::default())))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let gateway = |word: &[u8]| {
            matches!(NextUpstream::from_word(word), Some(NextUpstream::HTTP_502 | NextUpstream::HTTP_504))
        };
        if let Some(at) = directive.args.iter().position(|word| gateway(&word.text)) {
            let message = format!("invalid value \"{}\"", directive.word(at).str());
            return Err(directive.error_at(at, message));
        }
        let mut inner = slot.map(|set| set.0);
        NextUpstream::set(&mut inner, cx, directive)?;
        *slot = inner.map(Self);
        Ok(())
    }
}
