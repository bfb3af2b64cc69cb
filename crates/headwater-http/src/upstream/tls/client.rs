//! A location's TLS configuration at run time: which `ClientConfig` a connection gets.
//!
//! Made by `parts` at load, asked by `connect` for each new connection. nginx's counterpart: the sessions that `ngx_http_upstream_round_robin.c` keeps with each
//! peer, `ngx_ssl_connection_certificate`, and the cache of `ngx_event_openssl_cache.c`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use rustls::ClientConfig;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::sign::SingleCertAndKey;

use super::Shown;
use super::parts::shown;
use super::values::{CacheLimits, Passwords};
use crate::script::Complex;

/// How many names' sessions are kept for one peer.
const NAMES: usize = 8;
/// How many peers' sessions are kept. Only back ends that are found at run time can be more.
const PEERS: usize = 1024;

/// What a location says about TLS to its back ends.
#[derive(Debug)]
pub struct TlsConf {
    config: Arc<ClientConfig>,
    pub(super) name: Option<Complex>,
    pub(super) verify: bool,
    /// How sessions of TLS 1.2 are resumed; `None`: sessions are not resumed.
    resumption: Option<Tls12Resumption>,
    pub(super) dynamic: Option<Dynamic>,
    /// For each peer the same configuration with its own sessions, as peers of a group need not know each other's.
    peers: Mutex<FxHashMap<Arc<str>, Arc<ClientConfig>>>,
    shown: Mutex<Vec<Cached>>,
}

/// A certificate whose name has variables.
#[derive(Debug)]
pub(super) struct Dynamic {
    pub(super) certificate: Complex,
    pub(super) key: Complex,
    pub(super) prefix: PathBuf,
    pub(super) passwords: Passwords,
    pub(super) limits: Option<CacheLimits>,
}

#[derive(Debug)]
struct Cached {
    shown: Shown,
    config: Arc<ClientConfig>,
    loaded: Instant,
    used: Instant,
}

impl TlsConf {
    pub(super) fn new(
        config: ClientConfig,
        name: Option<Complex>,
        verify: bool,
        resumption: Option<Tls12Resumption>,
        dynamic: Option<Dynamic>,
    ) -> Self {
        let mut config = config;
        config.resumption = Resumption::disabled();
        Self {
            config: Arc::new(config),
            name,
            verify,
            resumption,
            dynamic,
            peers: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// Whether the name is sent to back ends.
    pub(super) fn sends_name(&self) -> bool {
        self.config.enable_sni
    }

    /// The configuration for a connection to a peer that shows this certificate, if any. The error is a text for the log.
    pub(super) fn config(&self, peer: &Arc<str>, shown: Option<&Shown>) -> Result<Arc<ClientConfig>, String> {
        let (Some(shown), Some(dynamic)) = (shown, &self.dynamic) else { return Ok(self.of_peer(peer)) };
        let now = headwater_io::clock::now();
        if let Some(limits) = &dynamic.limits
            && let Some(known) = self.cached(shown, limits, now)
        {
            return Ok(known);
        }
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = dynamic.load(shown)?;
        if dynamic.limits.is_some() {
            config.resumption = self.sessions();
        }
        let config = Arc::new(config);
        if let Some(limits) = &dynamic.limits {
            self.keep(shown, &config, limits, now);
        }
        Ok(config)
    }

    fn of_peer(&self, peer: &Arc<str>) -> Arc<ClientConfig> {
        if self.resumption.is_none() {
            return self.config.clone();
        }
        let mut peers = lock(&self.peers);
        if let Some(known) = peers.get(peer) {
            return known.clone();
        }
        if peers.len() >= PEERS {
            peers.clear();
        }
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = self.sessions();
        let config = Arc::new(config);
        peers.insert(peer.clone(), config.clone());
        config
    }

    fn sessions(&self) -> Resumption {
        match self.resumption {
            Some(how) => Resumption::in_memory_sessions(NAMES).tls12_resumption(how),
            None => Resumption::disabled(),
        }
    }

    fn cached(&self, shown: &Shown, limits: &CacheLimits, now: Instant) -> Option<Arc<ClientConfig>> {
        let mut all = lock(&self.shown);
        let old = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        all.retain(|entry| !old(entry.used, limits.inactive) && !old(entry.loaded, limits.valid));
        let entry = all.iter_mut().find(|entry| entry.shown == *shown)?;
        entry.used = now;
        Some(entry.config.clone())
    }

    fn keep(&self, shown: &Shown, config: &Arc<ClientConfig>, limits: &CacheLimits, now: Instant) {
        let mut all = lock(&self.shown);
        if all.len() >= limits.max
            && let Some(oldest) = (0..all.len()).min_by_key(|at| all.get(*at).map(|entry| entry.used))
        {
            all.swap_remove(oldest);
        }
        all.push(Cached { shown: shown.clone(), config: config.clone(), loaded: now, used: now });
    }
}

impl Dynamic {
    fn load(&self, names: &Shown) -> Result<Arc<SingleCertAndKey>, String> {
        let read = |path: &Path| std::fs::read(path);
        let certified = shown(&self.prefix, &names.certificate, &names.key, &self.passwords.0, read)?;
        Ok(Arc::new(certified.into()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
