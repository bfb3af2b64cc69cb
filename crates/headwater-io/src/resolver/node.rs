//! A name of the resolver: what is being asked about it, what answers said, who waits.
//!
//! Part of `core`, which keeps the tables. nginx's counterpart: `ngx_resolver_node_t`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::answer::{Addresses, Reply, ServiceRecord, merge};
use super::core::Outside;
use super::message::{Kind, Records, Transport};
use super::name::DomainName;

#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) hops: u32,
}

/// A question of a node that has no answer yet.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) kind: Kind,
    pub(super) id: u16,
    pub(super) message: Vec<u8>,
    /// Whether a truncated answer came.
    pub(super) tcp: bool,
    /// The servers that were asked; others' answers do not count.
    pub(super) asked: Vec<usize>,
}

/// What answers said so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    pub(super) services: Vec<ServiceRecord>,
    pub(super) alias: Option<DomainName>,
    /// The first error.
    pub(super) code: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Being asked for.
    Asked,
    /// Answered, and good through this second.
    Known(u64),
}

/// A name.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) questions: Vec<Question>,
    pub(super) found: Found,
    pub(super) ttl: u32,
    pub(super) server: usize,
    pub(super) waiting: Vec<Waiter>,
    /// When it is asked for again, or forgotten.
    pub(super) due: u64,
}

/// What a node is found by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) services: bool,
    pub(super) name: DomainName,
}

impl Node {
    /// Sends what is not answered; false when the system refused one of them.
    pub(super) fn send(&mut self, out: &mut dyn Outside) -> bool {
        let server = self.server;
        self.questions.iter_mut().all(|question| {
            if !question.asked.contains(&server) {
                question.asked.push(server);
            }
            let transport = if question.tcp { Transport::Tcp } else { Transport::Udp };
            out.send(server, transport, &question.message)
        })
    }

    pub(super) fn take(&mut self, records: Records) {
        self.ttl = self.ttl.min(records.ttl);
        self.found.v4.extend(records.v4);
        self.found.v6.extend(records.v6);
        self.found.services.extend(records.services);
        if records.alias.is_some() {
            self.found.alias = records.alias;
        }
    }

    /// What there is to tell; `None` for an alias.
    pub(super) fn reply(&self, now: u64, random: Option<[u32; 3]>) -> Option<Reply> {
        let State::Known(until) = self.state else { return None };
        let valid = until.saturating_sub(seconds_of(now));
        if !self.found.services.is_empty() {
            return Some(Reply::Services { records: self.found.services.clone(), valid });
        }
        let addresses = merge(&self.found.v4, &self.found.v6, random);
        (!addresses.is_empty()).then_some(Reply::Addresses(Addresses { addresses, valid }))
    }
}

impl Found {
    pub(super) fn is_something(&self) -> bool {
        !(self.v4.is_empty() && self.v6.is_empty() && self.services.is_empty()) || self.alias.is_some()
    }
}

impl Records {
    pub(super) fn is_useless(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.services.is_empty() && self.alias.is_none()
    }
}

/// Times to live count in whole seconds, so that an answer with none serves the rest of its second.
pub(super) fn seconds_of(milliseconds: u64) -> u64 {
    milliseconds / 1000
}
