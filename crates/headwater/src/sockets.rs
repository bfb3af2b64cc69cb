//! The listening sockets of a generation: which addresses are bound, by how many sockets, and what a reload keeps.
//!
//! Called by the master at start and at each reload, and by `-t`. nginx's counterpart: `ngx_http_init_listening`,
//! `ngx_open_listening_sockets`, `ngx_configure_listening_sockets` and the socket part of `ngx_init_cycle`.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use headwater_conf::diagnostic::os_error;
use headwater_http::config::listen::ListenerKey;
use headwater_http::config::{Conf, Listener};
use headwater_io::{Addr, ListenOptions, ListenSocket};

use crate::journal::Journal;

/// How often binding is tried, and the pause between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// Socket options and name of an address to bind.
type Wanted = (ListenerKey, ListenOptions);

struct Bound {
    options: ListenOptions,
    /// One; or one for each worker with `reuseport`.
    sockets: Vec<ListenSocket>,
}

/// All listening sockets of one generation. Sockets that two generations share are the same descriptors in both.
#[derive(Default)]
pub(crate) struct Sockets {
    bound: HashMap<ListenerKey, Bound>,
}

/// Binding failed, and all about it is logged.
#[derive(Debug)]
pub(crate) struct CannotBind;

/// The addresses to bind, in the order in which they are bound.
///
/// Where a whole family is listened on at a port, its single addresses are not bound unless they have options of their
/// own: the worker tells connections apart by their local address.
pub(crate) fn wanted(conf: &Conf) -> Vec<Wanted> {
    let with_bind = |listener: &Listener| (listener.key.clone(), listener.options.clone(), listener.bind);
    select(conf.listeners.values().map(with_bind).collect())
}

/// Key, socket options, and whether the address is bound beside a wildcard.
type Candidate = (ListenerKey, ListenOptions, bool);

fn select(mut all: Vec<Candidate>) -> Vec<Wanted> {
    let wildcards: Vec<SocketAddr> = all.iter().filter_map(|(_, options, _)| wildcard(options)).collect();
    all.retain(|(_, options, bind)| match options.addr.inet() {
        Some(addr) if wildcard(options).is_none() => {
            let covered = |wild: &SocketAddr| wild.port() == addr.port() && wild.is_ipv4() == addr.is_ipv4();
            *bind || !wildcards.iter().any(covered)
        }
        _ => true,
    });
    all.sort_by_key(|(_, options, bind)| {
        (options.addr.port(), wildcard(options).is_some(), Reverse(*bind), options.addr.to_string())
    });
    all.into_iter().map(|(key, options, _)| (key, options)).collect()
}

fn wildcard(options: &ListenOptions) -> Option<SocketAddr> {
    options.addr.inet().filter(|addr| addr.ip().is_unspecified())
}

impl Sockets {
    /// The sockets of a configuration: those of `self` that it keeps, and new ones. Nothing in `self` is closed by this,
    /// so a failure leaves all as it was.
    pub(crate) fn open(&self, conf: &Conf, workers: usize, journal: &Journal) -> Result<Sockets, CannotBind> {
        let wanted = wanted(conf);
        let mut next = Sockets::default();
        for (key, options) in &wanted {
            next.bound.insert(key.clone(), self.kept(key, options, workers, journal));
        }
        for attempt in 1..=TRIES {
            let mut busy = false;
            for (key, options) in &wanted {
                let Some(bound) = next.bound.get_mut(key) else { continue };
                match fill(bound, workers) {
                    Ok(()) => {}
                    Err(error) => {
                        let (addr, reason) = (&options.addr, os_error(&error));
                        journal.emerg(format_args!("bind() to {addr} failed {reason}"));
                        if error.kind() != io::ErrorKind::AddrInUse {
                            return Err(CannotBind);
                        }
                        busy = true;
                    }
                }
            }
            if !busy {
                return Ok(next);
            }
            journal.notice(format_args!("try again to bind() after 500ms"));
            if attempt < TRIES {
                std::thread::sleep(PAUSE);
            }
        }
        journal.emerg(format_args!("still could not bind()"));
        Err(CannotBind)
    }

