//! The request object that phases, modules, filters and upstream share.
//!
//! A [`Request`] is one pass of the flow: the client's own request or a subrequest. What all of them have in common (connection, head,
//! variables, configuration generation) is the [`Exchange`]. Everything is single-threaded; fields are cells, and no borrow crosses an
//! await. nginx's counterpart: `ngx_http_request_t`.

pub mod body;
pub mod connection;
pub mod exchange;
pub mod headers_out;
pub mod input;
pub mod subrequest;
pub mod upstream_state;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use headwater_io::addr::Addr;
use headwater_wire::method::Method;
use tokio::sync::Notify;

pub use connection::Connection;
pub use exchange::Exchange;
pub use headers_out::HeadersOut;

use crate::config::{LocId, Location, Server, ServerId};
use crate::filters::BodyChain;
use crate::flow::error_log::Level;
use crate::flow::output::{Framing, Output};
use crate::flow::postpone::{Family, Postponed};
use crate::script::Pattern;
use crate::script::pattern::Groups;
use crate::upstream::health::Probe;
use crate::upstream::settings::UpstreamOverrides;
use upstream_state::UpstreamStates;

/// How many internal redirects one request may take (nginx: `NGX_HTTP_MAX_URI_CHANGES`).
pub const MAX_URI_CHANGES: u8 = 10;

/// The groups of the last regular expression that matched, with what they point into.
#[derive(Debug, Default, Clone)]
pub struct Captures {
    /// What was matched.
    pub subject: Bytes,
    /// Positions in the subject.
    pub groups: Groups,
}

/// One pass of the flow.
pub struct Request {
    /// What this request shares with its parent and children.
    pub exchange: Rc<Exchange>,
    /// The request that made this one a subrequest.
    pub parent: Option<Rc<Request>>,
    /// The method, which an internal redirect may turn into GET.
    pub method: Cell<Method>,
    /// The decoded, normalised path.
    pub uri: RefCell<Bytes>,
    /// The query string without `?`.
    pub args: RefCell<Bytes>,
    /// Whether the URI as sent still says what `uri` says, so that it may be passed on unchanged.
    pub valid_unparsed_uri: Cell<bool>,
    /// The virtual server.
    pub server: Cell<ServerId>,
    /// The location whose settings count now.
    pub location: Cell<LocId>,
    /// Whether locations marked `internal` may be used.
    pub internal: Cell<bool>,
    /// How many more times the URI may change.
    pub uri_changes: Cell<u8>,
    /// Whether `rewrite` changed the URI since the location was found.
    pub uri_changed: Cell<bool>,
    /// Whether the location was found by the present URI, so that its part of it can be replaced.
    pub location_found: Cell<bool>,
    /// Captures of the last match.
    pub captures: RefCell<Captures>,
    /// The response head under construction.
    pub headers_out: RefCell<HeadersOut>,
    /// Whether the head has been handed to the output.
    pub header_sent: Cell<bool>,
    /// Whether the body must not be sent (HEAD, 204, 304).
    pub header_only: Cell<bool>,
    /// Whether a filter must see the bytes of files.
    pub need_in_memory: Cell<bool>,
    /// Whether a filter may make much more of the body than came in, so that little must be pushed at once.
    pub expands: Cell<bool>,
    /// Whether the client gets compressed responses, once somebody asked.
    pub gzip_ok: Cell<Option<bool>>,
    /// The status that `error_page` is answering, 0 when none.
    pub error_status: Cell<u16>,
    /// Whether an error page has been used already.
    pub error_page_used: Cell<bool>,
    /// The body filters that opted in for this response.
    pub body_filters: RefCell<BodyChain>,
    /// Where the response goes.
    pub output: Output,
    /// The state of each attempt at a back end, for `$upstream_*`.
    pub upstream: RefCell<UpstreamStates>,
    /// What `X-Accel-*` headers changed for this response.
    pub overrides: UpstreamOverrides,
    /// Bytes per second to the client; `None` means the location's setting.
    pub limit_rate: Cell<Option<u64>>,
    /// Whether the location's rate was taken once.
    pub logged: Cell<bool>,
    /// Values that modules keep with the request, found by type.
    pub extensions: RefCell<Vec<Rc<dyn std::any::Any>>>,
    /// Whether the client's response is over and what `post_action` names runs.
    pub(crate) post_action: Cell<bool>,
    /// Whether the whole response was handed to the output.
    pub finished: Cell<bool>,
    /// How the end of the body is told.
    pub framing: Cell<Framing>,
    /// Whether the body ended before its announced length.
    pub truncated: Cell<bool>,
    /// The upstream's address or URL, for the error log's `upstream:` field.
    pub upstream_url: RefCell<Option<Bytes>>,
    /// What the error log says the request was doing.
    pub action: Cell<&'static str>,
    /// Whether the client's request body, as far as it was read, goes to back ends.
    pub passes_body: Cell<bool>,
    /// How many levels of subrequests there may be below this one.
    pub nesting_left: Cell<u8>,
    /// What a subrequest says instead of an error, or of nothing.
    pub(crate) stub: RefCell<Option<Bytes>>,
    /// Bytes that a body filter holds until a subrequest is over, and one more while it does.
    pub held: Cell<u64>,
    /// Bytes of the body that went through the filters.
    pub said: Cell<u64>,
    /// Whether all of the response was handed to the output and everything was said that is to be said.
    pub done: Cell<bool>,
    /// A subrequest may begin; told once.
    pub(crate) may_begin: Notify,
    /// Whether it was told so.
    pub(crate) begun: Cell<bool>,
    /// What there is once subrequests have a part in this response.
    pub(crate) family: OnceCell<Box<Family>>,
    /// What waits for its turn in the response.
    pub(crate) postponed: RefCell<Postponed>,
    /// The body filters that see the whole response of the client, subrequests included.
    pub(crate) tail_filters: RefCell<BodyChain>,
    /// This request, for code that must hand out an owner.
    pub(crate) me: OnceCell<std::rc::Weak<Request>>,
}

