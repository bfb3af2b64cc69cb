//! `split_clients`: a variable whose value depends on a hash of a text, by percentages.
//!
//! nginx's counterpart: `ngx_http_split_clients_module.c`, `ngx_murmur_hash2`.

use std::sync::Arc;

use headwater_conf::context::HTTP;
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result};

use super::Module;
use crate::request::Request;
use crate::script::variables::variable_name;
use crate::script::{Complex, VariableSource, Variables};

/// `ngx_http_split_clients_module`.
pub static MODULE: Module =
    Module { directives: &[DIRECTIVES], ..Module::named("ngx_http_split_clients_module") };

const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "split_clients",
    module: "ngx_http_split_clients_module",
    contexts: HTTP,
    args: Args::exactly(2).with_block(),
    syntax: "string $variable",
    default: "",
    doc: "Makes a variable for A/B testing: its value depends on a hash of the string.\n",
    set: split_clients,
}];

/// One hundred percent, in hundredths.
const WHOLE: u32 = 10_000;

struct Split {
    text: Complex,
    parts: Vec<Part>,
}

/// Hashes below `limit` have this value; `None` means all.
struct Part {
    limit: Option<u32>,
    value: Vec<u8>,
}

impl Split {
    fn pick(&self, hash: u32) -> &[u8] {
        let part = self.parts.iter().find(|part| part.limit.is_none_or(|limit| hash < limit));
        part.map_or(&[], |part| &part.value)
    }
}

impl VariableSource for Split {
    fn value(&self, r: &Request, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(self.pick(murmur_hash2(&self.text.value(r))));
        true
    }
}

fn split_clients(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let text = Complex::compile(cx, directive, 0)?;
    let name = variable_name(directive, 1)?.to_owned();
    let mut parts = Vec::new();
    let mut percents = Vec::new();
    for entry in cx.entries(directive)? {
        let [value] = entry.args.as_slice() else {
            return Err(entry.error("invalid number of the split_clients parameters"));
        };
        let percent = if entry.name.is("*") {
            None
        } else {
            let percent = parse_percent(&entry.name.text);
            if percent.is_none() {
                return Err(entry.error(format!("invalid percent value \"{}\"", entry.name())));
            }
            percent
        };
        percents.push(percent);
        parts.push(Part { limit: None, value: value.text.clone() });
    }
    let limits = limits(&percents).ok_or_else(|| directive.error("percent total is greater than 100%"))?;
    for (part, limit) in parts.iter_mut().zip(limits) {
        part.limit = limit;
    }
    let source = Arc::new(Split { text, parts });
    cx.state::<Variables>().computed(&name, source).map_err(|message| directive.error_at(1, message))?;
    Ok(())
}

/// Turns percentages, in hundredths, into limits of the hash; `None` when they exceed the whole. The rest (`*`) fills the whole up, so
/// nothing may follow it.
fn limits(percents: &[Option<u32>]) -> Option<Vec<Option<u32>>> {
    let mut sum = 0_u32;
    let mut last = 0_u32;
    let mut limits = Vec::with_capacity(percents.len());
    for percent in percents {
        sum = match percent {
            Some(percent) => sum.checked_add(*percent)?,
            None => WHOLE,
        };
        if sum > WHOLE {
            return None;
        }
        limits.push(match percent {
            Some(percent) => {
                let share = u64::from(*percent).saturating_mul(u64::from(u32::MAX)) / u64::from(WHOLE);
                last = last.wrapping_add(u32::try_from(share).unwrap_or(u32::MAX));
                Some(last)
            }
            None => None,
        });
    }
    Some(limits)
}

/// `12.34%` in hundredths; at most two decimals, not zero.
fn parse_percent(text: &[u8]) -> Option<u32> {
    let digits = text.strip_suffix(b"%")?;
    let mut value = 0_u32;
    let mut decimals = None;
    for byte in digits {
        match (byte, decimals) {
            (b'.', None) => decimals = Some(0_u32),
            (b'0'..=b'9', None | Some(0 | 1)) => {
                value = value.checked_mul(10)?.checked_add(u32::from(byte.saturating_sub(b'0')))?;
                decimals = decimals.map(|count| count.saturating_add(1));
            }
            _ => return None,
        }
    }
    let missing = 2_u32.saturating_sub(decimals.unwrap_or(0));
    value.checked_mul(10_u32.pow(missing)).filter(|value| *value > 0)
}

/// MurmurHash2 with seed 0, as nginx uses it.
fn murmur_hash2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(0);
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0_u32, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur_hash2_known_values_match() {
        assert_eq!(murmur_hash2(b""), 0);
        assert_eq!(murmur_hash2(b"1"), 0x4934_2faf);
        assert_eq!(murmur_hash2(b"127.0.0.1"), 0xb613_1d91);
        assert_eq!(murmur_hash2(b"abcd"), 0x2687_3021);
    }

    #[test]
    fn percents_are_hundredths() {
        let get = |text: &str| parse_percent(text.as_bytes());
        assert_eq!(get("0.5%"), Some(50));
        assert_eq!(get("10%"), Some(1000));
        assert_eq!(get("33.33%"), Some(3333));
        assert_eq!(get(".01%"), Some(1));
        for text in ["10", "0%", "0.00%", "1.234%", "1..2%", "x%", "-1%", "99999999999%", "%"] {
            assert_eq!(get(text), None, "{text}");
        }
    }

    #[test]
    fn limits_sum_is_checked_and_rest_takes_all() {
        assert_eq!(limits(&[Some(5000), None]), Some(vec![Some(2_147_483_647), None]));
        assert_eq!(limits(&[Some(10_000)]), Some(vec![Some(u32::MAX)]));
        assert_eq!(limits(&[Some(5000), Some(5001)]), None);
        assert_eq!(limits(&[None, Some(1)]), None);
        let split = Split {
            text: Complex::text(b""),
            parts: vec![
                Part { limit: Some(10), value: b"a".to_vec() },
                Part { limit: Some(20), value: b"b".to_vec() },
            ],
        };
        assert_eq!((split.pick(9), split.pick(10), split.pick(20)), (&b"a"[..], &b"b"[..], &b""[..]));
    }
}
