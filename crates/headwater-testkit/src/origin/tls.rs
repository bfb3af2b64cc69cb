//! TLS of a scripted origin.
//!
//! Called by the origin for sections that begin with a `tls` line; calls rustls. nginx counterpart: none.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned, version};

use super::Stream;

/// What a `tls` line says: `tls CERTIFICATE [1.2 | 1.3] [client | client?] [notickets]`. The certificate and its key are named without ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions(Vec<String>);

impl TlsOptions {
    /// Reads the line behind its first word.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    fn has(&self, word: &str) -> bool {
        self.0.iter().any(|have| have == word)
    }

    /// The server's side of it, with certificates from this directory.
    ///
    /// # Errors
    /// When a file is missing or wrong.
    pub fn config(&self, certificates: &Path) -> io::Result<Arc<ServerConfig>> {
        let name = self.0.first().ok_or_else(|| io::Error::other("a `tls` line names no certificate"))?;
        let chain = read_certificates(&certificates.join(format!("{name}.pem")))?;
        let key = PrivateKeyDer::from_pem_file(certificates.join(format!("{name}.key")))
            .map_err(io::Error::other)?;
        let versions = match (self.has("1.2"), self.has("1.3")) {
            (true, false) => vec![&version::TLS12],
            (false, true) => vec![&version::TLS13],
            _ => vec![&version::TLS12, &version::TLS13],
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(io::Error::other)?;
        let builder = if self.has("client") || self.has("client?") {
            let mut roots = RootCertStore::empty();
            for root in read_certificates(&certificates.join("ca.pem"))? {
                roots.add(root).map_err(io::Error::other)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if self.has("client?") { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
        } else {
            builder.with_no_client_auth()
        };
        // The certificate may be one that rustls itself would not accept.
        let key =
            aws_lc_rs::default_provider().key_provider.load_private_key(key).map_err(io::Error::other)?;
        let certified = rustls::sign::CertifiedKey::new(chain, key);
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        let mut config = builder.with_cert_resolver(resolver);
        if !self.has("notickets") {
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(io::Error::other)?;
        }
        Ok(Arc::new(config))
    }
}

fn read_certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = fs::read(path)?;
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(io::Error::other)
}

/// A connection with TLS on it.
pub(super) struct TlsStream<S: Stream> {
    inner: StreamOwned<ServerConnection, S>,
    /// Whether the end is announced.
    polite: bool,
}

impl<S: Stream> TlsStream<S> {
    /// Does the handshake.
    pub(super) fn accept(config: Arc<ServerConfig>, mut stream: S) -> io::Result<Self> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut stream) {
                // The alert that says why.
                let _ = connection.write_tls(&mut stream);
                return Err(error);
            }
        }
        connection.complete_io(&mut stream)?;
        Ok(Self { inner: StreamOwned::new(connection, stream), polite: true })
    }
}

impl<S: Stream> Read for TlsStream<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl<S: Stream> Write for TlsStream<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<S: Stream> Drop for TlsStream<S> {
    fn drop(&mut self) {
        if self.polite {
            self.inner.conn.send_close_notify();
            let _ = self.inner.flush();
        }
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn set_timeout(&self, time: Duration) -> io::Result<()> {
        self.inner.sock.set_timeout(time)
    }

    fn arm_reset(&mut self) {
        self.polite = false;
        self.inner.sock.arm_reset();
    }

    fn cork(&self) {
        self.inner.sock.cork();
    }

    fn cut(&mut self) {
        self.polite = false;
    }

    fn about(&self) -> String {
        let connection = &self.inner.conn;
        let version = connection.protocol_version().map_or("?".to_owned(), |version| format!("{version:?}"));
        let name = connection.server_name().unwrap_or("none");
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let client = if connection.peer_certificates().is_some() { "shown" } else { "none" };
        format!("<{version}, name {name}, resumed {resumed}, certificate {client}>\r\n")
    }
}
