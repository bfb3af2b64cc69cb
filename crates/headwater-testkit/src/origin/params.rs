//! SCGI, uwsgi and memcached for scripted origins, told apart by the first byte of a request.
//!
//! Called by the origin; the parameters of a request stand for its head, a line each. nginx counterpart: none.

use crate::text::find;

/// What a request's first byte says about its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// HTTP: a capital letter.
    Http,
    /// FastCGI: version 1.
    FastCgi,
    /// SCGI: a digit of the netstring's length.
    Scgi,
    /// uwsgi: a modifier, 0 usually.
    Uwsgi,
    /// memcached: a command in small letters.
    Memcached,
}

impl Wire {
    pub(super) fn of(first: Option<&u8>) -> Self {
        match first {
            Some(1) => Self::FastCgi,
            Some(b'0'..=b'9') => Self::Scgi,
            Some(0..=31) => Self::Uwsgi,
            Some(b'a'..=b'z') => Self::Memcached,
            _ => Self::Http,
        }
    }

    /// Takes a head that is no HTTP and no FastCGI from the front of `buffer`, as text. `None` when it is not whole.
    pub(super) fn take_head(self, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Scgi => take_scgi(buffer),
            Self::Uwsgi => take_uwsgi(buffer),
            Self::Memcached => {
                let end = find(buffer, b"\r\n")?;
                Some(buffer.drain(..end + 2).collect())
            }
            Self::Http | Self::FastCgi => None,
        }
    }
}

fn take_scgi(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let colon = find(buffer, b":")?;
    let length: usize = std::str::from_utf8(&buffer[..colon]).ok()?.parse().ok()?;
    let end = colon + 1 + length;
    let comma = *buffer.get(end)?;
    let mut text = String::from("scgi\n");
    let mut words = buffer[colon + 1..end].split(|byte| *byte == 0).map(String::from_utf8_lossy);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        text.push_str(&format!("{name}: {value}\n"));
    }
    if comma != b',' {
        text.push_str("no comma\n");
    }
    buffer.drain(..=end);
    text.push('\n');
    Some(text.into_bytes())
}

fn take_uwsgi(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header: [u8; 4] = buffer.get(..4)?.try_into().ok()?;
    let end = 4 + usize::from(u16::from_le_bytes([header[1], header[2]]));
    let mut rest = buffer.get(4..end)?;
    let mut text = format!("uwsgi {} {}\n", header[0], header[3]);
    while let Some((name, value, after)) = pair(rest) {
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        text.push_str(&format!("{name}: {value}\n"));
        rest = after;
    }
    if !rest.is_empty() {
        text.push_str(&format!("string: {}\n", String::from_utf8_lossy(rest)));
    }
    buffer.drain(..end);
    text.push('\n');
    Some(text.into_bytes())
}

fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = word(bytes)?;
    let (value, rest) = word(rest)?;
    Some((name, value, rest))
}

fn word(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))
}

/// The length of the body that follows a head which [`Wire::take_head`] took.
pub(super) fn body_length(head: &[u8]) -> usize {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("CONTENT_LENGTH: ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_become_lines() {
        let mut scgi = b"24:CONTENT_LENGTH\x002\0A\0bcde\0,xy".to_vec();
        assert_eq!(Wire::of(scgi.first()), Wire::Scgi);
        let head = Wire::Scgi.take_head(&mut scgi).unwrap();
        assert_eq!(head, b"scgi\nCONTENT_LENGTH: 2\nA: bcde\n\n");
        assert_eq!((body_length(&head), scgi.as_slice()), (2, &b"xy"[..]));
        let mut uwsgi = b"\0\x08\0\0\x01\0A\x01\0bxyz".to_vec();
        assert_eq!(Wire::of(uwsgi.first()), Wire::Uwsgi);
        assert_eq!(Wire::Uwsgi.take_head(&mut uwsgi), Some(b"uwsgi 0 0\nA: b\nstring: xy\n\n".to_vec()));
        assert_eq!(uwsgi, b"z");
        assert_eq!(Wire::Memcached.take_head(&mut b"get k\r".to_vec()), None);
        assert_eq!(Wire::Memcached.take_head(&mut b"get k\r\nx".to_vec()), Some(b"get k\r\n".to_vec()));
    }
}
