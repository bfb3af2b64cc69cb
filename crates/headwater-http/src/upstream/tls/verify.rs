//! Checks of a back end's certificate, or none, and of the signatures of its handshake always.
//!
//! Called by rustls in the handshake. nginx's counterpart: OpenSSL's chain building, `ngx_ssl_check_host`. The chain is built by `webpki`; what is different here
//! is what nginx's users rely on: self-signed certificates that are trusted themselves, and common names.

use std::fmt;
use std::sync::Arc;

use headwater_wire::x509::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, RawPublicKeyEntity,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

/// Why a certificate is not accepted, in the error log's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The chain: OpenSSL's number and text.
    Chain(u8, String),
    /// The name.
    Name,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Chain(number, text) => write!(f, "({number}:{text})"),
            Refused::Name => f.write_str("the name does not match"),
        }
    }
}

impl std::error::Error for Refused {}

/// What certificates are checked with.
#[derive(Debug)]
pub(super) struct Trust {
    /// All certificates of the trusted file.
    certificates: Vec<CertificateDer<'static>>,
    /// Those of them where a chain may end.
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<CertRevocationList<'static>>,
    depth: usize,
}

/// The verifier of a configuration.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: any certificate is accepted.
    pub(super) trust: Option<Trust>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Trusts the self-signed certificates of authorities among these; the others help to build chains. The error is a text.
    pub(super) fn new(
        certificates: Vec<CertificateDer<'static>>,
        crls: Vec<CertRevocationList<'static>>,
        depth: usize,
    ) -> Result<Self, String> {
        if certificates.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let mut anchors = Vec::new();
        for der in &certificates {
            let certificate = Certificate::parse(der).ok_or("a certificate in it cannot be read")?;
            if certificate.is_self_issued() && certificate.is_authority() {
                let anchor = webpki::anchor_from_trusted_cert(der)
                    .map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
                anchors.push(anchor.to_owned());
            }
        }
        Ok(Self { certificates, anchors, crls, depth })
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Refused> {
        let certificate = Certificate::parse(end_entity)
            .ok_or_else(|| refused(1, "unspecified certificate verification error"))?;
        let trusted_itself = self.certificates.iter().any(|known| known.as_ref() == end_entity.as_ref());
        let names_are_limited = if trusted_itself && certificate.is_self_issued() {
            self.verify_itself(&certificate, now)?;
            false
        } else {
            self.verify_chain(end_entity, &certificate, intermediates, now, algorithms)?
        };
        if is_for(&certificate, name, false) {
            return Ok(());
        }
        match (is_for(&certificate, name, true), names_are_limited) {
            (false, _) => Err(Refused::Name),
            (true, false) => Ok(()),
            // webpki has not held the common name against the limits.
            (true, true) => Err(refused(47, "permitted subtree violation")),
        }
    }

    /// A self-signed certificate that is trusted needs no chain.
    fn verify_itself(&self, certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Refused> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < certificate.not_before {
            return Err(refused(9, "certificate is not yet valid"));
        }
        if now > certificate.not_after {
            return Err(refused(10, "certificate has expired"));
        }
        if !self.crls.is_empty() {
            return Err(refused(3, "unable to get certificate CRL"));
        }
        Ok(())
    }

    /// Whether there is a chain, and whether a certificate of it limits names.
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        certificate: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<bool, Refused> {
        let others: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .chain(&self.certificates)
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let parsed = EndEntityCert::try_from(end_entity).map_err(|error| reason(&error))?;
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let usage = KeyUsage::server_auth();
        let path = parsed
            .verify_for_usage(algorithms.all, &self.anchors, &others, now, usage, revocation, None)
            .map_err(|error| match error {
                Error::UnknownIssuer => self.why_unknown(certificate, intermediates),
                Error::CaUsedAsEndEntity if certificate.is_self_issued() => {
                    self.why_unknown(certificate, intermediates)
                }
                error => reason(&error),
            })?;
        if path.intermediate_certificates().count() > self.depth {
            // OpenSSL does not look further up than so many, and does not find the last one.
            return Err(refused(20, "unable to get local issuer certificate"));
        }
        Ok(limits_names(&path))
    }

    /// What OpenSSL says when no chain leads to a trusted certificate.
    fn why_unknown(&self, first: &Certificate<'_>, intermediates: &[CertificateDer<'_>]) -> Refused {
        if first.is_self_issued() {
            return refused(18, "self-signed certificate");
        }
        let sent: Vec<Certificate<'_>> =
            intermediates.iter().filter_map(|der| Certificate::parse(der)).collect();
        let known: Vec<Certificate<'_>> =
            self.certificates.iter().filter_map(|der| Certificate::parse(der)).collect();
        let (mut last, mut from_file) = (*first, false);
        for _ in 0..=sent.len().saturating_add(known.len()) {
            let fits = |other: &&Certificate<'_>| other.subject == last.issuer;
            let next = match known.iter().find(fits) {
                Some(next) => Some((next, true)),
                None => sent.iter().find(fits).map(|next| (next, false)),
            };
            let Some((next, trusted)) = next else { break };
            (last, from_file) = (*next, trusted);
            if last.is_self_issued() {
                if from_file && !last.is_authority() {
                    return refused(26, "unsuitable certificate purpose");
                }
                return refused(19, "self-signed certificate in certificate chain");
            }
        }
        if from_file {
            refused(2, "unable to get issuer certificate")
        } else {
            unable_to_get_issuer(&last, first)
        }
    }
}

