//! Makes a TLS configuration of what a location says.
//!
//! Called at load by the families' modules, through the macro in `family`. nginx's counterpart: `ngx_http_proxy_set_ssl` and the functions of
//! `ngx_event_openssl.c` that it calls.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use headwater_conf::diagnostic::os_error;
use headwater_conf::{Cx, Diagnostic, Directive, Result};
use rustls::client::Tls12Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedProtocolVersion};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::client::{Dynamic, TlsConf};
use super::key_log::KeyLogFile;
use super::values::{CertificateCache, ConfCommand, NamedFile, Passwords, Placed, ProtocolSet, Protocols};
use super::verify::{Trust, Verifier};
use super::{ciphers, keys};
use crate::config::LocationBuilder;

/// The settings of a location, whatever the family.
pub struct Parts<'a> {
    /// The family's prefix, for messages.
    pub prefix: &'static str,
    /// `*_ssl_session_reuse`.
    pub session_reuse: bool,
    /// `*_ssl_protocols`.
    pub protocols: Protocols,
    /// `*_ssl_ciphers`.
    pub ciphers: &'a [u8],
    /// `*_ssl_name`.
    pub name: Option<&'a Placed>,
    /// `*_ssl_server_name`.
    pub server_name: bool,
    /// `*_ssl_verify`.
    pub verify: bool,
    /// `*_ssl_verify_depth`.
    pub verify_depth: usize,
    /// `*_ssl_trusted_certificate`.
    pub trusted_certificate: Option<&'a NamedFile>,
    /// `*_ssl_crl`.
    pub crl: Option<&'a NamedFile>,
    /// `*_ssl_certificate`.
    pub certificate: Option<&'a Placed>,
    /// `*_ssl_certificate_key`.
    pub certificate_key: Option<&'a Placed>,
    /// `*_ssl_certificate_cache`.
    pub certificate_cache: CertificateCache,
    /// `*_ssl_password_file`.
    pub passwords: &'a Passwords,
    /// `*_ssl_conf_command`.
    pub conf_commands: &'a [ConfCommand],
    /// `*_ssl_key_log`.
    pub key_log: Option<&'a NamedFile>,
}

/// What the options of the provider come to.
struct Options {
    provider: CryptoProvider,
    oldest: u8,
    newest: u8,
    tickets: bool,
}

