//! Names at run time: a worker's own DNS client, UDP with TCP for what does not fit.
//!
//! `core` decides without doing I/O (`node` is one name of it), `message` reads and writes messages, `sockets` sends and receives; here lookups are futures and one task per resolver
//! moves things along while something is being asked. Called by `upstream::target` and `upstream::names` of `headwater-http`. nginx's counterpart: `ngx_resolver.c`.

mod answer;
mod core;
mod message;
mod name;
mod node;
mod sockets;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::oneshot;

use self::core::{Core, Outside, Rules};
use crate::clock;
use crate::timer::{Timer, with_timeout};
use answer::{Outcome, Reply, ServiceRecord};
use sockets::{Datagrams, Received, exchange};

pub use answer::{Addresses, ResolveError, ServiceTarget, Services};
pub use message::{Head, Kind, Records, Transport, Unusable, read_head};
pub use name::DomainName;

/// What a `resolver` directive says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolverOptions {
    /// Addresses of the servers.
    pub servers: Vec<SocketAddr>,
    /// How long answers hold, whatever they say themselves; whole seconds.
    pub valid: Option<Duration>,
    /// Whether IPv4 addresses are asked for.
    pub ipv4: bool,
    /// Whether IPv6 addresses are asked for.
    pub ipv6: bool,
}