/// With nothing but the certificate itself OpenSSL goes on and finds that it cannot check its signature either.
fn unable_to_get_issuer(last: &Certificate<'_>, first: &Certificate<'_>) -> Refused {
    if last == first {
        return refused(21, "unable to verify the first certificate");
    }
    refused(20, "unable to get local issuer certificate")
}

fn limits_names(path: &VerifiedPath<'_>) -> bool {
    let limited =
        |der: &[u8]| Certificate::parse(der).is_none_or(|certificate| certificate.has_name_constraints());
    path.anchor().name_constraints.is_some()
        || path.intermediate_certificates().any(|certificate| limited(&certificate.der()))
}

/// Whether a certificate is for a name. nginx compares addresses as if they were names; here a certificate may also say that it is for the address.
fn is_for(certificate: &Certificate<'_>, name: &ServerName<'_>, common_name: bool) -> bool {
    match name {
        ServerName::DnsName(name) => certificate.is_for_host(name.as_ref().as_bytes(), common_name),
        ServerName::IpAddress(address) => {
            let address = std::net::IpAddr::from(*address);
            let bytes = match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            };
            certificate.is_for_address(&bytes)
                || certificate.is_for_host(address.to_string().as_bytes(), common_name)
        }
        _ => false,
    }
}

fn refused(number: u8, text: &str) -> Refused {
    Refused::Chain(number, text.to_owned())
}

/// OpenSSL's words for what webpki found.
fn reason(error: &Error) -> Refused {
    match error {
        Error::CertNotValidYet { .. } => refused(9, "certificate is not yet valid"),
        Error::CertExpired { .. } => refused(10, "certificate has expired"),
        Error::CertRevoked => refused(23, "certificate revoked"),
        Error::UnknownRevocationStatus => refused(3, "unable to get certificate CRL"),
        Error::CrlExpired { .. } => refused(12, "CRL has expired"),
        Error::InvalidCrlSignatureForPublicKey => refused(8, "CRL signature failure"),
        Error::InvalidSignatureForPublicKey => refused(7, "certificate signature failure"),
        Error::MaximumPathDepthExceeded => refused(22, "certificate chain too long"),
        Error::PathLenConstraintViolated => refused(25, "path length constraint exceeded"),
        // Of what is wrong with a certificate that may not sign others nginx logs the last.
        Error::RequiredEkuNotFoundContext(_) | Error::EndEntityUsedAsCa => {
            refused(26, "unsuitable certificate purpose")
        }
        Error::NameConstraintViolation => refused(47, "permitted subtree violation"),
        other => refused(1, &format!("unspecified certificate verification error: {other}")),
    }
}

impl Verifier {
    /// Checks a signature with the key of a certificate, of which nothing else matters here; also of one that webpki cannot read.
    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let bad = || rustls::Error::from(CertificateError::BadEncoding);
        let certificate = Certificate::parse(certificate).ok_or_else(bad)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.public_key);
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| bad())?;
        let known = self.algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
        for algorithm in known.map(|(_, algorithms)| *algorithms).unwrap_or_default() {
            match key.verify_signature(*algorithm, message, signed.signature()) {
                Ok(()) => return Ok(HandshakeSignatureValid::assertion()),
                Err(Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
                Err(_) => break,
            }
        }
        Err(CertificateError::BadSignature.into())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust.verify(end_entity, intermediates, server_name, now, &self.algorithms).map_err(
                |refused| rustls::Error::from(CertificateError::Other(OtherError(Arc::new(refused)))),
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let old = matches!(
            signed.scheme,
            SignatureScheme::RSA_PKCS1_SHA1
                | SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
                | SignatureScheme::ECDSA_SHA1_Legacy
        );
        if old {
            // RFC 8446 section 4.2.3: not in signed handshake messages.
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
