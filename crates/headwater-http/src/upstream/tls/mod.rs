//! TLS to back ends: a stage of an attempt between connecting and sending.
//!
//! `family` declares the directives, `values` reads them, `parts` makes a configuration of them at load with `ciphers`, `keys` and `verify`; `client` is that
//! configuration at run time. Called by `engine`. nginx's counterpart: `ngx_http_upstream_ssl_init_connection` and what follows it.

mod ciphers;
mod client;
mod family;
mod key_log;
mod keys;
mod parts;
pub mod values;
mod verify;

use std::any::Any;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_io::addr::Addr;
use headwater_io::stream::Stream;
use headwater_io::timer::with_timeout;
use headwater_io::tls::HandshakeError;
use rustls::CertificateError;
use rustls::pki_types::ServerName;

pub use client::TlsConf;
pub use parts::Parts;
use verify::Refused;

use super::engine::{End, Engine};
use super::peers::Picked;
use super::retry::{Attempt, Failure};
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::Outcome;

/// The configurations that were made, by the address of the settings they come from.
#[derive(Default)]
pub struct Known(Vec<Entry>);

/// The settings are kept so that nothing else gets their address.
struct Entry {
    key: usize,
    _settings: Arc<dyn Any + Send + Sync>,
    conf: Arc<TlsConf>,
}

impl Known {
    /// The configuration made of the settings at this address.
    #[must_use]
    pub fn find(&self, key: usize) -> Option<Arc<TlsConf>> {
        self.0.iter().find(|entry| entry.key == key).map(|entry| entry.conf.clone())
    }

    /// Adds one.
    pub fn add(&mut self, key: usize, settings: Arc<dyn Any + Send + Sync>, conf: Arc<TlsConf>) {
        self.0.push(Entry { key, _settings: settings, conf });
    }
}

/// What makes two connections to the same peer different for those who use them: only equal ones are reused for each other.
#[derive(Debug, Clone)]
pub struct Identity {
    conf: Arc<TlsConf>,
    /// The name that is checked and sent; empty when neither is done.
    name: Vec<u8>,
    shown: Option<Shown>,
}

/// Names of a certificate and its key, with variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.conf, &other.conf) && self.name == other.name && self.shown == other.shown
    }
}

