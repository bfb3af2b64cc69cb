//! FastCGI for scripted origins: a connection whose first byte is 1 speaks it.
//!
//! Called by the origin; the parameters of a request stand for its head, the content of STDIN for its body. nginx counterpart: none.

/// Types of records.
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// A record as text that the server under test is sent.
#[must_use]
pub fn stdout(content: &[u8]) -> Vec<u8> {
    record(STDOUT, content)
}

/// A record with text for the error log.
#[must_use]
pub fn stderr(content: &[u8]) -> Vec<u8> {
    record(STDERR, content)
}

/// The record that ends a request.
#[must_use]
pub fn end() -> Vec<u8> {
    record(END_REQUEST, &[0; 8])
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    // A script that needs more sends more records.
    let content = &content[..content.len().min(usize::from(u16::MAX))];
    let length = (content.len() as u16).to_be_bytes();
    let padding = (8 - content.len() % 8) % 8;
    let mut out = vec![1, kind, 0, 1, length[0], length[1], padding as u8, 0];
    out.extend_from_slice(content);
    out.resize(out.len() + padding, 0);
    out
}

/// One record taken from the front of `buffer`: type and content. `None` when it is not whole.
pub(super) fn take_record(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let header: [u8; 8] = buffer.get(..8)?.try_into().ok()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let whole = 8 + length + usize::from(header[6]);
    let content = buffer.get(8..8 + length)?.to_vec();
    if buffer.len() < whole {
        return None;
    }
    buffer.drain(..whole);
    Some((header[1], content))
}

/// What a request said before its body.
#[derive(Debug, Default)]
pub(super) struct Head {
    text: String,
    params: Vec<u8>,
}

impl Head {
    /// Takes a record; true when it was the last of the head.
    pub(super) fn take(&mut self, kind: u8, content: &[u8]) -> bool {
        match kind {
            PARAMS if content.is_empty() => return true,
            PARAMS => self.params.extend_from_slice(content),
            _ => self.text.push_str(&format!("record {kind}: {content:?}\n")),
        }
        false
    }

    /// The head as text, a parameter a line.
    pub(super) fn text(mut self) -> Vec<u8> {
        let mut rest = self.params.as_slice();
        while let Some((name, value, after)) = pair(rest) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            self.text.push_str(&format!("{name}: {value}\n"));
            rest = after;
        }
        if !rest.is_empty() {
            self.text.push_str(&format!("broken parameters: {rest:?}\n"));
        }
        self.text.push('\n');
        self.text.into_bytes()
    }
}

fn pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = length(bytes)?;
    let (value, rest) = length(rest)?;
    let (name, rest) = rest.split_at_checked(name)?;
    let (value, rest) = rest.split_at_checked(value)?;
    Some((name, value, rest))
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < 128 {
        return Some((usize::from(first), rest));
    }
    let (more, rest) = rest.split_first_chunk::<3>()?;
    Some((u32::from_be_bytes([first & 127, more[0], more[1], more[2]]) as usize, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_lines() {
        let mut head = Head::default();
        assert!(!head.take(1, &[0, 1]));
        assert!(!head.take(PARAMS, b"\x01\x02AbcX"));
        assert!(head.take(PARAMS, b""));
        assert_eq!(head.text(), b"record 1: [0, 1]\nA: bc\nbroken parameters: [88]\n\n");
    }

    #[test]
    fn records_are_taken_whole_with_their_padding() {
        let mut buffer = [stdout(b"ab"), end()].concat();
        assert_eq!(take_record(&mut buffer), Some((STDOUT, b"ab".to_vec())));
        buffer.truncate(12);
        assert_eq!(take_record(&mut buffer), None);
    }
}
