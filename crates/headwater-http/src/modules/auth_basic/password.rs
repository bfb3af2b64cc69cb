//! Passwords: hashing a key with the scheme of a stored hash, and finding a user's hash in a file.
//!
//! nginx's counterpart: `ngx_crypt.c` and the reading loop of `ngx_http_auth_basic_handler`.

use std::io;

use headwater_wire::base64;
use md5::Md5;
use sha1::{Digest as _, Sha1};

const APR1: &[u8] = b"$apr1$";

/// Whether a password has this hash.
///
/// # Errors
/// When the system does not know the scheme.
pub(super) fn verify(password: &[u8], hash: &[u8]) -> io::Result<bool> {
    // Both end at a zero byte, as in C.
    let (key, hash) = (until_zero(password), until_zero(hash));
    let made = if hash.starts_with(APR1) {
        apr1(key, hash)
    } else if hash.starts_with(b"{PLAIN}") {
        [b"{PLAIN}", key].concat()
    } else if let Some(text) = hash.strip_prefix(b"{SSHA}") {
        let salt = base64::decode(text).unwrap_or_default().split_off_checked(20);
        let digest = Sha1::new().chain_update(key).chain_update(&salt).finalize();
        [b"{SSHA}".to_vec(), base64::encode(&[digest.as_slice(), &salt].concat())].concat()
    } else if hash.starts_with(b"{SHA}") {
        [b"{SHA}".to_vec(), base64::encode(&Sha1::digest(key))].concat()
    } else {
        headwater_io::crypt::crypt(key, hash)?
    };
    Ok(is_same(&made, hash))
}

fn until_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

trait SplitOff {
    /// What stands behind the first `at` bytes, nothing when there are fewer.
    fn split_off_checked(self, at: usize) -> Self;
}

impl SplitOff for Vec<u8> {
    fn split_off_checked(self, at: usize) -> Self {
        self.get(at..).unwrap_or_default().to_vec()
    }
}

/// Compares in a time that does not tell where texts differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Apache's variant of the MD5 crypt.
fn apr1(key: &[u8], hash: &[u8]) -> Vec<u8> {
    let salt = hash.get(APR1.len()..).unwrap_or_default();
    let salt = salt.split(|byte| *byte == b'$').next().unwrap_or_default();
    let salt = salt.get(..8).unwrap_or(salt);
    let mut digest = Md5::digest([key, salt, key].concat());
    let mut first = Md5::new().chain_update(key).chain_update(APR1).chain_update(salt);
    for chunk in key.chunks(16) {
        first.update(digest.get(..chunk.len()).unwrap_or_default());
    }
    let mut bits = key.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0] } else { key.get(..1).unwrap_or_default() });
        bits >>= 1;
    }
    digest = first.finalize();
    for round in 0..1000_u32 {
        let odd = round & 1 == 1;
        let mut next = Md5::new();
        next.update(if odd { key } else { &digest });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(key);
        }
        next.update(if odd { &digest } else { key });
        digest = next.finalize();
    }
    let mut out = [APR1, salt, b"$"].concat();
    let at = |index: usize| u32::from(digest.get(index).copied().unwrap_or(0));
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        to_64(at(a) << 16 | at(b) << 8 | at(c), 4, &mut out);
    }
    to_64(at(11), 2, &mut out);
    out
}

fn to_64(value: u32, digits: u32, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut value = value;
    for _ in 0..digits {
        out.push(DIGITS.get((value & 0x3f) as usize).copied().unwrap_or(b'.'));
        value >>= 6;
    }
}

/// The hash of a user in the text of a password file.
///
/// A line that stops being the user's at its very end takes the next one with it, as in nginx.
pub(super) fn find<'f>(file: &'f [u8], user: &[u8]) -> Option<&'f [u8]> {
    enum State {
        Login(usize),
        Skip,
    }
    let mut state = State::Login(0);
    for (at, byte) in file.iter().enumerate() {
        state = match state {
            State::Login(0) if matches!(byte, b'#' | b'\r') => State::Skip,
            State::Login(0) if *byte == b'\n' => State::Login(0),
            State::Login(length) if length == user.len() && *byte == b':' => {
                let rest = file.get(at.saturating_add(1)..).unwrap_or_default();
                return rest.split(|byte| matches!(byte, b'\n' | b'\r' | b':')).next();
            }
            State::Login(length) if user.get(length) == Some(byte) => State::Login(length.saturating_add(1)),
            State::Skip if *byte == b'\n' => State::Login(0),
            State::Login(_) | State::Skip => State::Skip,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verify_every_scheme_takes_the_right_password_alone() {
        for hash in [
            "{PLAIN}pass",
            "{SHA}nU4eI71bcnBGqeO0t9tXvY1u5oQ=",
            "{SSHA}EfVjnyJSUVXLC0NXPuQhKDjHjYdzYWx0",
            "$apr1$xyz$Ca6/9WC27B2EAPaaVyQAn.",
            "$6$xyz$xnJ1tYVNiXoJxsC2boO695YKTArk1wOHb4pUuevgKEKs1jHY2RY2dpZZ5.edWbi/Rv166cNQVgH8Qd.1aKhHR.",
        ] {
            assert!(verify(b"pass", hash.as_bytes()).expect("a known scheme"), "{hash}");
            assert!(!verify(b"Pass", hash.as_bytes()).expect("a known scheme"), "{hash}");
        }
        assert!(!verify(b"x", b"{SSHA}!").expect("a known scheme"));
    }

    #[test]
    fn find_lines_are_read_as_nginx_does() {
        let file = b"#c:1\n\na:2:comment\nab:3\r\n bad\nlast:4";
        let get =
            |user: &str| find(file, user.as_bytes()).map(|hash| String::from_utf8_lossy(hash).into_owned());
        assert_eq!(get("a").as_deref(), Some("2"));
        assert_eq!(get("ab").as_deref(), Some("3"));
        assert_eq!(get("last").as_deref(), Some("4"));
        assert_eq!(get("las"), None);
        assert_eq!(get("c"), None);
        // "x" ends where "xy" goes on: the line break is the difference, and the next line is lost.
        assert_eq!(find(b"x\nxy:1\n", b"xy"), None);
        assert_eq!(find(b"xy:1", b"xy"), Some(&b"1"[..]));
    }
}
