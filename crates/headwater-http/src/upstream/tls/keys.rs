//! Certificates, keys and revocation lists out of PEM files, keys also when a password protects them.
//!
//! Called by `parts` at load and by `client` for names with variables. nginx's counterpart: `ngx_event_openssl_cache.c`. Formats: RFC 7468; the older
//! encryption of keys is that of RFC 1421 with OpenSSL's key derivation.

use aes::cipher::{BlockDecryptMut as _, KeyIvInit as _, block_padding::Pkcs7};
use headwater_wire::base64;
use headwater_wire::x509::Certificate;
use md5::{Digest as _, Md5};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// One piece of a PEM file.
pub(super) struct Section {
    /// What follows `BEGIN`.
    pub(super) label: String,
    /// Lines before the content: `DEK-Info` and the like.
    headers: Vec<String>,
    /// The content.
    pub(super) der: Vec<u8>,
}

/// All pieces of a file, those that cannot be read left out.
pub(super) fn sections(text: &[u8]) -> Vec<Section> {
    let text = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else {
            continue;
        };
        let (mut headers, mut content) = (Vec::new(), String::new());
        for line in lines.by_ref().take_while(|line| !line.starts_with("-----END ")) {
            if line.contains(':') {
                headers.push(line.to_owned());
            } else {
                content.push_str(line);
            }
        }
        if let Some(der) = base64::decode(content.as_bytes()) {
            found.push(Section { label: label.to_owned(), headers, der });
        }
    }
    found
}

/// The certificates of a file.
pub(super) fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let labels = ["CERTIFICATE", "X509 CERTIFICATE"];
    let found = sections(text).into_iter().filter(|section| labels.contains(&section.label.as_str()));
    found.map(|section| section.der.into()).collect()
}

/// A certificate with its chain, and its key. The error is a text.
pub(super) fn certified_key(
    certificate: &[u8],
    key: &[u8],
    passwords: &[Vec<u8>],
) -> Result<CertifiedKey, String> {
    let chain = certificates(certificate);
    let Some(first) = chain.first() else { return Err("there is no certificate in it".into()) };
    let public = Certificate::parse(first).ok_or("its certificate cannot be read")?.public_key;
    let key = private_key(key, passwords)?;
    let key = aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| format!("its key cannot be used: {error}"))?;
    if key.public_key().is_some_and(|own| own.as_ref() != public) {
        return Err("certificate and key do not belong together (key values mismatch)".into());
    }
    Ok(CertifiedKey::new(chain, key))
}

fn private_key(text: &[u8], passwords: &[Vec<u8>]) -> Result<PrivateKeyDer<'static>, String> {
    let mut sections = sections(text).into_iter();
    let Some(section) = sections.find(|section| section.label.ends_with("PRIVATE KEY")) else {
        return Err("there is no key in it".into());
    };
    if section.label == "ENCRYPTED PRIVATE KEY" {
        let info = pkcs8::EncryptedPrivateKeyInfo::try_from(section.der.as_slice())
            .map_err(|error| format!("its key cannot be read: {error}"))?;
        let plain = passwords.iter().find_map(|password| info.decrypt(password).ok());
        return match plain {
            Some(plain) => Ok(PrivateKeyDer::Pkcs8(plain.as_bytes().to_vec().into())),
            None => Err(no_password(passwords)),
        };
    }
    let info = section.headers.iter().find_map(|line| line.strip_prefix("DEK-Info:"));
    let der = match info {
        Some(info) => {
            let decrypt = |password: &Vec<u8>| {
                decrypt_old(info.trim(), &section.der, password).filter(|der| der.first() == Some(&0x30))
            };
            passwords.iter().find_map(decrypt).ok_or_else(|| no_password(passwords))?
        }
        None => section.der,
    };
    match section.label.as_str() {
        "PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs8(der.into())),
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.into())),
        label => Err(format!("its key is a \"{label}\", which is not supported")),
    }
}

fn no_password(passwords: &[Vec<u8>]) -> String {
    if passwords.is_empty() {
        return "a password protects its key".into();
    }
    "a password protects its key, and none of those given fits".into()
}

/// Decrypts what is encrypted as RFC 1421 says, with the key that OpenSSL makes of a password (`EVP_BytesToKey`).
fn decrypt_old(info: &str, data: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let (cipher, iv) = info.split_once(',')?;
    let iv = hex(iv.trim())?;
    let salt = iv.get(..8)?;
    let mut key: Vec<u8> = Vec::new();
    while key.len() < 32 {
        let last = key.len().checked_sub(16).and_then(|at| key.get(at..)).unwrap_or_default();
        let block = Md5::new().chain_update(last).chain_update(password).chain_update(salt).finalize();
        key.extend_from_slice(&block);
    }
    let key = |length: usize| key.get(..length).unwrap_or_default();
    macro_rules! decrypt {
        ($cipher:ty, $length:expr) => {
            cbc::Decryptor::<$cipher>::new_from_slices(key($length), &iv)
                .ok()?
                .decrypt_padded_vec_mut::<Pkcs7>(data)
                .ok()
        };
    }
    match cipher {
        "AES-128-CBC" => decrypt!(aes::Aes128, 16),
        "AES-192-CBC" => decrypt!(aes::Aes192, 24),
        "AES-256-CBC" => decrypt!(aes::Aes256, 32),
        "DES-EDE3-CBC" => decrypt!(des::TdesEde3, 24),
        _ => None,
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_labels_headers_and_content() {
        let text = b"x\n-----BEGIN A KEY-----\r\nProc-Type: 4,ENCRYPTED\nDEK-Info: X,01\n\nAQID\n-----END A KEY-----\n-----BEGIN B-----\nBA==\n-----END B-----\n-----BEGIN C-----\n*\n";
        let found = sections(text);
        let shown: Vec<_> =
            found.iter().map(|one| (one.label.as_str(), one.headers.len(), one.der.as_slice())).collect();
        assert_eq!(shown, [("A KEY", 2, &[1, 2, 3][..]), ("B", 0, &[4][..])]);
    }

    #[test]
    fn unknown_ciphers_and_odd_vectors_decrypt_to_nothing() {
        assert_eq!(decrypt_old("RC2-CBC,0011223344556677", &[0; 16], b"x"), None);
        assert_eq!(decrypt_old("AES-128-CBC,00", &[0; 16], b"x"), None);
        assert_eq!(decrypt_old("AES-128-CBC,00112233445566778899aabbccddeeff", &[0; 15], b"x"), None);
    }
}
