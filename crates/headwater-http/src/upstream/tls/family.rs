//! The `*_ssl_*` directives of the families that can speak TLS to their back ends, declared once with a prefix.
//!
//! Used by `modules::proxy` and `modules::uwsgi`. They are settings of their own, apart from the other shared ones, so that locations that differ in
//! those have one TLS configuration and one store of sessions. nginx's counterpart: the tables of directives in each of its modules.

/// Declares the directives for one prefix as `TlsSettings` and `TlsRaw`.
#[macro_export]
macro_rules! upstream_tls {
    ($prefix:literal, $module:literal) => {
        headwater_conf::settings! {
            /// Settings of TLS to the family's back ends.
            pub struct TlsSettings, raw TlsRaw, module $module {
                /// Resumes TLS sessions with back ends.
                concat!($prefix, "ssl_session_reuse"), HSL, "on | off", "on" => session_reuse: bool = true;
                /// Sets the protocols for back ends. TLSv1.2 and TLSv1.3 are supported; older ones may be named beside them and are not used.
                concat!($prefix, "ssl_protocols"), HSL, "[SSLv2] [SSLv3] [TLSv1] [TLSv1.1] [TLSv1.2] [TLSv1.3]", "TLSv1.2 TLSv1.3" => protocols: $crate::upstream::tls::values::Protocols = $crate::upstream::tls::values::Protocols::USUAL;
                /// Sets the ciphers of TLS 1.2 for back ends, in OpenSSL's notation.
                concat!($prefix, "ssl_ciphers"), HSL, "ciphers", "DEFAULT" => ciphers: headwater_conf::value::Text = "DEFAULT".into();
                /// Sets the name that a back end's certificate is checked against and that is sent to it (SNI). A port is left out of it.
                concat!($prefix, "ssl_name"), HSL, "name", "host of the address" => name: Option<$crate::upstream::tls::values::Placed> = None;
                /// Sends the name to back ends (SNI).
                concat!($prefix, "ssl_server_name"), HSL, "on | off", "off" => server_name: bool = false;
                /// Checks the certificates of back ends.
                concat!($prefix, "ssl_verify"), HSL, "on | off", "off" => verify: bool = false;
                /// Limits the number of certificates between that of a back end and the trusted one.
                concat!($prefix, "ssl_verify_depth"), HSL, "number", "1" => verify_depth: headwater_conf::value::Number = headwater_conf::value::Number(1);
                /// Sets the file of trusted certificates that those of back ends are checked with.
                concat!($prefix, "ssl_trusted_certificate"), HSL, "file", "" => trusted_certificate: Option<$crate::upstream::tls::values::NamedFile> = None;
                /// Sets the file of revoked certificates that those of back ends are checked with.
                concat!($prefix, "ssl_crl"), HSL, "file", "" => crl: Option<$crate::upstream::tls::values::NamedFile> = None;
                /// Sets the file of the certificate that is shown to back ends, or `data:` and the certificate; may hold variables.
                concat!($prefix, "ssl_certificate"), HSL, "file", "" => certificate: Option<$crate::upstream::tls::values::Placed> = None;
                /// Sets the file of that certificate's key, or `data:` and the key; may hold variables.
                concat!($prefix, "ssl_certificate_key"), HSL, "file", "" => certificate_key: Option<$crate::upstream::tls::values::Placed> = None;
                /// Keeps certificates and keys whose names hold variables.
                concat!($prefix, "ssl_certificate_cache"), HSL, "off ;; max=N [inactive=time] [valid=time]", "off" => certificate_cache: $crate::upstream::tls::values::CertificateCache = $crate::upstream::tls::values::CertificateCache(None);
                /// Sets the file of passwords for keys, one a line.
                concat!($prefix, "ssl_password_file"), HSL, "file", "" => password_file: $crate::upstream::tls::values::Passwords = $crate::upstream::tls::values::Passwords::default();
                /// Sets an option in OpenSSL's notation: `CipherString`, `Ciphersuites`, `Groups`, `MinProtocol`, `MaxProtocol`, and `Options` that hold here anyway.
                concat!($prefix, "ssl_conf_command"), HSL, "name value", "" => conf_command: headwater_conf::value::List<$crate::upstream::tls::values::ConfCommand> = headwater_conf::value::List::default();
                /// Appends the secrets of sessions to a file, for programs that look into recorded traffic.
                concat!($prefix, "ssl_key_log"), HSL, "path", "" => key_log: Option<$crate::upstream::tls::values::NamedFile> = None;
            }
        }

        impl TlsSettings {
            /// The configuration of TLS for a location; locations with the same settings share it.
            fn tls(builder: &mut $crate::config::LocationBuilder<'_, '_>) -> headwater_conf::Result<std::sync::Arc<$crate::upstream::tls::TlsConf>> {
                let settings = builder.settings::<Self>();
                let key = std::sync::Arc::as_ptr(&settings) as usize;
                if let Some(known) = builder.cx.state::<$crate::upstream::tls::Known>().find(key) {
                    return Ok(known);
                }
                let conf = $crate::upstream::tls::Parts {
                    prefix: $prefix,
                    session_reuse: settings.session_reuse,
                    protocols: settings.protocols,
                    ciphers: &settings.ciphers,
                    name: settings.name.as_ref(),
                    server_name: settings.server_name,
                    verify: settings.verify,
                    verify_depth: *settings.verify_depth,
                    trusted_certificate: settings.trusted_certificate.as_ref(),
                    crl: settings.crl.as_ref(),
                    certificate: settings.certificate.as_ref(),
                    certificate_key: settings.certificate_key.as_ref(),
                    certificate_cache: settings.certificate_cache,
                    passwords: &settings.password_file,
                    conf_commands: &settings.conf_command,
                    key_log: settings.key_log.as_ref(),
                };
                let conf = std::sync::Arc::new(conf.build(builder)?);
                builder.cx.state::<$crate::upstream::tls::Known>().add(key, settings, conf.clone());
                Ok(conf)
            }
        }
    };
}