impl Parts<'_> {
    /// Reads the files and makes the configuration.
    ///
    /// # Errors
    /// nginx's messages where it has such.
    pub fn build(&self, builder: &mut LocationBuilder<'_, '_>) -> Result<TlsConf> {
        let options = self.options()?;
        let versions: Vec<&'static SupportedProtocolVersion> =
            [(2, ProtocolSet::TLS1_2), (3, ProtocolSet::TLS1_3)]
                .into_iter()
                .filter(|(number, flag)| {
                    self.protocols.0.has(*flag) && (options.oldest..=options.newest).contains(number)
                })
                .map(|(number, _)| ciphers::protocol(number))
                .collect();
        let verifier = Verifier {
            trust: self.trust(builder)?,
            algorithms: options.provider.signature_verification_algorithms,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(options.provider))
            .with_protocol_versions(&versions)
            .map_err(|error| Diagnostic::new(format!("no usable TLS configuration: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.enable_sni = self.server_name;
        if let Some(path) = self.key_log.and_then(|file| file.path.as_ref()) {
            let log = KeyLogFile::open(path).map_err(|error| {
                Diagnostic::new(format!("open() \"{}\" failed {}", path.display(), os_error(&error)))
            })?;
            config.key_log = Arc::new(log);
        }
        let dynamic = self.certificate(builder, &mut config)?;
        let resumption = match options.tickets {
            true => Tls12Resumption::SessionIdOrTickets,
            false => Tls12Resumption::SessionIdOnly,
        };
        let name = self.name.map(|name| name.value.clone());
        Ok(TlsConf::new(config, name, self.verify, self.session_reuse.then_some(resumption), dynamic))
    }

    /// The certificate that is shown: put into the configuration, or given back when its name has variables.
    fn certificate(
        &self,
        builder: &mut LocationBuilder<'_, '_>,
        config: &mut ClientConfig,
    ) -> Result<Option<Dynamic>> {
        let Some(certificate) = self.certificate.filter(|placed| placed.value.as_text() != Some(b"")) else {
            return Ok(None);
        };
        let Some(key) = self.certificate_key else {
            let name = certificate.directive.word(0).str().into_owned();
            let prefix = self.prefix;
            return Err(Diagnostic::new(format!(
                "no \"{prefix}ssl_certificate_key\" is defined for certificate \"{name}\""
            )));
        };
        let (Some(text), Some(key_text)) = (certificate.value.as_text(), key.value.as_text()) else {
            return Ok(Some(Dynamic {
                certificate: certificate.value.clone(),
                key: key.value.clone(),
                prefix: builder.cx.conf_prefix.clone(),
                passwords: self.passwords.clone(),
                limits: self.certificate_cache.0,
            }));
        };
        let certified = shown(&builder.cx.conf_prefix, text, key_text, &self.passwords.0, |path| {
            builder.cx.source.read(path)
        })
        .map_err(Diagnostic::new)?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        Ok(None)
    }

    fn trust(&self, builder: &mut LocationBuilder<'_, '_>) -> Result<Option<Trust>> {
        if !self.verify {
            return Ok(None);
        }
        let prefix = self.prefix;
        let Some((place, path)) =
            self.trusted_certificate.and_then(|file| file.path.as_ref().map(|path| (&file.directive, path)))
        else {
            return Err(Diagnostic::new(format!(
                "no {prefix}ssl_trusted_certificate for {prefix}ssl_verify"
            )));
        };
        let certificates = keys::certificates(&read(builder.cx, place, path)?);
        let mut crls = Vec::new();
        if let Some(file) = self.crl
            && let Some(path) = &file.path
        {
            let text = read(builder.cx, &file.directive, path)?;
            for section in keys::sections(&text).iter().filter(|section| section.label == "X509 CRL") {
                let crl = OwnedCertRevocationList::from_der(&section.der).map_err(|error| {
                    let shown = path.display();
                    file.directive.error_at(0, format!("a list in \"{shown}\" cannot be used: {error}"))
                })?;
                crls.push(CertRevocationList::Owned(crl));
            }
            if crls.is_empty() {
                let message = format!("there is no list of revoked certificates in \"{}\"", path.display());
                return Err(file.directive.error_at(0, message));
            }
        }
        let trust = Trust::new(certificates, crls, self.verify_depth);
        let trust =
            trust.map_err(|why| place.error_at(0, format!("cannot use \"{}\": {why}", path.display())))?;
        Ok(Some(trust))
    }

    /// Ciphers, groups and versions.
    fn options(&self) -> Result<Options> {
        let text = lossy(self.ciphers);
        let mut tls12 = ciphers::tls12(&text);
        if tls12.is_empty() {
            let prefix = self.prefix;
            return Err(Diagnostic::new(format!(
                "\"{prefix}ssl_ciphers\" \"{text}\" leaves no cipher that is supported: for TLSv1.2 these are ECDHE with AES-GCM or ChaCha20-Poly1305"
            )));
        }
        let mut tls13 = ciphers::all_tls13();
        let mut options =
            Options { provider: aws_lc_rs::default_provider(), oldest: 2, newest: 3, tickets: true };
        for command in self.conf_commands {
            let place = &command.directive;
            let (name, value) = (place.word(0).str().into_owned(), place.word(1).str().into_owned());
            let wrong = |what: &str| {
                let message = format!("{} \"{name}\" does not know \"{what}\"", place.name());
                Err::<(), Box<Diagnostic>>(place.error_at(1, message))
            };
            match name.to_ascii_lowercase().as_str() {
                "cipherstring" => {
                    tls12 = ciphers::tls12(&value);
                    if tls12.is_empty() {
                        wrong(&value)?;
                    }
                }
                "ciphersuites" => match ciphers::tls13(&value) {
                    Ok(suites) => tls13 = suites,
                    Err(suite) => wrong(suite)?,
                },
                "groups" | "curves" => match ciphers::groups(&value) {
                    Ok(groups) if !groups.is_empty() => options.provider.kx_groups = groups,
                    Ok(_) => wrong(&value)?,
                    Err(group) => wrong(group)?,
                },
                "minprotocol" => match ciphers::version_number(&value) {
                    Some(number) => options.oldest = number.max(2),
                    None => wrong(&value)?,
                },
                "maxprotocol" => match (ciphers::version_number(&value), value.as_str()) {
                    (Some(0), "None") => options.newest = 3,
                    (Some(number @ 2..), _) => options.newest = number,
                    _ => wrong(&value)?,
                },
                "options" => {
                    for option in value.split(',') {
                        match option {
                            "-SessionTicket" => options.tickets = false,
                            "SessionTicket" => options.tickets = true,
                            // They hold whatever is said: old methods are not there.
                            "NoRenegotiation"
                            | "-Compression"
                            | "-UnsafeLegacyRenegotiation"
                            | "-UnsafeLegacyServerConnect"
                            | "ExtendedMasterSecret"
                            | "EncryptThenMac" => {}
                            other => wrong(other)?,
                        }
                    }
                }
                _ => {
                    let message = format!("{} \"{name}\" is not supported", place.name());
                    let known = "CipherString, Ciphersuites, Groups, MinProtocol, MaxProtocol, Options";
                    return Err(place.error_at(0, message).with_help(format!("one of: {known}")));
                }
            }
        }
        options.provider.cipher_suites = tls13.into_iter().chain(tls12).collect();
        Ok(options)
    }
}

/// The certificate and key of these names, which are paths, or `data:` and what would be in the file. The error is a text.
pub(super) fn shown(
    prefix: &Path,
    certificate: &[u8],
    key: &[u8],
    passwords: &[Vec<u8>],
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> std::result::Result<CertifiedKey, String> {
    let load = |what: &str, name: &[u8]| {
        if let Some(bytes) = name.strip_prefix(b"data:") {
            return Ok(("data:".to_owned(), bytes.to_vec()));
        }
        for scheme in ["engine:", "store:"] {
            if name.starts_with(scheme.as_bytes()) {
                return Err(format!(
                    "cannot load {what} \"{}\": loading \"{scheme}...\" is not supported",
                    lossy(name)
                ));
            }
        }
        let path = prefix.join(OsStr::from_bytes(name));
        let shown = path.display().to_string();
        match read(&path) {
            Ok(bytes) => Ok((shown, bytes)),
            Err(error) => {
                Err(format!("cannot load {what} \"{shown}\": BIO_new_file() failed {}", os_error(&error)))
            }
        }
    };
    let (certificate, chain) = load("certificate", certificate)?;
    let (key, private) = load("certificate key", key)?;
    keys::certified_key(&chain, &private, passwords)
        .map_err(|why| format!("cannot use certificate \"{certificate}\" with key \"{key}\": {why}"))
}

fn read(cx: &Cx<'_>, place: &Directive, path: &Path) -> Result<Vec<u8>> {
    cx.source.read(path).map_err(|error| {
        let message = format!("cannot load \"{}\": fopen() failed {}", path.display(), os_error(&error));
        place.error_at(0, message)
    })
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
