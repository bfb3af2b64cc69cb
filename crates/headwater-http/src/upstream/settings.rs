//! Settings that every `*_pass` family shares, declared once with a prefix.
//!
//! nginx's counterpart: `ngx_http_upstream_conf_t`.

use std::cell::Cell;
use std::time::Duration;

use headwater_conf::value::Text;
use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_wire::headers::KnownHeader;

use crate::config::core::{Rate, TempPath};
use crate::config::flags::flags;
use crate::script::Complex;

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
    pub bind: Option<Complex>,
    /// Bytes per second from the back end.
    pub limit_rate: Rate,
    /// Whether ranges are cut here even if the back end does not offer them.
    pub force_ranges: bool,
    /// Whether trailer fields are passed on.
    pub pass_trailers: bool,
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

/// Response headers that back ends with CGI heads have hidden unless told to pass them.
pub const HIDDEN_BY_CGI: [&str; 6] = [
    "status",
    "x-accel-expires",
    "x-accel-redirect",
    "x-accel-limit-rate",
    "x-accel-buffering",
    "x-accel-charset",
];

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

/// `*_bind`.
#[derive(Debug, Clone, Default)]
pub struct Bind(pub Option<Complex>);

impl Value for Bind {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if directive.arg(0) == b"off" {
            return Ok(Self(None));
        }
        let value = Complex::compile(cx, directive, 0)?;
        if let Some(text) = value.as_text()
            && local_address(text).is_none()
        {
            let message = format!("invalid address \"{}\"", directive.word(0).str());
            return Err(directive.error_at(0, message));
        }
        Ok(Self(Some(value)))
    }
}

/// A local address with or without a port.
#[must_use]
pub fn local_address(text: &[u8]) -> Option<std::net::SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    ip.parse().ok().map(|ip| std::net::SocketAddr::new(ip, 0))
}

impl NextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | invalid_header | http_500 | http_502 | http_503 | http_504 | http_403 | http_404 | http_429 | non_idempotent | off ...";
    /// The default.
    pub const USUAL: Self = Self::ERROR.and(Self::TIMEOUT);

    /// The conditions.
    #[must_use]
    pub const fn conditions(self) -> Self {
        self
    }
}

/// Conditions of `*_next_upstream` for back ends that are no gateways: they know no `http_502` and `http_504`.
#[derive(Debug, Clone, Copy)]
pub struct CgiNextUpstream(NextUpstream);

impl CgiNextUpstream {
    /// The words.
    pub const SYNTAX: &str = "error | timeout | invalid_header | http_500 | http_503 | http_403 | http_404 | http_429 | non_idempotent | off ...";
    /// The default.
    pub const USUAL: Self = Self(NextUpstream::USUAL);

