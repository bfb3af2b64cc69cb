//! What a back end does with a request, as data.
//!
//! Built by `catalogue`, played by `backend`. nginx counterpart: none.

use std::time::Duration;

/// One step of a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Waits.
    Pause(Duration),
    /// Reads the request's body to its end.
    ReadBody,
    /// Reads so many bytes of the request's body.
    ReadSome(usize),
    /// Writes these bytes again and again until the other side closes.
    Endless(Vec<u8>),
    /// Says nothing until the other side closes, three seconds at most.
    Hang,
    /// Sends back what it reads until so many bytes came.
    Echo(usize),
    /// Closes the connection with a reset.
    Reset,
    /// Keeps the connection for the next request, which is played by `Script::next`.
    Next,
}

/// What kind of script it is: which locations and clients it suits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A response that ends at some byte, or comes in two pieces.
    Cut,
    /// Anything else that a GET may meet.
    Odd,
    /// A protocol change.
    Tunnel,
    /// A response of some hundred kilobytes.
    Large,
    /// What becomes of a request with a body.
    Body,
    /// Connections that carry several requests.
    Keep,
}

/// How a back end behaves.
#[derive(Clone, Debug)]
pub struct Script {
    /// For messages.
    pub name: String,
    /// Which cells it belongs to.
    pub kind: Kind,
    /// For the first request of a connection. Behind the last act the connection is closed.
    pub acts: Vec<Act>,
    /// For further requests of the same connection.
    pub next: Vec<Act>,
}

impl Script {
    /// A script for connections of one request.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>, acts: Vec<Act>) -> Self {
        Self { name: name.into(), kind, acts, next: Vec::new() }
    }
}
