//! The resolver without its sockets: what is known, what is being asked, and what an answer, a timer or a new lookup changes.
//!
//! Time, randomness, sending and logging are passed in as an [`Outside`], so that tests play every order of events. Called by the driver (`mod.rs`).
//! nginx's counterpart: `ngx_resolve_name_locked`, `ngx_resolver_resend`, `ngx_resolver_process_a`, `ngx_resolver_process_srv`.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::answer::{Outcome, ResolveError};
use super::message::{Head, Kind, Transport, encode, read_head};
use super::name::DomainName;
use super::node::{Found, Key, Node, Question, State, Waiter, seconds_of};

/// How long one server has to answer before the next one is asked, milliseconds.
const RESEND: u64 = 5000;

/// How long a name is remembered that nobody asks for, milliseconds.
const EXPIRE: u64 = 30_000;

/// How many aliases are followed.
const MAX_HOPS: u32 = 50;

/// How many names are known or asked for at once. Beyond that those not asked for go, the one that was least recently used first.
pub(super) const MAX_NAMES: usize = 16_384;

/// What the core needs from the world.
pub(super) trait Outside {
    /// Milliseconds that only grow.
    fn now(&self) -> u64;
    /// A number that nobody can guess.
    fn random(&mut self) -> u32;
    /// Sends a question to a server; false when that failed at once.
    fn send(&mut self, server: usize, transport: Transport, message: &[u8]) -> bool;
    /// Tells one who waits.
    fn finish(&mut self, waiter: u64, outcome: Outcome);
    /// Logs an error.
    fn log(&mut self, text: fmt::Arguments<'_>);
}

/// What the core has to know of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Number of servers, at least 1.
    pub(super) servers: usize,
    /// Seconds that answers hold instead of their own times.
    pub(super) valid: Option<u64>,
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

/// Names, known and asked for.
#[derive(Debug)]
pub(super) struct Core {
    rules: Rules,
    nodes: HashMap<u64, Node>,
    names: HashMap<Key, u64>,
    /// Nodes being asked for, by the time of the next try.
    asked: BTreeSet<(u64, u64)>,
    /// Nodes that are known, by the time they are forgotten.
    known: BTreeSet<(u64, u64)>,
    waiters: HashMap<u64, u64>,
    next_node: u64,
    next_server: usize,
}

impl Core {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: HashMap::new(),
            names: HashMap::new(),
            asked: BTreeSet::new(),
            known: BTreeSet::new(),
            waiters: HashMap::new(),
            next_node: 0,
            next_server: 0,
        }
    }

    /// When [`Core::tick`] is to be called next; `None` while nothing is being asked for.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.asked.first().map(|(due, _)| *due)
    }

    /// What is known of a name. `None`: `waiter` will be told.
    pub(super) fn lookup(
        &mut self,
        services: bool,
        name: &DomainName,
        waiter: u64,
        out: &mut dyn Outside,
    ) -> Option<Outcome> {
        self.forget(out.now());
        self.start(Key { services, name: name.clone() }, Waiter { id: waiter, hops: 0 }, out)
    }

    /// Somebody waits no longer.
    pub(super) fn cancel(&mut self, waiter: u64) {
        let node = self.waiters.remove(&waiter).and_then(|node| self.nodes.get_mut(&node));
        if let Some(node) = node {
            node.waiting.retain(|one| one.id != waiter);
        }
    }

    /// Asks the next server where one did not answer in time.
    pub(super) fn tick(&mut self, out: &mut dyn Outside) {
        let now = out.now();
        while let Some((due, number)) = self.asked.first().copied().filter(|(due, _)| *due <= now) {
            self.asked.remove(&(due, number));
            let Some(node) = self.nodes.get_mut(&number) else { continue };
            if node.waiting.is_empty() {
                self.remove(number);
                continue;
            }
            node.server = following(node.server, self.rules.servers);
            node.send(out);
            node.due = now.saturating_add(RESEND);
            self.asked.insert((node.due, number));
        }
    }

    /// A message came from a server.
    pub(super) fn receive(
        &mut self,
        server: usize,
        transport: Transport,
        message: &[u8],
        out: &mut dyn Outside,
    ) {
        let head = match read_head(message, transport) {
            Ok(head) => head,
            Err(error) => return out.log(format_args!("{error}")),
        };
        if let Some((number, index)) = self.question(server, &head, out) {
            self.answered(number, index, server, &head, out);
        }
    }

    /// Finds the question that an answer belongs to: the same name and type, the same id, from a server that was asked.
    fn question(&mut self, server: usize, head: &Head<'_>, out: &mut dyn Outside) -> Option<(u64, usize)> {
        let name = DomainName::from_wire(head.name)?;
        let key = Key { services: head.kind == Kind::Srv, name };
        let number = self.names.get(&key).copied();
        let node = number.and_then(|number| self.nodes.get(&number));
        let found = node.and_then(|node| {
            let index = node.questions.iter().position(|question| question.kind == head.kind)?;
            Some((node.questions.get(index)?, index))
        });
        let Some((question, index)) = found else {
            out.log(format_args!("unexpected DNS response for {}", key.name));
            return None;
        };
        if question.id != head.id {
            let (name, expected) = (&key.name, question.id);
            out.log(format_args!("wrong ident {} in DNS response for {name}, expect {expected}", head.id));
            return None;
        }
        if !question.asked.contains(&server) {
            out.log(format_args!("unexpected DNS response for {}", key.name));
            return None;
        }
        Some((number?, index))
    }

    fn answered(&mut self, number: u64, index: usize, server: usize, head: &Head<'_>, out: &mut dyn Outside) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        if head.truncated {
            let Some(question) = node.questions.get_mut(index).filter(|question| !question.tcp) else {
                return;
            };
            question.tcp = true;
            if !node.waiting.is_empty() {
                out.send(server, Transport::Tcp, &question.message);
                self.postpone(number, out.now());
            }
            return;
        }
        let mut code = head.code;
        if code == 0 {
            let records = match head.records() {
                Ok(records) => records,
                Err(error) => return out.log(format_args!("{error}")),
            };
            for kind in &records.strange {
                out.log(format_args!("unexpected RR type {kind} in DNS response"));
            }
            if !records.empty && records.is_useless() {
                let wanted = if node.key.services { "SRV type" } else { "A or CNAME types" };
                out.log(format_args!("no {wanted} in DNS response"));
            }
            node.take(records);
            code = node.found.code;
        }
        node.questions.remove(index);
        if code != 0 && !node.questions.is_empty() {
            node.found.code = code;
        } else if node.questions.is_empty() {
            self.complete(number, code, out);
        }
    }

    /// All questions of a node are answered.
    fn complete(&mut self, number: u64, code: u8, out: &mut dyn Outside) {
        let now = out.now();
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let waiting = std::mem::take(&mut node.waiting);
        for waiter in &waiting {
            self.waiters.remove(&waiter.id);
        }
        let useless = !node.found.is_something();
        let error = ResolveError::from_code(code).or(useless.then_some(ResolveError::NotFound));
        if let Some(error) = error {
            // Nothing is remembered of what failed.
            self.remove(number);
            for waiter in waiting {
                out.finish(waiter.id, Err(error));
            }
            return;
        }
        node.found.services.sort_by_key(|service| service.priority);
        let seconds = self.rules.valid.unwrap_or(u64::from(node.ttl));
        let valid = seconds_of(now).saturating_add(seconds);
        node.state = State::Known(valid);
        self.asked.remove(&(node.due, number));
        node.due = now.saturating_add(EXPIRE);
        self.known.insert((node.due, number));
        if let Some(reply) = node.reply(now, None) {
            for waiter in waiting {
                out.finish(waiter.id, Ok(reply.clone()));
            }
            return;
        }
        let key = node.key.clone();
        for waiter in waiting {
            if let Some(outcome) = self.start(key.clone(), waiter, out) {
                out.finish(waiter.id, outcome);
            }
        }
    }

    /// Answers from what is known, follows aliases, asks where nothing is known.
    fn start(&mut self, mut key: Key, mut waiter: Waiter, out: &mut dyn Outside) -> Option<Outcome> {
        let now = out.now();
        while let Some(number) = self.names.get(&key).copied() {
            let Some(node) = self.nodes.get_mut(&number) else { break };
            match node.state {
                State::Known(valid) if valid >= seconds_of(now) => {
                    self.known.remove(&(node.due, number));
                    node.due = now.saturating_add(EXPIRE);
                    self.known.insert((node.due, number));
                    let random = [out.random(), out.random(), out.random()];
                    if let Some(reply) = node.reply(now, Some(random)) {
                        return Some(Ok(reply));
                    }
                    let alias = node.found.alias.clone().filter(|_| waiter.hops < MAX_HOPS);
                    let Some(alias) = alias else { return Some(Err(ResolveError::NotFound)) };
                    waiter.hops = waiter.hops.saturating_add(1);
                    key.name = alias;
                }
                State::Asked if !node.waiting.is_empty() => {
                    node.waiting.push(waiter);
                    self.waiters.insert(waiter.id, number);
                    return None;
                }
                _ => {
                    self.remove(number);
                    break;
                }
            }
        }
        self.ask(key, waiter, out)
    }

    fn ask(&mut self, key: Key, waiter: Waiter, out: &mut dyn Outside) -> Option<Outcome> {
        if self.nodes.len() >= MAX_NAMES {
            let Some((_, oldest)) = self.known.first().copied() else {
                out.log(format_args!("too many names are being resolved"));
                return Some(Err(ResolveError::ServerFailure));
            };
            self.remove(oldest);
        }
        let kinds = [
            (Kind::A, !key.services && self.rules.ipv4),
            (Kind::Aaaa, !key.services && self.rules.ipv6),
            (Kind::Srv, key.services),
        ];
        let mut questions = Vec::with_capacity(2);
        for (kind, _) in kinds.into_iter().filter(|(_, wanted)| *wanted) {
            let id = (out.random() & 0xffff) as u16;
            let Some(message) = encode(id, &key.name, kind) else {
                return Some(Err(ResolveError::NotFound));
            };
            questions.push(Question { kind, id, message, tcp: false, asked: Vec::new() });
        }
        let number = self.next_node;
        self.next_node = self.next_node.wrapping_add(1);
        let mut node = Node {
            key: key.clone(),
            state: State::Asked,
            questions,
            found: Found::default(),
            ttl: u32::MAX,
            server: self.next_server,
            waiting: vec![waiter],
            due: out.now().saturating_add(RESEND),
        };
        self.next_server = following(self.next_server, self.rules.servers);
        if !node.send(out) {
            node.server = following(node.server, self.rules.servers);
            node.send(out);
        }
        self.asked.insert((node.due, number));
        self.nodes.insert(number, node);
        self.names.insert(key, number);
        self.waiters.insert(waiter.id, number);
        None
    }

    /// Gives a question that was sent again another while.
    fn postpone(&mut self, number: u64, now: u64) {
        if let Some(node) = self.nodes.get_mut(&number) {
            self.asked.remove(&(node.due, number));
            node.due = now.saturating_add(RESEND);
            self.asked.insert((node.due, number));
        }
    }

    /// Forgets names that nobody asked for.
    fn forget(&mut self, now: u64) {
        while let Some((_, number)) = self.known.first().copied().filter(|(due, _)| *due <= now) {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(node) = self.nodes.remove(&number) {
            self.names.remove(&node.key);
            self.asked.remove(&(node.due, number));
            self.known.remove(&(node.due, number));
        }
    }
}

/// The server after this one, in a circle.
fn following(server: usize, servers: usize) -> usize {
    server.saturating_add(1).checked_rem(servers).unwrap_or(0)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