impl Request {
    /// The client's own request.
    #[must_use]
    pub fn main(
        exchange: Rc<Exchange>,
        server: ServerId,
        method: Method,
        uri: Bytes,
        args: Bytes,
    ) -> Rc<Self> {
        let location = exchange.generation.server(server).root;
        let output = Output::Client(exchange.connection.clone());
        Self::build(exchange, None, server, location, method, uri, args, output)
    }

    /// A request that no client waits for.
    pub(crate) fn with_output(
        exchange: Rc<Exchange>,
        server: ServerId,
        method: Method,
        uri: Bytes,
        args: Bytes,
        output: Output,
    ) -> Rc<Self> {
        let location = exchange.generation.server(server).root;
        Self::build(exchange, None, server, location, method, uri, args, output)
    }

    /// What makes it a health check, if it is one.
    pub(crate) fn probe(&self) -> Option<Rc<Probe>> {
        self.extension()
    }

    /// A subrequest, before its location is found.
    pub(crate) fn child(
        parent: &Rc<Request>,
        method: Method,
        uri: Bytes,
        args: Bytes,
        output: Output,
    ) -> Rc<Self> {
        let (exchange, server) = (parent.exchange.clone(), parent.server.get());
        let root = exchange.generation.server(server).root;
        let child = Self::build(exchange, Some(parent.clone()), server, root, method, uri, args, output);
        child.internal.set(true);
        child.valid_unparsed_uri.set(false);
        child.nesting_left.set(parent.nesting_left.get().saturating_sub(1));
        child.need_in_memory.set(parent.root().need_in_memory.get());
        child
    }

