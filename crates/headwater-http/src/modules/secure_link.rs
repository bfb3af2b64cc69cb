//! `secure_link`: links that carry a proof, and the time until which they hold.
//!
//! nginx's counterpart: `ngx_http_secure_link_module.c`.

use std::sync::Arc;

use headwater_conf::context::HSL;
use headwater_conf::value::{Text, parse_number};
use headwater_conf::{Result, settings};
use headwater_wire::base64;
use md5::{Digest as _, Md5};

use super::Module;
use crate::config::LocationBuilder;
use crate::request::Request;
use crate::script::{Complex, VariableDef};

const NAME: &str = "ngx_http_secure_link_module";

/// The module.
pub static MODULE: Module = Module {
    directives: &[SecureLinkSettings::DIRECTIVES],
    variables: VARIABLES,
    build,
    ..Module::named(NAME)
};

settings! {
    /// How links are proved.
    pub struct SecureLinkSettings, raw SecureLinkRaw, module "ngx_http_secure_link_module" {
        /// Gives the proof from the link, and behind a comma the time until which it holds.
        "secure_link", HSL, "expression", "" => link: Option<Complex> = None;
        /// Gives the text whose MD5 is the proof.
        "secure_link_md5", HSL, "expression", "" => md5: Option<Complex> = None;
        /// Gives the word that proves links of the form `/prefix/hash/link`.
        "secure_link_secret", HSL, "word", "" => secret: Option<Text> = None;
    }
}

const VARIABLES: &[VariableDef] = &[
    VariableDef::new(
        "secure_link",
        NAME,
        secure_link,
        "`1` for a link that is proved, `0` when its time is over, no value otherwise; the link itself with `secure_link_secret`.",
    ),
    VariableDef::new(
        "secure_link_expires",
        NAME,
        |r, _, out| match r.extension::<Expires>() {
            Some(expires) => {
                out.extend_from_slice(&expires.0);
                true
            }
            None => false,
        },
        "The time until which a link holds.",
    ),
];

/// The time of a link, as it stands there.
struct Expires(Vec<u8>);

/// What holds in a location.
enum Proof {
    Md5 { link: Complex, text: Complex },
    Secret(Text),
}

fn build(builder: &mut LocationBuilder<'_, '_>) -> Result<()> {
    let own = builder.own::<SecureLinkRaw>();
    let own_secret = own.is_some_and(|own| own.secret.is_set());
    if own_secret && own.is_some_and(|own| own.link.is_set() || own.md5.is_set()) {
        let message = "\"secure_link_secret\" cannot be mixed with \"secure_link\" and \"secure_link_md5\"";
        return Err(builder.error(message.into()));
    }
    let settings = builder.settings::<SecureLinkSettings>();
    let proof = match (&settings.secret, &settings.link, &settings.md5) {
        (Some(secret), link, md5) if own_secret || (link.is_none() && md5.is_none()) => {
            Proof::Secret(secret.clone())
        }
        (_, Some(link), Some(text)) => Proof::Md5 { link: link.clone(), text: text.clone() },
        _ => return Ok(()),
    };
    builder.attach(Arc::new(proof));
    Ok(())
}

fn secure_link(r: &Request, _: &[u8], out: &mut Vec<u8>) -> bool {
    match r.loc().settings::<Proof>() {
        Some(Proof::Md5 { link, text }) => match proved(r, link, text) {
            Some(holds) => {
                out.push(if holds { b'1' } else { b'0' });
                true
            }
            None => false,
        },
        Some(Proof::Secret(secret)) => match behind_hash(r.exchange.head.unparsed_uri(), secret) {
            Some(link) => {
                out.extend_from_slice(link);
                true
            }
            None => false,
        },
        None => false,
    }
}

/// Whether a link that is proved still holds; `None` for one that is not.
fn proved(r: &Request, link: &Complex, text: &Complex) -> Option<bool> {
    let link = link.value(r);
    let comma = link.iter().position(|byte| *byte == b',');
    let (proof, time) = link.split_at(comma.unwrap_or(link.len()));
    let mut expires = None;
    if let Some(digits) = time.get(1..) {
        expires = Some(parse_number(digits).filter(|time| *time > 0)?);
        r.set_extension(Expires(digits.to_vec()));
    }
    if proof.len() > 24 {
        return None;
    }
    let proof = base64::decode_url(proof)?;
    if Md5::digest(text.value(r)).as_slice() != proof {
        return None;
    }
    let now = u64::try_from(headwater_io::clock::unix_seconds()).unwrap_or(0);
    Some(expires.is_none_or(|expires| expires as u64 >= now))
}

/// The link of `/prefix/hash/link`, when the hash is that of the link and the secret.
fn behind_hash<'u>(uri: &'u [u8], secret: &[u8]) -> Option<&'u [u8]> {
    let mut parts = uri.get(1..)?.splitn(3, |byte| *byte == b'/');
    let (_, hash, link) = (parts.next()?, parts.next()?, parts.next()?);
    if hash.len() != 32 || link.is_empty() {
        return None;
    }
    let digest = Md5::new().chain_update(link).chain_update(secret).finalize();
    let same = hash.chunks(2).zip(digest.iter()).all(|(pair, byte)| {
        let text = std::str::from_utf8(pair).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        text.and_then(|text| u8::from_str_radix(text, 16).ok()) == Some(*byte)
    });
    same.then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_hash_takes_good_hashes_alone() {
        let good = b"/p/c4438e101f99d14d60bdb7664a274e6c/a/b.txt";
        assert_eq!(behind_hash(good, b"word"), Some(&b"a/b.txt"[..]));
        assert_eq!(behind_hash(good, b"other"), None);
        assert_eq!(behind_hash(b"/p/c4438e101f99d14d60bdb7664a274e6c/", b"word"), None);
        assert_eq!(behind_hash(b"/p/c4438e101f99d14d/a", b"word"), None);
        assert_eq!(behind_hash(b"/p", b"word"), None);
    }
}