impl Engine<'_> {
    /// How connections of this request are to be secured; nothing for plain ones.
    pub(super) fn identity(&self) -> Option<Arc<Identity>> {
        if !self.protocol.is_secure() {
            return None;
        }
        let conf = self.conf.tls.clone()?;
        let mut name = Vec::new();
        if conf.verify || conf.sends_name() {
            match &conf.name {
                Some(value) => value.write(self.r, &mut name),
                None => name.extend_from_slice(self.group.name.as_bytes()),
            }
            name.truncate(without_port(&name));
        }
        let shown = conf.dynamic.as_ref().and_then(|dynamic| {
            let certificate = dynamic.certificate.value(self.r).into_owned();
            // An empty name stands for no certificate.
            let key = || dynamic.key.value(self.r).into_owned();
            (!certificate.is_empty()).then(|| Shown { key: key(), certificate })
        });
        Some(Arc::new(Identity { conf, name, shown }))
    }

    /// Does the handshake on a new connection.
    pub(super) async fn secure(
        &self,
        stream: Stream,
        identity: &Identity,
        picked: &Picked,
        attempt: Attempt,
    ) -> Result<Stream, End> {
        let failed = |failure| Err(End::Failed(failure, attempt));
        let conf = &identity.conf;
        let config = match conf.config(&picked.peer.name, identity.shown.as_ref()) {
            Ok(config) => config,
            Err(text) => {
                self.log(Level::Error, format_args!("{text}"));
                return Err(End::Outcome(Outcome::Status(500)));
            }
        };
        self.r.action.set("SSL handshaking to upstream");
        let shown = String::from_utf8_lossy(&identity.name).into_owned();
        let Some(name) = server_name(&shown, &picked.peer.addr) else {
            if conf.verify {
                self.log(Level::Error, format_args!("upstream SSL certificate does not match \"{shown}\""));
            } else {
                self.log(Level::Error, format_args!("SSL_set_tlsext_host_name(\"{shown}\") failed"));
            }
            return failed(Failure::Error);
        };
        // The messages of a handshake are small and wait for each other.
        let _ = stream.set_nodelay(true);
        // Connecting and the handshake share their time.
        let mut spent = 0;
        self.note(|_, now| spent = now);
        let limit = self.conf.connect_timeout.saturating_sub(Duration::from_millis(spent));
        match with_timeout(&self.timer, limit, stream.handshake(config, name)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                self.handshake_failed(&error, &shown);
                failed(Failure::Error)
            }
            Err(_) => {
                self.log(Level::Error, format_args!("upstream timed out (110: Connection timed out)"));
                failed(Failure::Timeout)
            }
        }
    }

    /// Logs that a connection failed: the call's name as nginx gives it, or that TLS's rules were broken.
    pub(super) fn log_broken(&self, tls_call: &str, call: &str, error: &io::Error) {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match inner {
            Some(inner) => self.log(Level::Error, format_args!("{tls_call}() failed (SSL: {inner})")),
            None => self.log(Level::Error, format_args!("{call}() failed {}", os_error(error))),
        }
    }

    fn handshake_failed(&self, error: &HandshakeError, name: &str) {
        match error {
            HandshakeError::Closed => {
                self.log(Level::Error, format_args!("peer closed connection in SSL handshake"));
            }
            HandshakeError::Io(error) => {
                let text = os_error(error);
                self.log(Level::Error, format_args!("peer closed connection in SSL handshake {text}"));
            }
            HandshakeError::Tls(error) => match refused(error) {
                Some(Refused::Name) => {
                    self.log(
                        Level::Error,
                        format_args!("upstream SSL certificate does not match \"{name}\""),
                    );
                }
                Some(chain) => {
                    self.log(Level::Error, format_args!("upstream SSL certificate verify error: {chain}"));
                }
                None => self.log(Level::Error, format_args!("SSL_do_handshake() failed (SSL: {error})")),
            },
        }
    }
}

/// Why the verifier refused, if it was that.
fn refused(error: &rustls::Error) -> Option<&Refused> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// Where a name's port begins, or its end.
fn without_port(name: &[u8]) -> usize {
    let from = match name.first() {
        Some(b'[') => name.iter().position(|byte| *byte == b']').unwrap_or(0),
        _ => 0,
    };
    let colon = name.iter().skip(from).position(|byte| *byte == b':');
    colon.map_or(name.len(), |at| at.saturating_add(from))
}

/// The name as rustls takes it. Addresses are never sent; one stands in where there is no name. `None` for a name that is none.
fn server_name(name: &str, peer: &Addr) -> Option<ServerName<'static>> {
    if name.is_empty() {
        return Some(match peer {
            Addr::Inet(address) => address.ip().into(),
            Addr::Unix(_) => IpAddr::from([0, 0, 0, 0]).into(),
        });
    }
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    match literal.parse::<IpAddr>() {
        Ok(address) => Some(address.into()),
        Err(_) => ServerName::try_from(name.to_owned()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_off_names() {
        let cut = |name: &'static str| &name[..without_port(name.as_bytes())];
        assert_eq!(cut("a.b:443"), "a.b");
        assert_eq!(cut("a.b"), "a.b");
        assert_eq!(cut("[::1]:443"), "[::1]");
        assert_eq!(cut("unix:/tmp/socket"), "unix");
        assert_eq!(cut(""), "");
    }

    #[test]
    fn addresses_are_no_names_to_send() {
        let peer = Addr::Inet(([127, 0, 0, 1], 443).into());
        let is_address = |name| matches!(server_name(name, &peer), Some(ServerName::IpAddress(_)));
        assert!(is_address("") && is_address("10.0.0.1") && is_address("[::1]"));
        assert!(matches!(server_name("under_score.local", &peer), Some(ServerName::DnsName(_))));
        assert_eq!(server_name("no name", &peer), None);
    }
}