    #[allow(clippy::too_many_arguments, reason = "the one place where a request is put together")]
    fn build(
        exchange: Rc<Exchange>,
        parent: Option<Rc<Request>>,
        server: ServerId,
        location: LocId,
        method: Method,
        uri: Bytes,
        args: Bytes,
        output: Output,
    ) -> Rc<Self> {
        let request = Rc::new(Self {
            exchange,
            parent,
            method: Cell::new(method),
            uri: RefCell::new(uri),
            args: RefCell::new(args),
            valid_unparsed_uri: Cell::new(true),
            server: Cell::new(server),
            location: Cell::new(location),
            internal: Cell::new(false),
            uri_changes: Cell::new(MAX_URI_CHANGES + 1),
            uri_changed: Cell::new(false),
            location_found: Cell::new(false),
            captures: RefCell::default(),
            headers_out: RefCell::default(),
            header_sent: Cell::new(false),
            header_only: Cell::new(method == Method::Head),
            need_in_memory: Cell::new(false),
            expands: Cell::new(false),
            gzip_ok: Cell::new(None),
            error_status: Cell::new(0),
            error_page_used: Cell::new(false),
            body_filters: RefCell::default(),
            output,
            upstream: RefCell::default(),
            overrides: UpstreamOverrides::default(),
            limit_rate: Cell::new(None),
            logged: Cell::new(false),
            extensions: RefCell::default(),
            finished: Cell::new(false),
            framing: Cell::default(),
            truncated: Cell::new(false),
            upstream_url: RefCell::default(),
            action: Cell::new(""),
            passes_body: Cell::new(true),
            nesting_left: Cell::new(subrequest::MAX_NESTING),
            stub: RefCell::default(),
            post_action: Cell::default(),
            held: Cell::new(0),
            said: Cell::new(0),
            done: Cell::new(false),
            may_begin: Notify::const_new(),
            begun: Cell::new(false),
            family: OnceCell::new(),
            postponed: RefCell::default(),
            tail_filters: RefCell::default(),
            me: OnceCell::new(),
        });
        let _ = request.me.set(Rc::downgrade(&request));
        request
    }

    /// An owner of this request.
    #[must_use]
    pub fn owner(&self) -> Option<Rc<Request>> {
        self.me.get()?.upgrade()
    }

    /// The location whose settings count now.
    #[must_use]
    pub fn loc(&self) -> &Location {
        self.exchange.generation.location(self.location.get())
    }

    /// The virtual server.
    #[must_use]
    pub fn srv(&self) -> &Server {
        self.exchange.generation.server(self.server.get())
    }

    /// The client connection.
    #[must_use]
    pub fn connection(&self) -> &Rc<Connection> {
        &self.exchange.connection
    }

    /// The client's address: the one that a trusted proxy tells (`set_real_ip_from`), otherwise the connection's.
    #[must_use]
    pub fn peer(&self) -> &Addr {
        self.exchange.real_peer.get().unwrap_or(&self.exchange.connection.peer)
    }

