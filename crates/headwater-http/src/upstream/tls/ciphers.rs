//! OpenSSL's notation for cipher suites, protocols and groups, read against what is there.
//!
//! Called by `parts`. nginx's counterpart: `ngx_ssl_ciphers`, `ngx_ssl_conf_commands`, which hand the texts to OpenSSL (`openssl-ciphers(1)`, `SSL_CONF_cmd(3)`).

use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite, SupportedProtocolVersion, version};

/// The suites of TLS 1.2 with OpenSSL's name and the words that stand for them and others.
const TLS12: [(CipherSuite, &str, &[&str]); 6] = [
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "SHA384"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES256-GCM-SHA384",
        &["aRSA", "AES", "AES256", "AESGCM", "SHA384"],
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        &["aECDSA", "ECDSA", "CHACHA20"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305",
        &["aRSA", "CHACHA20"],
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "SHA256"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256",
        &["aRSA", "AES", "AES128", "AESGCM", "SHA256"],
    ),
];

/// Words that stand for all suites of TLS 1.2 that are there.
const ALL: [&str; 9] = ["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "TLSv1.2", "FIPS"];

/// The suites of TLS 1.3 by their names.
const TLS13: [(CipherSuite, &str); 3] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
];

/// Key exchange groups by OpenSSL's names.
const GROUPS: [(NamedGroup, &[&str]); 4] = [
    (NamedGroup::X25519, &["X25519"]),
    (NamedGroup::secp256r1, &["P-256", "prime256v1", "secp256r1"]),
    (NamedGroup::secp384r1, &["P-384", "secp384r1"]),
    (NamedGroup::X25519MLKEM768, &["X25519MLKEM768"]),
];

/// The suites of TLS 1.2 that a cipher string leaves, in its order. As in OpenSSL, words that name nothing that is there are passed over.
pub(super) fn tls12(text: &str) -> Vec<SupportedCipherSuite> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut banned: Vec<usize> = Vec::new();
    // `DEFAULT@SECLEVEL=1` is two words.
    let text = text.replace('@', ":@");
    for word in text.split([':', ',', ' ', ';']).filter(|word| !word.is_empty()) {
        if word.starts_with('@') {
            // Strength is the order of the table; security levels do not go below what is there.
            continue;
        }
        let named = |word: &str| (0..TLS12.len()).filter(|at| fits(*at, word)).collect::<Vec<_>>();
        match word.split_at_checked(1) {
            Some(("!", word)) => {
                let gone = named(word);
                chosen.retain(|at| !gone.contains(at));
                banned.extend(gone);
            }
            Some(("-", word)) => {
                let gone = named(word);
                chosen.retain(|at| !gone.contains(at));
            }
            Some(("+", word)) => {
                let last = named(word);
                chosen.sort_by_key(|at| last.contains(at));
            }
            _ => {
                let more = named(word).into_iter().filter(|at| !banned.contains(at));
                let more: Vec<usize> = more.filter(|at| !chosen.contains(at)).collect();
                chosen.extend(more);
            }
        }
    }
    chosen.iter().filter_map(|at| TLS12.get(*at)).filter_map(|(suite, ..)| supported(*suite)).collect()
}

/// Whether a word, or all of several joined by `+`, stands for a suite.
fn fits(at: usize, word: &str) -> bool {
    let Some((_, name, words)) = TLS12.get(at) else { return false };
    word.split('+').all(|word| *name == word || ALL.contains(&word) || words.contains(&word))
}

/// The suites of TLS 1.3 in a list of names. The error is the first name that stands for none.
///
/// # Errors
/// The name.
pub(super) fn tls13(text: &str) -> Result<Vec<SupportedCipherSuite>, &str> {
    let one = |name| {
        let known = TLS13.iter().find(|(_, known)| *known == name);
        known.and_then(|(suite, _)| supported(*suite)).ok_or(name)
    };
    text.split(':').filter(|name| !name.is_empty()).map(one).collect()
}

/// All suites of TLS 1.3.
pub(super) fn all_tls13() -> Vec<SupportedCipherSuite> {
    TLS13.iter().filter_map(|(suite, _)| supported(*suite)).collect()
}

fn supported(suite: CipherSuite) -> Option<SupportedCipherSuite> {
    aws_lc_rs::ALL_CIPHER_SUITES.iter().find(|known| known.suite() == suite).copied()
}

/// The groups in a list of names. The error is the first name that stands for none.
///
/// # Errors
/// The name.
pub(super) fn groups(text: &str) -> Result<Vec<&'static dyn SupportedKxGroup>, &str> {
    let one = |name: &'_ str| {
        let fits = |names: &&[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        let group = GROUPS.iter().find(|(_, names)| fits(names)).map(|(group, _)| *group);
        group.and_then(|group| aws_lc_rs::ALL_KX_GROUPS.iter().find(|known| known.name() == group)).copied()
    };
    text.split(':').filter(|name| !name.is_empty()).map(|name| one(name).ok_or(name)).collect()
}

/// Versions from and up to those named by `MinProtocol` and `MaxProtocol`. `None` for a name that is none.
pub(super) fn version_number(name: &str) -> Option<u8> {
    Some(match name {
        "None" | "SSLv3" | "TLSv1" | "TLSv1.1" => 0,
        "TLSv1.2" => 2,
        "TLSv1.3" => 3,
        _ => return None,
    })
}

/// A supported version by its number.
pub(super) fn protocol(number: u8) -> &'static SupportedProtocolVersion {
    if number == 2 { &version::TLS12 } else { &version::TLS13 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<&'static str> {
        let name = |suite: &SupportedCipherSuite| {
            TLS12.iter().find(|(known, ..)| *known == suite.suite()).map_or("?", |(_, name, _)| *name)
        };
        tls12(text).iter().map(name).collect()
    }

    #[test]
    fn usual_strings_leave_all_suites() {
        for text in [
            "DEFAULT",
            "HIGH:!aNULL:!MD5",
            "ALL:!ADH:!LOW:!EXP:@STRENGTH",
            "DEFAULT@SECLEVEL=1",
            "EECDH+AESGCM:EECDH+CHACHA20",
        ] {
            assert_eq!(names(text).len(), 6, "{text}");
        }
    }

    #[test]
    fn words_choose_exclude_and_order() {
        assert_eq!(
            names("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-SHA"),
            ["ECDHE-RSA-AES128-GCM-SHA256"]
        );
        assert_eq!(
            names("aRSA+CHACHA20:aRSA+AES256"),
            ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(
            names("aRSA:!AES256:+AES128"),
            ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-GCM-SHA256"]
        );
        assert_eq!(names("!AES:ALL"), ["ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"]);
        assert!(names("AES256-SHA:RC4:kRSA").is_empty());
    }

    #[test]
    fn suites_and_groups_that_are_not_there_are_named() {
        assert_eq!(tls13("TLS_AES_128_GCM_SHA256").map(|all| all.len()), Ok(1));
        assert_eq!(tls13("TLS_AES_128_CCM_SHA256").err(), Some("TLS_AES_128_CCM_SHA256"));
        assert_eq!(groups("X25519:P-256").map(|all| all.len()).ok(), Some(2));
        assert_eq!(groups("X448").err(), Some("X448"));
    }
}
