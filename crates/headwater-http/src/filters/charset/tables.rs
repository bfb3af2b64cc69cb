//! Charsets by name, the tables between them, and recoding with one table.
//!
//! Filled while the configuration is read; used by the filter. nginx's counterpart: `ngx_http_charset_map_block`,
//! `ngx_http_charset_recode_to_utf8`, `ngx_http_charset_recode_from_utf8`.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use headwater_conf::{Cx, Directive, Result};

/// Names a charset of the configuration.
pub(super) type CharsetId = usize;

/// All charsets that the configuration names, and the tables between them.
#[derive(Debug, Default, Clone)]
pub(super) struct Charsets {
    names: Vec<Box<[u8]>>,
    tables: Vec<Table>,
}

/// Tables in both directions between two charsets.
#[derive(Debug, Clone)]
struct Table {
    from: CharsetId,
    to: CharsetId,
    forth: Arc<Recode>,
    back: Arc<Recode>,
}

/// One direction.
#[derive(Debug)]
pub(super) enum Recode {
    /// Byte to byte.
    Bytes(Box<[u8; 256]>),
    /// Byte to a UTF-8 sequence.
    ToUtf8(Vec<Vec<u8>>),
    /// Character to byte; characters without one become `&#n;`.
    FromUtf8(HashMap<u32, u8>),
}

impl Charsets {
    /// The charset of that name, made when it is new.
    pub(super) fn add(&mut self, name: &[u8]) -> CharsetId {
        self.find(name).unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len().saturating_sub(1)
        })
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<CharsetId> {
        self.names.iter().position(|known| known.eq_ignore_ascii_case(name))
    }

    pub(super) fn name(&self, id: CharsetId) -> &[u8] {
        self.names.get(id).map_or(&[], |name| name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The table from one charset to another.
    pub(super) fn recode(&self, from: CharsetId, to: CharsetId) -> Option<&Arc<Recode>> {
        self.tables.iter().find_map(|table| {
            if (table.from, table.to) == (from, to) {
                Some(&table.forth)
            } else if (table.to, table.from) == (from, to) {
                Some(&table.back)
            } else {
                None
            }
        })
    }

    /// Takes a `charset_map` block with its entries.
    fn add_table(&mut self, cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
        let (from, to) = (self.add(directive.arg(0)), self.add(directive.arg(1)));
        let (from_name, to_name) = (directive.word(0).str(), directive.word(1).str());
        if from == to {
            return Err(directive.error(format!(
                "\"charset_map\" between the same charsets \"{from_name}\" and \"{to_name}\""
            )));
        }
        if self.recode(from, to).is_some() {
            return Err(directive
                .error(format!("duplicate \"charset_map\" between \"{from_name}\" and \"{to_name}\"")));
        }
        let entries = cx.entries(directive)?;
        let (forth, back) = if directive.arg(1).eq_ignore_ascii_case(b"utf-8") {
            utf8_table(&entries)?
        } else {
            byte_table(&entries)?
        };
        self.tables.push(Table { from, to, forth: Arc::new(forth), back: Arc::new(back) });
        Ok(())
    }
}

/// `charset_map`.
pub(super) fn charset_map(cx: &mut Cx<'_>, directive: &Directive) -> Result<()> {
    let mut charsets = cx.take_state::<Charsets>();
    let outcome = charsets.add_table(cx, directive);
    *cx.state::<Charsets>() = charsets;
    outcome
}

fn utf8_table(entries: &[Directive]) -> Result<(Recode, Recode)> {
    let mut forth: Vec<Vec<u8>> = (0..=255).map(|b: u8| vec![if b < 128 { b } else { b'?' }]).collect();
    let mut back: HashMap<u32, u8> = (0..128_u8).map(|b| (u32::from(b), b)).collect();
    for entry in entries {
        let (byte, value) = pair(entry)?;
        let invalid = || entry.error(format!("invalid value \"{}\"", entry.word(0).str()));
        let sequence: Option<Vec<u8>> =
            value.chunks(2).map(|pair| hex(pair).filter(|_| pair.len() == 2)).collect();
        let sequence = sequence.filter(|sequence| sequence.len() <= 3).ok_or_else(invalid)?;
        let character = match decode(&sequence) {
            Decoded::Character(character, _) if character <= 0xffff => character,
            _ => return Err(invalid()),
        };
        if let Some(slot) = forth.get_mut(usize::from(byte)) {
            *slot = sequence;
        }
        // A character that is mapped to byte 0 counts as unmapped, as in nginx.
        if byte == 0 {
            back.remove(&character);
        } else {
            back.insert(character, byte);
        }
    }
    Ok((Recode::ToUtf8(forth), Recode::FromUtf8(back)))
}

fn byte_table(entries: &[Directive]) -> Result<(Recode, Recode)> {
    let plain = || {
        let mut table = Box::new([b'?'; 256]);
        for (slot, byte) in table.iter_mut().zip(0..128_u8) {
            *slot = byte;
        }
        table
    };
    let (mut forth, mut back) = (plain(), plain());
    for entry in entries {
        let (byte, value) = pair(entry)?;
        let other =
            hex(value).ok_or_else(|| entry.error(format!("invalid value \"{}\"", entry.word(0).str())))?;
        if let Some(slot) = forth.get_mut(usize::from(byte)) {
            *slot = other;
        }
        if let Some(slot) = back.get_mut(usize::from(other)) {
            *slot = byte;
        }
    }
    Ok((Recode::Bytes(forth), Recode::Bytes(back)))
}

fn pair(entry: &Directive) -> Result<(u8, &[u8])> {
    if entry.args.len() != 1 {
        return Err(entry.error("invalid parameters number"));
    }
    let byte =
        hex(&entry.name.text).ok_or_else(|| entry.error(format!("invalid value \"{}\"", entry.name())))?;
    Ok((byte, entry.arg(0)))
}

/// A hexadecimal number up to 255.
fn hex(text: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::try_from(u64::from_str_radix(text, 16).ok()?).ok()
}

/// What stands at the start of some bytes, with its length.
#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    Character(u32, usize),
    Invalid(usize),
    Incomplete,
}

