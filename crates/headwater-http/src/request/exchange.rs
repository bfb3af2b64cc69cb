//! What a request shares with its subrequests: the connection, the head as received, the variables, the clock.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use headwater_io::addr::Addr;
use headwater_wire::headers::HeaderList;
use headwater_wire::http1::request::{RequestLine, Version};
use headwater_wire::http1::semantics::BodyFraming;

use super::body::RequestBody;
use super::connection::Connection;
use crate::config::Generation;
use crate::script::{Slot, VarIndex};

/// The request head as the client sent it.
pub struct RequestHead {
    /// Header lines; their arena is the head's bytes.
    pub headers: HeaderList,
    /// The request line; spans point into the same arena.
    pub line: RequestLine,
    /// The host the request is for, lower-case, without port; empty when there is none.
    pub host: Bytes,
    /// The port the client named.
    pub port: Option<u16>,
    /// How the body is framed.
    pub framing: BodyFraming,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
    /// Whether `Connection` lists `upgrade`.
    pub upgrade: bool,
    /// Whether the client lets the connection live on.
    pub keep_alive: bool,
    /// Bytes of the head as received.
    pub length: usize,
}

impl RequestHead {
    /// A head of so many bytes of which nothing was checked: without host and body, on a connection that ends.
    #[must_use]
    pub fn unchecked(line: RequestLine, headers: HeaderList, length: usize) -> Self {
        Self {
            headers,
            line,
            host: Bytes::new(),
            port: None,
            framing: BodyFraming::None,
            expect_continue: false,
            upgrade: false,
            keep_alive: false,
            length,
        }
    }

    /// The protocol version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.line.version
    }

    /// The whole request line.
    #[must_use]
    pub fn request_line(&self) -> &[u8] {
        self.headers.span(self.line.request)
    }

    /// The method as sent.
    #[must_use]
    pub fn method_text(&self) -> &[u8] {
        self.headers.span(self.line.method_text)
    }

    /// The request target as sent, without scheme and host.
    #[must_use]
    pub fn unparsed_uri(&self) -> &[u8] {
        self.headers.span(self.line.target)
    }
}

/// What a request shares with its subrequests.
pub struct Exchange {
    /// The client connection.
    pub connection: Rc<Connection>,
    /// The client's address as a trusted proxy tells it.
    pub real_peer: OnceCell<Addr>,
    /// The configuration under which the request started.
    pub generation: Rc<Generation>,
    /// The head as received.
    pub head: RequestHead,
    /// The request body.
    pub body: RequestBody,
    /// When the first byte of the head arrived.
    pub start: Instant,
    /// Whether the connection may serve another request.
    pub keepalive: Cell<bool>,
    /// `$request_id`, made on first use.
    pub request_id: Cell<Option<[u8; 32]>>,
    /// Bytes of this request's response sent so far, head included.
    pub bytes_sent: Cell<u64>,
    /// Bytes of the response head.
    pub header_size: Cell<u64>,
    slots: RefCell<Vec<Slot>>,
}

impl Exchange {
    /// A new exchange.
    #[must_use]
    pub fn new(
        connection: Rc<Connection>,
        generation: Rc<Generation>,
        head: RequestHead,
        start: Instant,
    ) -> Self {
        let body = RequestBody::new(head.framing);
        Self {
            connection,
            real_peer: OnceCell::new(),
            generation,
            head,
            body,
            start,
            keepalive: Cell::new(false),
            request_id: Cell::new(None),
            bytes_sent: Cell::new(0),
            header_size: Cell::new(0),
            slots: RefCell::default(),
        }
    }

    /// The value of a plain or computed variable.
    #[must_use]
    pub fn slot(&self, index: VarIndex) -> Slot {
        self.slots.borrow().get(index.slot()).cloned().unwrap_or_default()
    }

    /// Stores the value of a plain or computed variable.
    pub fn set_slot(&self, index: VarIndex, value: Slot) {
        let mut slots = self.slots.borrow_mut();
        if slots.len() <= index.slot() {
            slots.resize(self.generation.variables.len(), Slot::Unset);
        }
        if let Some(slot) = slots.get_mut(index.slot()) {
            *slot = value;
        }
    }
}
