//! How arguments become values: flags, numbers, sizes, times, words, lists.
//!
//! Used by the `settings!` macro; a module adds its own types by implementing [`Value`]. Texts of the errors are nginx's (`ngx_conf_set_*_slot`,
//! `ngx_parse.c`).

use std::ops::Deref;
use std::time::Duration;

use crate::diagnostic::Result;
use crate::directive::Args;
use crate::interpret::Cx;
use crate::parse::Directive;

/// A type that a directive's arguments can be read into.
pub trait Value: Clone + Send + Sync + 'static {
    /// How many arguments.
    const ARGS: Args;
    /// Whether inner blocks take the value over; a type that overrides `inherit` to do nothing says `false`.
    const INHERITS: bool = true;

    /// Reads one directive.
    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self>;

    /// Stores into a block's slot. Most directives may stand once per block; lists add up.
    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        if slot.is_some() {
            return Err(directive.duplicate());
        }
        *slot = Some(Self::parse(cx, directive)?);
        Ok(())
    }

    /// Takes the outer block's value where this one has none.
    fn inherit(slot: &mut Option<Self>, outer: &Option<Self>) {
        if slot.is_none() {
            slot.clone_from(outer);
        }
    }
}

/// A setting without a default.
impl<T: Value> Value for Option<T> {
    const ARGS: Args = T::ARGS;
    const INHERITS: bool = T::INHERITS;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        T::parse(cx, directive).map(Some)
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let mut inner = slot.take().flatten();
        let outcome = T::set(&mut inner, cx, directive);
        *slot = inner.map(Some);
        outcome
    }

    fn inherit(slot: &mut Option<Self>, outer: &Option<Self>) {
        let mut inner = slot.take().flatten();
        T::inherit(&mut inner, &outer.clone().flatten());
        *slot = inner.map(Some);
    }
}

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty), $parse:expr, $error:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl Deref for $name {
            type Target = $inner;
            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl Value for $name {
            const ARGS: Args = Args::exactly(1);
            fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
                let parse: fn(&[u8]) -> Option<$inner> = $parse;
                parse(directive.arg(0)).map($name).ok_or_else(|| directive.complain($error))
            }
        }
    };
}

number!(
    /// A count.
    Number(usize), |text| parse_number(text), "invalid number"
);
number!(
    /// Bytes in memory: `8k`, `1m`.
    Size(usize), |text| parse_size(text), "invalid value"
);
number!(
    /// Bytes in a file or a body: also `1g`.
    Offset(u64), |text| parse_offset(text), "invalid value"
);
number!(
    /// A time with milliseconds: `60`, `500ms`, `1m 30s`.
    Milliseconds(Duration), |text| parse_milliseconds(text), "invalid value"
);
number!(
    /// A time in whole seconds.
    Seconds(Duration), |text| parse_seconds(text), "invalid value"
);

impl Milliseconds {
    /// From whole seconds, for defaults.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Value for bool {
    const ARGS: Args = Args::flag();

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let word = directive.arg(0);
        if word.eq_ignore_ascii_case(b"on") {
            Ok(true)
        } else if word.eq_ignore_ascii_case(b"off") {
            Ok(false)
        } else {
            let message = format!(
                "invalid value \"{}\" in \"{}\" directive, it must be \"on\" or \"off\"",
                directive.word(0).str(),
                directive.name()
            );
            Err(directive.error_at(0, message))
        }
    }
}

/// One word as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Text(pub Vec<u8>);

impl Deref for Text {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Value for Text {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(Text(directive.arg(0).to_vec()))
    }
}

/// `number size`, as in `proxy_buffers 8 4k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// How many.
    pub number: usize,
    /// Bytes of each.
    pub size: usize,
}

impl Value for Buffers {
    const ARGS: Args = Args::exactly(2);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let number = parse_number(directive.arg(0)).filter(|number| *number > 0);
        let size = parse_size(directive.arg(1)).filter(|size| *size > 0);
        match (number, size) {
            (Some(number), Some(size)) => Ok(Buffers { number, size }),
            _ => Err(directive.complain("invalid value")),
        }
    }
}

/// One of a fixed set of words; implement with [`crate::keywords!`].
pub trait Keyword: Clone + Send + Sync + 'static {
    /// The words and their values.
    const WORDS: &'static [(&'static str, Self)];
}

/// Declares an enum whose variants are a directive's words.
#[macro_export]
macro_rules! keywords {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[doc = $doc:expr])+ $variant:ident = $word:expr),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name { $($(#[doc = $doc])+ $variant),+ }

        impl $crate::value::Keyword for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $name::$variant)),+];
        }

        impl $crate::Value for $name {
            const ARGS: $crate::Args = $crate::Args::exactly(1);
            fn parse(_: &mut $crate::Cx<'_>, directive: &$crate::Directive) -> $crate::Result<Self> {
                $crate::value::keyword(directive, 0)
            }
        }
    };
}