/// Where a resolver's errors go.
pub type Logger = Box<dyn Fn(fmt::Arguments<'_>)>;

/// A worker's client of the servers of one `resolver` directive.
pub struct Resolver {
    core: RefCell<Core>,
    /// Those who wait for answers, by the number the core knows them by.
    waiting: RefCell<HashMap<u64, oneshot::Sender<Outcome>>>,
    datagrams: RefCell<Datagrams>,
    next_waiter: Cell<u64>,
    /// Whether the task runs, and how it is woken.
    running: Cell<bool>,
    waker: Cell<Option<Waker>>,
    timer: Timer,
    log: Rc<dyn Fn(fmt::Arguments<'_>)>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("servers", &self.datagrams.borrow().servers())
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver that has not asked anything yet.
    #[must_use]
    pub fn new(options: &ResolverOptions, log: Logger) -> Rc<Self> {
        let log: Rc<dyn Fn(fmt::Arguments<'_>)> = Rc::from(log);
        Rc::new(Self {
            core: RefCell::new(Core::new(Rules {
                servers: options.servers.len(),
                valid: options.valid.map(|valid| valid.as_secs()),
                ipv4: options.ipv4,
                ipv6: options.ipv6,
            })),
            waiting: RefCell::default(),
            datagrams: RefCell::new(Datagrams::new(options.servers.clone(), log.clone())),
            next_waiter: Cell::new(0),
            running: Cell::new(false),
            waker: Cell::new(None),
            timer: Timer::new(),
            log,
        })
    }

    /// Addresses of a host name, or of an address in digits. A limit of 0 is none.
    ///
    /// # Errors
    /// When the servers know none, or do not say in time.
    ///
    /// # Panics
    /// Outside of a `LocalSet`, which has to run the resolver's task.
    pub async fn addresses(self: &Rc<Self>, name: &[u8], limit: Duration) -> Result<Addresses, ResolveError> {
        if let Some(address) = literal(name) {
            return Ok(Addresses { addresses: vec![address], valid: u64::MAX });
        }
        let name = DomainName::parse(name).ok_or(ResolveError::NotFound)?;
        match self.begin(false, &name).wait(limit).await? {
            Reply::Addresses(addresses) => Ok(addresses),
            Reply::Services { .. } => Err(ResolveError::NotFound),
        }
    }

    /// The servers of a service with their addresses: `http` at `example.com` is looked up as `_http._tcp.example.com`, a service with a dot
    /// in it as it is. The limit counts for the service's records, and then for the names in them.
    ///
    /// # Errors
    /// When none of its servers has an address.
    ///
    /// # Panics
    /// As [`Resolver::addresses`].
    pub async fn services(
        self: &Rc<Self>,
        service: &str,
        name: &str,
        limit: Duration,
    ) -> Result<Services, ResolveError> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let full = if service.contains('.') {
            format!("{service}.{name}")
        } else {
            format!("_{service}._tcp.{name}")
        };
        let full = DomainName::parse(full.as_bytes()).ok_or(ResolveError::NotFound)?;
        let Reply::Services { records, mut valid } = self.begin(true, &full).wait(limit).await? else {
            return Err(ResolveError::NotFound);
        };
        // All names are asked for at once; then it does not matter in which order they are waited for.
        let begun: Vec<(ServiceRecord, Lookup)> = records
            .into_iter()
            .filter_map(|record| {
                let lookup = self.begin(false, record.target.as_ref()?);
                Some((record, lookup))
            })
            .collect();
        let (mut targets, mut failed) = (Vec::new(), None);
        for (record, lookup) in begun {
            match lookup.wait(limit).await {
                Ok(Reply::Addresses(found)) => {
                    valid = valid.min(found.valid);
                    let name: Box<str> =
                        record.target.map(|name| name.to_string()).unwrap_or_default().into();
                    targets.extend(found.addresses.into_iter().map(|ip| ServiceTarget {
                        address: SocketAddr::new(ip, record.port),
                        name: name.clone(),
                        priority: record.priority,
                        weight: record.weight,
                    }));
                }
                Ok(Reply::Services { .. }) => {}
                Err(error) => {
                    let target = record.target.map(|name| name.to_string()).unwrap_or_default();
                    (self.log)(format_args!(
                        "{target} could not be resolved ({error}) while resolving service {service} of {name}"
                    ));
                    // One name that does not exist says more than others that could not be asked for.
                    let known = error == ResolveError::NotFound;
                    failed = if known { Some(error) } else { failed.or(Some(error)) };
                }
            }
        }
        if targets.is_empty() {
            return Err(failed.unwrap_or(ResolveError::NotFound));
        }
        Ok(Services { targets, valid })
    }

    fn begin(self: &Rc<Self>, services: bool, name: &DomainName) -> Lookup {
        let waiter = self.next_waiter.get();
        self.next_waiter.set(waiter.wrapping_add(1));
        let known = self.with_core(|core, out| core.lookup(services, name, waiter, out));
        let answer = match known {
            Some(outcome) => Answer::Known(outcome),
            None => {
                let (sender, receiver) = oneshot::channel();
                self.waiting.borrow_mut().insert(waiter, sender);
                self.run();
                Answer::Pending(receiver)
            }
        };
        Lookup { resolver: self.clone(), waiter, answer }
    }

    /// Calls the core, then does what it wants.
    fn with_core<T>(self: &Rc<Self>, call: impl FnOnce(&mut Core, &mut dyn Outside) -> T) -> T {
        let mut run = Run { resolver: self, log: &self.log };
        call(&mut self.core.borrow_mut(), &mut run)
    }

    /// Makes sure that the task runs and looks at what is new.
    fn run(self: &Rc<Self>) {
        if !self.running.replace(true) {
            tokio::task::spawn_local(ask_again(self.clone()));
        } else if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// A message came.
    fn received(self: &Rc<Self>, server: usize, transport: Transport, message: &[u8]) {
        self.with_core(|core, out| core.receive(server, transport, message, out));
        // The task may have nothing to wait for now.
        self.run();
    }

    /// Ready when a server was given time enough, or, with false, when nothing is being asked for.
    fn poll_due(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.waker.set(Some(cx.waker().clone()));
        let Some(due) = self.core.borrow().next_due() else { return Poll::Ready(false) };
        if self.timer.deadline() != Some(due) {
            self.timer.arm_at(due);
        }
        self.timer.poll_expired(cx).map(|()| true)
    }
}

/// The resolver's task: asks again where no answer came. It ends when nothing is being asked for, and closes the sockets then, so that the next questions come
/// from other ports.
async fn ask_again(resolver: Rc<Resolver>) {
    while poll_fn(|cx| resolver.poll_due(cx)).await {
        resolver.timer.disarm();
        resolver.with_core(|core, out| core.tick(out));
    }
    resolver.timer.disarm();
    resolver.datagrams.borrow_mut().close();
    resolver.waker.take();
    resolver.running.set(false);
}

/// The world as the core sees it.
struct Run<'a> {
    resolver: &'a Rc<Resolver>,
    log: &'a Rc<dyn Fn(fmt::Arguments<'_>)>,
}

impl Outside for Run<'_> {
    fn now(&self) -> u64 {
        clock::now_ms()
    }

    fn random(&mut self) -> u32 {
        let mut bytes = [0; 4];
        loop {
            match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
                Ok(4) => return u32::from_ne_bytes(bytes),
                // A signal came between.
                Ok(_) | Err(Errno::INTR) => {}
                // A kernel without the call: the keys of hash tables come from its other source.
                Err(_) => return (RandomState::new().build_hasher().finish() & 0xffff_ffff) as u32,
            }
        }
    }

    fn send(&mut self, server: usize, transport: Transport, message: &[u8]) -> bool {
        if transport == Transport::Udp {
            let received = || -> Received {
                let resolver = Rc::downgrade(self.resolver);
                Rc::new(move |server, message| {
                    if let Some(resolver) = resolver.upgrade() {
                        resolver.received(server, Transport::Udp, message);
                    }
                })
            };
            return self.resolver.datagrams.borrow_mut().send(server, message, received);
        }
        let Some(address) = self.resolver.datagrams.borrow().servers().get(server).copied() else {
            return false;
        };
        let (resolver, message) = (self.resolver.clone(), message.to_vec());
        tokio::task::spawn_local(async move {
            if let Some(answer) = exchange(address, &message, &*resolver.log).await {
                resolver.received(server, Transport::Tcp, &answer);
            }
        });
        true
    }

    fn finish(&mut self, waiter: u64, outcome: Outcome) {
        let sender = self.resolver.waiting.borrow_mut().remove(&waiter);
        if let Some(sender) = sender {
            // Who no longer listens has cancelled or is about to.
            let _ = sender.send(outcome);
        }
    }

    fn log(&mut self, text: fmt::Arguments<'_>) {
        (self.log)(text);
    }
}

enum Answer {
    Known(Outcome),
    Pending(oneshot::Receiver<Outcome>),
}

/// A lookup under way; dropped, it no longer waits.
struct Lookup {
    resolver: Rc<Resolver>,
    waiter: u64,
    answer: Answer,
}

impl Lookup {
    async fn wait(mut self, limit: Duration) -> Outcome {
        let pending = match &mut self.answer {
            Answer::Known(outcome) => return outcome.clone(),
            Answer::Pending(pending) => pending,
        };
        let timer = Timer::new();
        let answer =
            if limit.is_zero() { Ok(pending.await) } else { with_timeout(&timer, limit, pending).await };
        match answer {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ResolveError::ServerFailure),
            Err(_) => Err(ResolveError::TimedOut),
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if matches!(self.answer, Answer::Pending(_)) {
            self.resolver.waiting.borrow_mut().remove(&self.waiter);
            self.resolver.core.borrow_mut().cancel(self.waiter);
        }
    }
}

fn literal(name: &[u8]) -> Option<IpAddr> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    std::str::from_utf8(name).ok()?.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from)
}