    /// Whether this is the client's own request.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.parent.is_none()
    }

    /// The client's own request: this one, or the one that subrequests come from.
    #[must_use]
    pub fn root(&self) -> &Request {
        let mut at = self;
        while let Some(parent) = &at.parent {
            at = parent;
        }
        at
    }

    /// The client's body as far as it was read and this request may pass it on.
    #[must_use]
    pub fn stored_body(&self) -> body::Stored {
        match self.passes_body.get() {
            true => self.exchange.body.stored.borrow().clone(),
            false => body::Stored::None,
        }
    }

    /// Has the connection closed after the response; a subrequest has no say in that.
    pub fn close_after(&self) {
        if self.is_main() {
            self.exchange.keepalive.set(false);
        }
    }

    /// Whether a filter looks at the bytes of the body: its own, or one that sees the client's whole response.
    #[must_use]
    pub fn has_body_filters(&self) -> bool {
        !self.body_filters.borrow().is_empty() || !self.output_root().tail_filters.borrow().is_empty()
    }

    /// The request whose response this one's is a part of: itself unless it is a subrequest that was included.
    #[must_use]
    pub fn output_root(&self) -> &Request {
        let mut at = self;
        while let (Output::Part, Some(parent)) = (&at.output, &at.parent) {
            at = parent;
        }
        at
    }

    /// A request header's first value.
    #[must_use]
    pub fn header_in(&self, name: &[u8]) -> Option<&[u8]> {
        self.exchange.head.headers.get(name)
    }

    /// Remembers the groups of a match; named groups become variables.
    pub fn set_captures(&self, pattern: &PatternWithNames, subject: &Bytes, groups: Groups) {
        for (index, group) in pattern.names.iter() {
            let value = groups.get(*group).copied().flatten().and_then(|(start, end)| {
                (start <= end && end as usize <= subject.len())
                    .then(|| subject.slice(start as usize..end as usize))
            });
            let value = value.unwrap_or_default();
            self.exchange.generation.variables.assign(*index, self, &value);
        }
        *self.captures.borrow_mut() = Captures { subject: subject.clone(), groups };
    }

    /// Appends one group of the last match.
    pub fn write_capture(&self, group: usize, out: &mut Vec<u8>) {
        let captures = self.captures.borrow();
        if let Some(Some((start, end))) = captures.groups.get(group)
            && let Some(text) = captures.subject.get(*start as usize..*end as usize)
        {
            out.extend_from_slice(text);
        }
    }

    /// A value that a module keeps with the request.
    #[must_use]
    pub fn extension<T: 'static>(&self) -> Option<Rc<T>> {
        self.extensions.borrow().iter().find_map(|value| value.clone().downcast::<T>().ok())
    }

    /// Keeps a value with the request, replacing one of the same type.
    pub fn set_extension<T: 'static>(&self, value: T) -> Rc<T> {
        let value = Rc::new(value);
        let mut all = self.extensions.borrow_mut();
        all.retain(|old| !old.is::<T>());
        all.push(value.clone());
        value
    }

    /// nginx's warning about a variable that nothing has set.
    pub(crate) fn warn_uninitialized(&self, name: &str) {
        if self.loc().core.uninitialized_variable_warn {
            self.log(Level::Warn, format_args!("using uninitialized \"{name}\" variable"));
        }
    }
}

/// A regular expression whose named groups are variables.
#[derive(Debug, Clone)]
pub struct PatternWithNames {
    /// The expression.
    pub pattern: Pattern,
    /// Variables of the named groups.
    pub names: Box<[(crate::script::VarIndex, usize)]>,
}

/// The patterns of the configuration being loaded: thousands of servers say the same few.
type Patterns = std::collections::HashMap<(Box<[u8]>, bool), Pattern>;

impl PatternWithNames {
    /// Compiles an argument; named groups are declared as variables.
    pub fn compile(
        cx: &mut headwater_conf::Cx<'_>,
        directive: &headwater_conf::Directive,
        index: usize,
        source: &[u8],
        ignore_case: bool,
    ) -> headwater_conf::Result<Self> {
        let known = cx.state::<Patterns>().get(&(source.into(), ignore_case)).cloned();
        let pattern = match known {
            Some(pattern) => pattern,
            None => {
                let pattern = Pattern::compile(source, ignore_case)
                    .map_err(|message| directive.error_at(index, message))?;
                cx.state::<Patterns>().insert((source.into(), ignore_case), pattern.clone());
                pattern
            }
        };
        let mut names = Vec::new();
        for (name, group) in pattern.names() {
            let variable = cx
                .state::<crate::script::Variables>()
                .plain(name)
                .map_err(|message| directive.error_at(index, message))?;
            names.push((variable, *group));
        }
        Ok(Self { pattern, names: names.into() })
    }

    /// Matches against the subject and, on success, remembers the groups in the request.
    pub fn matches(&self, r: &Request, subject: &Bytes) -> bool {
        match self.pattern.captures(subject) {
            Some(groups) => {
                r.set_captures(self, subject, groups);
                true
            }
            None => false,
        }
    }
}