/// Reads an argument as one of a set of words (nginx: `ngx_conf_set_enum_slot`).
pub fn keyword<K: Keyword>(directive: &Directive, index: usize) -> Result<K> {
    let word = directive.arg(index);
    for (known, value) in K::WORDS {
        if word.eq_ignore_ascii_case(known.as_bytes()) {
            return Ok(value.clone());
        }
    }
    let message = format!("invalid value \"{}\"", directive.word(index).str());
    let words: Vec<&str> = K::WORDS.iter().map(|(word, _)| *word).collect();
    Err(directive.error_at(index, message).with_help(format!("one of: {}", words.join(", "))))
}

/// A list to which each directive of the block adds one element; an inner block's list replaces the outer one.
#[derive(Debug, Clone)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Value> Value for List<T> {
    const ARGS: Args = T::ARGS;

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(List(vec![T::parse(cx, directive)?]))
    }

    fn set(slot: &mut Option<Self>, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let element = T::parse(cx, directive)?;
        slot.get_or_insert_default().0.push(element);
        Ok(())
    }
}

/// Decimal digits only (nginx: `ngx_atoi`).
#[must_use]
pub fn parse_number(text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_usize, |total, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        total.checked_mul(10)?.checked_add(usize::from(digit)).filter(|n| isize::try_from(*n).is_ok())
    })
}

/// A number with an optional `k` or `m` (nginx: `ngx_parse_size`).
#[must_use]
pub fn parse_size(text: &[u8]) -> Option<usize> {
    let (digits, scale) = match text.split_last() {
        Some((b'k' | b'K', head)) => (head, 1024),
        Some((b'm' | b'M', head)) => (head, 1024 * 1024),
        _ => (text, 1),
    };
    parse_number(digits)?.checked_mul(scale).filter(|n| isize::try_from(*n).is_ok())
}

/// A number with an optional `k`, `m` or `g` (nginx: `ngx_parse_offset`).
#[must_use]
pub fn parse_offset(text: &[u8]) -> Option<u64> {
    let (digits, scale) = match text.split_last() {
        Some((b'k' | b'K', head)) => (head, 1024),
        Some((b'm' | b'M', head)) => (head, 1024 * 1024),
        Some((b'g' | b'G', head)) => (head, 1024 * 1024 * 1024),
        _ => (text, 1),
    };
    u64::try_from(parse_number(digits)?).ok()?.checked_mul(scale).filter(|n| i64::try_from(*n).is_ok())
}

/// A time in milliseconds; a bare number is seconds (nginx: `ngx_parse_time` with `is_sec` 0).
#[must_use]
pub fn parse_milliseconds(text: &[u8]) -> Option<Duration> {
    parse_time(text, false).map(Duration::from_millis)
}

/// A time in seconds (nginx: `ngx_parse_time` with `is_sec` 1).
#[must_use]
pub fn parse_seconds(text: &[u8]) -> Option<Duration> {
    parse_time(text, true).map(Duration::from_secs)
}

fn parse_time(text: &[u8], whole_seconds: bool) -> Option<u64> {
    // Units must come in falling order, each at most once; `ms` only where milliseconds count.
    const ORDER: [(&[u8], u64); 8] = [
        (b"y", 31_536_000_000),
        (b"M", 2_592_000_000),
        (b"w", 604_800_000),
        (b"d", 86_400_000),
        (b"h", 3_600_000),
        (b"m", 60_000),
        (b"s", 1000),
        (b"ms", 1),
    ];
    let mut total: u64 = 0;
    let mut next_unit = 0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, tail) = rest.split_at(digits);
        let number = u64::try_from(parse_number(number)?).ok()?;
        let letters = tail.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let (unit, tail) = tail.split_at(letters);
        let tail_trimmed = tail.trim_ascii_start();
        let at = match unit {
            // A bare number at the end is seconds, whatever came before.
            b"" if tail_trimmed.is_empty() => 6,
            b"" => return None,
            _ => ORDER.iter().position(|(name, _)| *name == unit)?,
        };
        if (at < next_unit && !unit.is_empty()) || (whole_seconds && at == 7) {
            return None;
        }
        next_unit = at.saturating_add(1);
        let (_, scale) = ORDER.get(at)?;
        total = total.checked_add(number.checked_mul(*scale)?)?;
        rest = tail_trimmed;
    }
    let total = if whole_seconds { total / 1000 } else { total };
    i64::try_from(total).ok()?;
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_offsets_have_units() {
        assert_eq!(parse_size(b"8k"), Some(8192));
        assert_eq!(parse_size(b"1M"), Some(1_048_576));
        assert_eq!(parse_size(b"1g"), None);
        assert_eq!(parse_offset(b"1g"), Some(1 << 30));
        assert_eq!(parse_size(b""), None);
        assert_eq!(parse_size(b"k"), None);
        assert_eq!(parse_size(b"-1"), None);
        assert_eq!(parse_number(b"99999999999999999999"), None);
    }

    #[test]
    fn times_have_units_in_falling_order() {
        let ms = |text: &str| parse_milliseconds(text.as_bytes()).map(|d| d.as_millis());
        assert_eq!(ms("60"), Some(60_000));
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("1h 30m"), Some(5_400_000));
        assert_eq!(ms("30s1m"), None);
        assert_eq!(ms("1x"), None);
        assert_eq!(ms(""), None);
        assert_eq!(parse_seconds(b"1y").map(|d| d.as_secs()), Some(31_536_000));
        assert_eq!(parse_seconds(b"500ms"), None);
    }
}
