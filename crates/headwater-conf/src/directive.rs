//! The record of one directive: everything that is known about it, declared once next to the code that uses it.
//!
//! Parsing, context and arity errors, the generated documentation and the nearest-name help all read this record. nginx's counterpart:
//! `ngx_command_t`.

use crate::diagnostic::Result;
use crate::interpret::Cx;
use crate::parse::Directive;

/// A set of the blocks in which a directive may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Contexts(pub u32);

/// The blocks of the configuration language.
pub mod context {
    use super::Contexts;

    /// The top of the main file.
    pub const MAIN: Contexts = Contexts(1);
    /// `events { }`.
    pub const EVENTS: Contexts = Contexts(1 << 1);
    /// `http { }`.
    pub const HTTP: Contexts = Contexts(1 << 2);
    /// `server { }` in http.
    pub const SERVER: Contexts = Contexts(1 << 3);
    /// `location { }`.
    pub const LOCATION: Contexts = Contexts(1 << 4);
    /// `upstream { }` in http.
    pub const UPSTREAM: Contexts = Contexts(1 << 5);
    /// `if { }` in a server.
    pub const SERVER_IF: Contexts = Contexts(1 << 6);
    /// `if { }` in a location.
    pub const LOCATION_IF: Contexts = Contexts(1 << 7);
    /// `limit_except { }`.
    pub const LIMIT_EXCEPT: Contexts = Contexts(1 << 8);
    /// Everywhere.
    pub const ANY: Contexts = Contexts(u32::MAX);

    /// http, server, location: the usual three.
    pub const HSL: Contexts = HTTP.or(SERVER).or(LOCATION);
    /// http, server.
    pub const HS: Contexts = HTTP.or(SERVER);
    /// http, server, location, if in location.
    pub const HSLI: Contexts = HSL.or(LOCATION_IF);
    /// http, server, location, limit_except.
    pub const HSLX: Contexts = HSL.or(LIMIT_EXCEPT);
    /// server, location and both kinds of if: the rewrite module's.
    pub const REWRITE: Contexts = SERVER.or(LOCATION).or(SERVER_IF).or(LOCATION_IF);
}

impl Contexts {
    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Contexts) -> Contexts {
        Contexts(self.0 | other.0)
    }

    /// Whether the sets share a block.
    #[must_use]
    pub const fn meets(self, other: Contexts) -> bool {
        self.0 & other.0 != 0
    }

    /// The names nginx's documentation uses, in its order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        if self == context::ANY {
            return vec!["any"];
        }
        [
            (context::MAIN, "main"),
            (context::EVENTS, "events"),
            (context::HTTP, "http"),
            (context::SERVER, "server"),
            (context::LOCATION, "location"),
            (context::UPSTREAM, "upstream"),
            (context::SERVER_IF, "if"),
            (context::LOCATION_IF, "if in location"),
            (context::LIMIT_EXCEPT, "limit_except"),
        ]
        .into_iter()
        .filter(|(one, _)| self.meets(*one))
        .map(|(_, name)| name)
        .collect()
    }
}

/// How many arguments a directive takes, and whether it opens a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Args {
    counts: u32,
    at_least: u8,
    /// Whether a block follows.
    pub block: bool,
    /// Whether the only argument is `on` or `off`.
    pub flag: bool,
}

impl Args {
    /// Exactly this many (0 to 31).
    #[must_use]
    pub const fn exactly(count: u32) -> Args {
        Args::range(count, count)
    }

    /// From `low` to `high` (0 to 31).
    #[must_use]
    pub const fn range(low: u32, high: u32) -> Args {
        let mut counts = 0;
        let mut count = low;
        while count <= high {
            counts |= 1 << count;
            count += 1;
        }
        Args { counts, at_least: u8::MAX, block: false, flag: false }
    }

    /// This many or more.
    #[must_use]
    pub const fn at_least(count: u8) -> Args {
        Args { counts: 0, at_least: count, block: false, flag: false }
    }

    /// `on` or `off`.
    #[must_use]
    pub const fn flag() -> Args {
        let mut args = Args::exactly(1);
        args.flag = true;
        args
    }

    /// The same, with a block.
    #[must_use]
    pub const fn with_block(mut self) -> Args {
        self.block = true;
        self
    }

    /// Whether this number of arguments is right.
    #[must_use]
    pub fn accepts(&self, count: usize) -> bool {
        count >= usize::from(self.at_least)
            || u32::try_from(count).is_ok_and(|count| count < 32 && self.counts >> count & 1 == 1)
    }
}

/// Stores one directive's values in the raw settings of the current block.
pub type Setter = fn(&mut Cx<'_>, &Directive) -> Result<()>;

/// All that is known about one directive.
#[derive(Debug, Clone, Copy)]
pub struct DirectiveDef {
    /// The name as written in the configuration.
    pub name: &'static str,
    /// nginx's module, `ngx_http_proxy_module`.
    pub module: &'static str,
    /// Where it may stand.
    pub contexts: Contexts,
    /// How many arguments, and whether a block.
    pub args: Args,
    /// The arguments as documentation shows them, without the name.
    pub syntax: &'static str,
    /// The default as documentation shows it; empty when there is none.
    pub default: &'static str,
    /// What it does, one or more sentences.
    pub doc: &'static str,
    /// Stores it.
    pub set: Setter,
}