    /// What an address has now, with changed options applied.
    fn kept(&self, key: &ListenerKey, options: &ListenOptions, workers: usize, journal: &Journal) -> Bound {
        let mut sockets = Vec::new();
        if let Some(old) = self.bound.get(key) {
            sockets.extend(old.sockets.iter().take(count(options, workers)).cloned());
            if old.options != *options {
                for socket in &sockets {
                    if let Err(error) = reconfigure(socket, &old.options, options) {
                        let (addr, reason) = (&options.addr, os_error(&error));
                        journal.alert(format_args!("setsockopt() {addr} failed {reason}, ignored"));
                    }
                }
            }
        }
        Bound { options: options.clone(), sockets }
    }

    /// The sockets on which one worker accepts.
    pub(crate) fn for_worker(&self, index: usize) -> Vec<(ListenerKey, ListenSocket)> {
        let mut sockets = Vec::with_capacity(self.bound.len());
        for (key, bound) in &self.bound {
            if let Some(socket) = bound.sockets.get(index).or(bound.sockets.first()) {
                sockets.push((key.clone(), socket.clone()));
            }
        }
        sockets
    }

    /// Removes the paths of Unix sockets, for a process that ends without closing them all.
    pub(crate) fn remove_unix_paths(&self) {
        for addr in self.bound.keys() {
            if let Addr::Unix(path) = &**addr {
                // It may be gone already.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Paths of Unix sockets that `next` no longer has.
    pub(crate) fn unix_paths_gone<'a>(&'a self, next: &'a Sockets) -> impl Iterator<Item = &'a Addr> {
        let gone = self.bound.keys().filter(|key| !next.bound.contains_key(*key));
        gone.map(|key| &**key).filter(|addr| addr.is_unix())
    }
}

/// Binds what an address lacks.
fn fill(bound: &mut Bound, workers: usize) -> io::Result<()> {
    while bound.sockets.len() < count(&bound.options, workers) {
        bound.sockets.push(headwater_io::bind(&bound.options)?);
    }
    Ok(())
}

fn count(options: &ListenOptions, workers: usize) -> usize {
    if options.reuseport && !options.addr.is_unix() { workers.max(1) } else { 1 }
}

/// Gives an open socket other options.
fn reconfigure(socket: &ListenSocket, old: &ListenOptions, new: &ListenOptions) -> io::Result<()> {
    if new.reuseport && !old.reuseport && !new.addr.is_unix() {
        // The sockets to come can share the address only with one that allows it.
        rustix::net::sockopt::set_socket_reuseport(socket, true)?;
    }
    socket.configure(new)?;
    if old.backlog != new.backlog { socket.relisten(new.backlog) } else { Ok(()) }
}

/// Tries to bind every address, as `-t` does: one that is in use may be in use by the running server.
pub(crate) fn test(conf: &Conf, journal: &Journal) -> Result<(), CannotBind> {
    let mut held = Vec::new();
    for (_, mut options) in wanted(conf) {
        options.reuseport = false;
        match headwater_io::bind(&options) {
            Ok(socket) => held.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                let (addr, reason) = (&options.addr, os_error(&error));
                journal.emerg(format_args!("bind() to {addr} failed {reason}"));
                return Err(CannotBind);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn selected(addresses: &[&str], with_options: &[&str]) -> Vec<String> {
        let all = addresses.iter().map(|text| {
            let addr =
                text.strip_prefix("unix:").map_or_else(|| Addr::Inet(text.parse().unwrap()), Addr::unix);
            let options = ListenOptions::new(addr.clone());
            (Arc::new(addr), options, with_options.contains(text))
        });
        select(all.collect()).iter().map(|(key, _)| key.to_string()).collect()
    }

    #[test]
    fn wildcard_covers_the_addresses_of_its_port_and_family() {
        let all = ["127.0.0.1:80", "0.0.0.0:80", "127.0.0.1:81", "[::1]:80", "unix:/s"];
        assert_eq!(selected(&all, &[]), ["unix:/s", "[::1]:80", "0.0.0.0:80", "127.0.0.1:81"]);
        assert_eq!(selected(&["[::]:80", "[::1]:80", "127.0.0.1:80"], &[]), ["127.0.0.1:80", "[::]:80"]);
    }

    #[test]
    fn address_with_options_is_bound_beside_the_wildcard_and_first() {
        let all = ["0.0.0.0:80", "127.0.0.1:80"];
        assert_eq!(selected(&all, &["127.0.0.1:80"]), ["127.0.0.1:80", "0.0.0.0:80"]);
    }
}
