//! Servers of a group whose names are looked up again and again: `server … resolve`.
//!
//! `modules::upstream` puts the groups together; one worker looks the names up ([`keep`]) and replaces the groups' peers, which all workers share. nginx's counterpart:
//! `ngx_http_upstream_zone_resolve_timer`, `ngx_http_upstream_zone_resolve_handler`, `ngx_http_upstream_zone_preresolve`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;
use headwater_io::resolver::{ResolveError, Resolver, ResolverOptions, ServiceTarget};
use tokio::task::{JoinHandle, spawn_local};

use super::peers::{Group, Peer};
use crate::config::Generation;
use crate::flow::error_log::Level;

/// Seconds after which a name that does not exist is looked up again, unless `valid=` says otherwise.
const AGAIN: u64 = 10;

/// Shortest time between two tries of a name that could not be looked up.
const LEAST_RETRY: Duration = Duration::from_secs(1);

/// Longest time an answer is believed.
const MOST: u64 = 365 * 86_400;

/// One `server … resolve`.
#[derive(Debug, Clone)]
pub struct NamedServer {
    /// What its peers have in common; the address is not used.
    pub template: Peer,
    /// The name.
    pub host: Box<str>,
    /// The port, for peers that no service record gives one.
    pub port: u16,
    /// The service, when that is looked up.
    pub service: Option<Box<str>>,
    /// Whether the peers are backups.
    pub backup: bool,
}

impl NamedServer {
    /// Tells the peers of this server from others, in this configuration and the next.
    fn key(&self) -> Arc<str> {
        let side = if self.backup { "backup" } else { "primary" };
        let service = self.service.as_deref().unwrap_or_default();
        format!("{side} {service} {}:{}", self.host, self.port).into()
    }

    /// A peer of this server with the settings of this configuration.
    fn peer(&self, addr: Addr, server: Option<&str>, weight: Option<i64>) -> Peer {
        let template = &self.template;
        Peer {
            name: addr.to_string().into(),
            addr,
            server: server.map_or_else(|| template.server.clone(), Into::into),
            // A weight in the configuration comes before that of a service record.
            weight: weight.filter(|_| template.weight == 1).unwrap_or(template.weight),
            found_by: Some(self.key()),
            ..template.clone()
        }
    }

    /// The same peer, found under the configuration before.
    fn adopt(&self, old: &Peer) -> Peer {
        let service = self.service.is_some();
        self.peer(old.addr.clone(), service.then_some(&*old.server), service.then_some(old.weight))
    }
}

/// A group with such servers.
#[derive(Debug)]
pub struct NamedGroup {
    /// The group.
    pub group: Arc<Group>,
    /// Its servers with addresses, primary ones and backups.
    pub fixed: (Vec<Peer>, Vec<Peer>),
    /// Its servers with names.
    pub servers: Vec<NamedServer>,
    /// Who is asked.
    pub resolver: Arc<ResolverOptions>,
    /// How long a lookup may last.
    pub timeout: Duration,
    /// Whether the balancing method knows backups.
    pub backups: bool,
}

/// Primary and backup peers of one name.
type Found = (Vec<Peer>, Vec<Peer>);

impl NamedGroup {
    /// Lets the group go on with the peers that its predecessor of the configuration before has found, until they are looked up again.
    pub fn take_over(&self) {
        let (primary, backup) = self.peers(&self.known());
        self.group.prepare(primary, backup);
    }

    /// What the group has of each name now.
    fn known(&self) -> Vec<Found> {
        let one = |server: &NamedServer| {
            let (primary, backup) = self.group.found_by(&server.key());
            let adopt = |old: Vec<Peer>| old.iter().map(|peer| server.adopt(peer)).collect();
            (adopt(primary), adopt(backup))
        };
        self.servers.iter().map(one).collect()
    }

    /// All peers, given what was found for each name.
    fn peers(&self, found: &[Found]) -> Found {
        let (mut primary, mut backup) = self.fixed.clone();
        for (first, second) in found {
            primary.extend_from_slice(first);
            backup.extend_from_slice(second);
        }
        (primary, backup)
    }

    /// The peers that a name's addresses make.
    fn of_addresses(&self, server: &NamedServer, addresses: &[std::net::IpAddr]) -> Found {
        let peer = |ip: &std::net::IpAddr| server.peer(Addr::Inet((*ip, server.port).into()), None, None);
        let peers = addresses.iter().map(peer).collect();
        if server.backup { (Vec::new(), peers) } else { (peers, Vec::new()) }
    }