    /// The conditions.
    #[must_use]
    pub const fn conditions(self) -> NextUpstream {
        self.0
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

/// Declares the shared directives for one prefix: a settings group in a module of its own, with a conversion to [`UpstreamConf`].
#[macro_export]
macro_rules! upstream_family {
    ($prefix:literal, $module:literal, $next:ty) => {
        headwater_conf::settings! {
            /// Settings of the family's back ends.
            pub struct FamilySettings, raw FamilyRaw, module $module {
                /// Limits the time of connecting to a back end.
                concat!($prefix, "connect_timeout"), HSL, "time", "60s" => connect_timeout: Milliseconds = Milliseconds::from_secs(60);
                /// Limits the time between two writes to a back end.
                concat!($prefix, "send_timeout"), HSL, "time", "60s" => send_timeout: Milliseconds = Milliseconds::from_secs(60);
                /// Limits the time between two reads from a back end.
                concat!($prefix, "read_timeout"), HSL, "time", "60s" => read_timeout: Milliseconds = Milliseconds::from_secs(60);
                /// Says in which cases a request goes to the next server.
                concat!($prefix, "next_upstream"), HSL, <$next>::SYNTAX, "error timeout" => next_upstream: $next = <$next>::USUAL;
                /// Limits the number of attempts.
                concat!($prefix, "next_upstream_tries"), HSL, "number", "0" => next_upstream_tries: Number = Number(0);
                /// Limits the time in which attempts may start.
                concat!($prefix, "next_upstream_timeout"), HSL, "time", "0" => next_upstream_timeout: Milliseconds = Milliseconds::from_secs(0);
                /// Reads responses at the back end's speed, keeping them for a slower client.
                concat!($prefix, "buffering"), HSL, "on | off", "on" => buffering: bool = true;
                /// Sets the size of the buffer for a response head.
                concat!($prefix, "buffer_size"), HSL, "size", "4k" => buffer_size: Size = Size(4096);
                /// Sets how much of a response is kept in memory.
                concat!($prefix, "buffers"), HSL, "number size", "8 4k" => buffers: Buffers = Buffers { number: 8, size: 4096 };
                /// Limits the part of the buffers that may be on its way to the client.
                concat!($prefix, "busy_buffers_size"), HSL, "size", "8k" => busy_buffers_size: Size = Size(8192);
                /// Limits the temp file that holds what does not fit into the buffers; 0 turns temp files off.
                concat!($prefix, "max_temp_file_size"), HSL, "size", "1024m" => max_temp_file_size: Offset = Offset(1 << 30);
                /// Limits the size of one write to a temp file.
                concat!($prefix, "temp_file_write_size"), HSL, "size", "8k" => temp_file_write_size: Size = Size(8192);
                /// Sets the directory of temp files.
                concat!($prefix, "temp_path"), HSL, "path [level1 [level2 [level3]]]", concat!($prefix, "temp") => temp_path: TempPath = TempPath::unset(concat!($prefix, "temp"));
                /// Reads the whole request body before a back end is asked.
                concat!($prefix, "request_buffering"), HSL, "on | off", "on" => request_buffering: bool = true;
                /// Goes on with the request when the client has left.
                concat!($prefix, "ignore_client_abort"), HSL, "on | off", "off" => ignore_client_abort: bool = false;
                /// Lets `error_page` answer for statuses from 300 on.
                concat!($prefix, "intercept_errors"), HSL, "on | off", "off" => intercept_errors: bool = false;
                /// Sets response headers that are not passed to the client.
                concat!($prefix, "hide_header"), HSL, "field", "" => hide_header: List<Text> = List::default();
                /// Passes response headers that would be hidden.
                concat!($prefix, "pass_header"), HSL, "field", "" => pass_header: List<Text> = List::default();
                /// Ignores the meaning of response headers.
                concat!($prefix, "ignore_headers"), HSL, "field ...", "" => ignore_headers: IgnoreHeaders = IgnoreHeaders::default();
                /// Passes request headers to the back end.
                concat!($prefix, "pass_request_headers"), HSL, "on | off", "on" => pass_request_headers: bool = true;
                /// Passes the request body to the back end.
                concat!($prefix, "pass_request_body"), HSL, "on | off", "on" => pass_request_body: bool = true;
                /// Turns TCP keepalive on for connections to back ends.
                concat!($prefix, "socket_keepalive"), HSL, "on | off", "off" => socket_keepalive: bool = false;
                /// Sets the local address of connections to back ends.
                concat!($prefix, "bind"), HSL, "address | off", "" => bind: Bind = Bind::default();
                /// Limits the rate of reading from a back end, bytes per second.
                concat!($prefix, "limit_rate"), HSL, "rate", "0" => limit_rate: Rate = Rate::none();
                /// Cuts ranges from responses whether the back end offers them or not.
                concat!($prefix, "force_ranges"), HSL, "on | off", "off" => force_ranges: bool = false;
            }
        }

        impl FamilySettings {
            /// The settings as the engine takes them; `usual` are the headers that the family hides.
            #[must_use]
            pub fn conf(&self, usual: &[&str]) -> UpstreamConf {
                UpstreamConf {
                    connect_timeout: *self.connect_timeout,
                    send_timeout: *self.send_timeout,
                    read_timeout: *self.read_timeout,
                    next_upstream: self.next_upstream.conditions(),
                    next_upstream_tries: *self.next_upstream_tries,
                    next_upstream_timeout: *self.next_upstream_timeout,
                    buffering: self.buffering,
                    buffer_size: *self.buffer_size,
                    buffers: self.buffers.number.saturating_mul(self.buffers.size),
                    max_temp_file_size: *self.max_temp_file_size,
                    temp_path: self.temp_path.clone(),
                    request_buffering: self.request_buffering,
                    ignore_client_abort: self.ignore_client_abort,
                    intercept_errors: self.intercept_errors,
                    hide: hidden(usual, &self.hide_header, &self.pass_header),
                    ignore: self.ignore_headers,
                    pass_request_headers: self.pass_request_headers,
                    pass_request_body: self.pass_request_body,
                    socket_keepalive: self.socket_keepalive,
                    bind: self.bind.0.clone(),
                    limit_rate: self.limit_rate.clone(),
                    force_ranges: self.force_ranges,
                    pass_trailers: false,
                }
            }

            /// Checks what only the whole group shows (nginx: `ngx_http_proxy_merge_loc_conf`).
            pub fn check(&self, raw: &FamilyRaw) -> std::result::Result<(), String> {
                let largest = (*self.buffer_size).max(self.buffers.size);
                if self.buffers.number < 2 {
                    return Err(format!("there must be at least 2 \"{}buffers\"", $prefix));
                }
                let busy = if raw.busy_buffers_size.is_set() { *self.busy_buffers_size } else { 2 * largest };
                if busy < largest {
                    return Err(format!("\"{0}busy_buffers_size\" must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if self.max_temp_file_size.0 != 0 && self.max_temp_file_size.0 < largest as u64 {
                    return Err(format!("\"{0}max_temp_file_size\" must be equal to zero to disable temporary files usage or must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if raw.temp_file_write_size.is_set() && *self.temp_file_write_size < largest {
                    return Err(format!("\"{0}temp_file_write_size\" must be equal to or greater than the maximum of the value of \"{0}buffer_size\" and one of the \"{0}buffers\"", $prefix));
                }
                if busy > (self.buffers.number - 1) * self.buffers.size {
                    return Err(format!("\"{0}busy_buffers_size\" must be less than the size of all \"{0}buffers\" minus one buffer", $prefix));
                }
                Ok(())
            }
        }
    };
}