/// Decodes one multi-byte character (nginx: `ngx_utf8_decode`; ASCII is not its business).
fn decode(bytes: &[u8]) -> Decoded {
    let Some((first, rest)) = bytes.split_first() else { return Decoded::Invalid(0) };
    let (bits, smallest, more) = match first {
        0xf8.. => return Decoded::Invalid(1),
        0xf0.. => (first & 0x07, 0x1_0000, 3),
        0xe0.. => (first & 0x0f, 0x800, 2),
        0xc2.. => (first & 0x1f, 0x80, 1),
        _ => return Decoded::Invalid(1),
    };
    let Some(rest) = rest.get(..more) else { return Decoded::Incomplete };
    let mut character = u32::from(bits);
    for (at, byte) in rest.iter().enumerate() {
        if *byte < 0x80 {
            return Decoded::Invalid(at.saturating_add(2));
        }
        character = character << 6 | u32::from(byte & 0x3f);
    }
    let length = more.saturating_add(1);
    if (smallest..=0x10_ffff).contains(&character) {
        Decoded::Character(character, length)
    } else {
        Decoded::Invalid(length)
    }
}

impl Recode {
    /// Whether the length of a body stays as it is.
    pub(super) fn keeps_length(&self) -> bool {
        matches!(self, Recode::Bytes(_))
    }

    /// Recodes a piece; the start of a character that is not complete waits in `saved`.
    pub(super) fn piece(&self, input: &[u8], saved: &mut Vec<u8>, out: &mut Vec<u8>) {
        match self {
            Recode::Bytes(table) => {
                out.extend(input.iter().map(|byte| table.get(usize::from(*byte)).copied().unwrap_or(b'?')));
            }
            Recode::ToUtf8(table) => {
                for byte in input {
                    out.extend_from_slice(table.get(usize::from(*byte)).map_or(&[], Vec::as_slice));
                }
            }
            Recode::FromUtf8(table) if saved.is_empty() => from_utf8(table, input, saved, out),
            Recode::FromUtf8(table) => {
                let mut whole = std::mem::take(saved);
                whole.extend_from_slice(input);
                from_utf8(table, &whole, saved, out);
            }
        }
    }
}

fn from_utf8(table: &HashMap<u32, u8>, input: &[u8], saved: &mut Vec<u8>, out: &mut Vec<u8>) {
    let mut rest = input;
    while let Some(first) = rest.first() {
        if *first < 0x80 {
            let plain = rest.iter().take_while(|byte| **byte < 0x80).count();
            let (head, tail) = rest.split_at(plain);
            out.extend_from_slice(head);
            rest = tail;
            continue;
        }
        let length = match decode(rest) {
            Decoded::Incomplete => {
                saved.extend_from_slice(rest);
                return;
            }
            Decoded::Invalid(length) => {
                out.push(b'?');
                length
            }
            Decoded::Character(character, length) => {
                match table.get(&character) {
                    Some(byte) => out.push(*byte),
                    // Writing to a vector cannot fail.
                    None => drop(write!(out, "&#{character};")),
                }
                length
            }
        };
        rest = rest.get(length..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_follows_nginx() {
        assert_eq!(decode("é".as_bytes()), Decoded::Character(0xe9, 2));
        assert_eq!(decode("€x".as_bytes()), Decoded::Character(0x20ac, 3));
        assert_eq!(decode("😀".as_bytes()), Decoded::Character(0x1f600, 4));
        assert_eq!(decode(b"\xe2\x82"), Decoded::Incomplete);
        assert_eq!(decode(b"\xe0\x80\x80"), Decoded::Invalid(3));
        assert_eq!(decode(b"\xc3x"), Decoded::Invalid(2));
        assert_eq!(decode(b"\x80"), Decoded::Invalid(1));
        assert_eq!(decode(b"\xff"), Decoded::Invalid(1));
    }

    #[test]
    fn piece_any_split_gives_the_same() {
        let recode = Recode::FromUtf8([(0xe9, 0x82), (0x20ac, 0x80)].into());
        let text = "aé€😀z\u{fffd}".as_bytes();
        for at in 0..=text.len() {
            let (mut saved, mut out) = (Vec::new(), Vec::new());
            let (head, tail) = text.split_at(at);
            recode.piece(head, &mut saved, &mut out);
            recode.piece(tail, &mut saved, &mut out);
            assert_eq!(out, b"a\x82\x80&#128512;z&#65533;", "{at}");
        }
    }

    #[test]
    fn piece_bytes_become_sequences() {
        let mut table: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
        table[0xc1] = "а".as_bytes().to_vec();
        let mut out = Vec::new();
        Recode::ToUtf8(table).piece(b"x\xc1", &mut Vec::new(), &mut out);
        assert_eq!(out, "xа".as_bytes());
    }
}