    /// The peers that a service's records make: those of the lowest priority number come first, the others are their backups. A server that is a backup itself has no
    /// backups.
    fn of_service(&self, server: &NamedServer, targets: &[ServiceTarget]) -> Found {
        let best = targets.iter().map(|target| target.priority).min().unwrap_or(0);
        let peer = |target: &ServiceTarget| {
            server.peer(Addr::Inet(target.address), Some(&target.name), Some(i64::from(target.weight)))
        };
        let (first, others): (Vec<_>, Vec<_>) = targets.iter().partition(|target| target.priority == best);
        let first: Vec<Peer> = first.into_iter().map(peer).collect();
        if server.backup {
            return (Vec::new(), first);
        }
        let others = if self.backups { others.into_iter().map(peer).collect() } else { Vec::new() };
        (first, others)
    }
}

/// The tasks that look names up; they end with it.
pub(crate) struct Names(Vec<JoinHandle<()>>);

impl Drop for Names {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Looks up the names of a configuration's groups for as long as the result lives. One worker does it for all.
pub(crate) fn keep(generation: &Rc<Generation>) -> Names {
    let mut tasks = Vec::new();
    for at in 0..generation.names.len() {
        let Some(named) = generation.names.get(at) else { continue };
        // The group's peers may be those that a task of the configuration before put there last.
        let found = named.known();
        let (primary, backup) = named.peers(&found);
        named.group.replace(primary, backup);
        let found = Rc::new(RefCell::new(found));
        for index in 0..named.servers.len() {
            let name = Name { generation: generation.clone(), group: at, index, found: found.clone() };
            tasks.push(spawn_local(name.look_up_again_and_again()));
        }
    }
    Names(tasks)
}

/// One name of one group.
struct Name {
    generation: Rc<Generation>,
    group: usize,
    index: usize,
    /// What was found for all names of the group.
    found: Rc<RefCell<Vec<Found>>>,
}

impl Name {
    async fn look_up_again_and_again(self) {
        let Some(named) = self.generation.names.get(self.group) else { return };
        let Some(server) = named.servers.get(self.index) else { return };
        let resolver = self.generation.resolver(&named.resolver);
        loop {
            let wait = self.look_up(named, server, &resolver).await;
            headwater_io::timer::sleep(wait).await;
        }
    }

    /// Looks the name up once; gives the time until the next look.
    async fn look_up(&self, named: &NamedGroup, server: &NamedServer, resolver: &Rc<Resolver>) -> Duration {
        let host = &server.host;
        let outcome = match &server.service {
            None => {
                let found = resolver.addresses(host.as_bytes(), named.timeout).await;
                found.map(|found| (named.of_addresses(server, &found.addresses), found.valid))
            }
            Some(service) => {
                let found = resolver.services(service, host, named.timeout).await;
                found.map(|found| (named.of_service(server, &found.targets), found.valid))
            }
        };
        let log = &self.generation.main.error_log;
        if let Err(error) = &outcome {
            match &server.service {
                None => log.write(Level::Error, None, format_args!("{host} could not be resolved ({error})")),
                Some(service) => log.write(
                    Level::Error,
                    None,
                    format_args!("service {service} of {host} could not be resolved ({error})"),
                ),
            }
        }
        let seconds = match outcome {
            Ok((found, valid)) => {
                self.replace(named, found);
                valid
            }
            Err(ResolveError::NotFound) => {
                self.replace(named, Found::default());
                named.resolver.valid.map_or(AGAIN, |valid| valid.as_secs())
            }
            // Servers that cannot be asked say nothing about the peers.
            Err(_) => return named.timeout.max(LEAST_RETRY),
        };
        // Answers hold to the end of a second.
        Duration::from_secs(seconds.min(MOST).saturating_add(1))
    }

    /// Puts what was found in the place of what was found before. Peers that stay keep their order, so that an answer in another order changes nothing.
    fn replace(&self, named: &NamedGroup, (primary, backup): Found) {
        let mut all = self.found.borrow_mut();
        let Some(mine) = all.get_mut(self.index) else { return };
        let primary = in_old_order(&mine.0, primary);
        let backup = in_old_order(&mine.1, backup);
        let unchanged = same(&mine.0, &primary) && same(&mine.1, &backup);
        *mine = (primary, backup);
        if !unchanged {
            let (primary, backup) = named.peers(&all);
            named.group.replace(primary, backup);
        }
    }
}

fn alike(one: &Peer, other: &Peer) -> bool {
    one.addr == other.addr && one.server == other.server && one.weight == other.weight
}

fn same(one: &[Peer], other: &[Peer]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
}

/// The new peers, those that were there before first, and each once.
fn in_old_order(old: &[Peer], new: Vec<Peer>) -> Vec<Peer> {
    let mut ordered: Vec<Peer> = Vec::with_capacity(new.len());
    let stays = old.iter().filter(|old| new.iter().any(|new| alike(old, new)));
    for peer in stays.chain(&new) {
        if !ordered.iter().any(|known| alike(known, peer)) {
            ordered.push(peer.clone());
        }
    }
    ordered
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
