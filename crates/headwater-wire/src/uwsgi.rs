//! uwsgi requests: a packet header of four bytes, variables, then the body as it is.
//!
//! Called by the uwsgi module; the response has a CGI head ([`crate::cgi`]). nginx counterpart: `ngx_http_uwsgi_create_request`. Source: The uwsgi Protocol
//! (uwsgi-docs.readthedocs.io/en/latest/Protocol.html).

/// Bytes of the packet header.
const HEADER: usize = 4;

/// Writes the packet of a request.
#[derive(Debug)]
pub struct Packet<'o> {
    out: &'o mut Vec<u8>,
    /// Where the packet header starts.
    start: usize,
    /// A name or value had more bytes than its length can say.
    overlong: bool,
}

/// The variables do not fit into one packet; holds their size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig(pub usize);

impl<'o> Packet<'o> {
    /// Starts a packet. The modifiers say what it is for; 0 and 0 are a WSGI request.
    #[must_use]
    pub fn begin(modifier1: u8, modifier2: u8, out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[modifier1, 0, 0, modifier2]);
        Self { out, start, overlong: false }
    }

    /// Appends a variable.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        for text in [name, value] {
            let length = u16::try_from(text.len()).unwrap_or_else(|_| {
                self.overlong = true;
                u16::MAX
            });
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(text);
        }
    }

    /// Appends bytes as they are, for packets that hold something else (nginx: `uwsgi_string`).
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Ends the packet.
    ///
    /// # Errors
    /// It holds more than 65535 bytes.
    pub fn finish(self) -> Result<(), TooBig> {
        let size = self.out.len().saturating_sub(self.start).saturating_sub(HEADER);
        let length = match u16::try_from(size) {
            Ok(length) if !self.overlong => length,
            _ => return Err(TooBig(size)),
        };
        let at = self.start.saturating_add(1);
        if let Some(room) = self.out.get_mut(at..at.saturating_add(2)) {
            room.copy_from_slice(&length.to_le_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    /// What a server reads: the modifiers and the variables; the packet is all there is.
    fn read(bytes: &[u8]) -> Option<(u8, u8, Vec<Pair>)> {
        let (header, mut rest) = bytes.split_at_checked(HEADER)?;
        if usize::from(u16::from_le_bytes([header[1], header[2]])) != rest.len() {
            return None;
        }
        let mut pairs = Vec::new();
        while !rest.is_empty() {
            let (name, value);
            (name, rest) = word(rest)?;
            (value, rest) = word(rest)?;
            pairs.push((name, value));
        }
        Some((header[0], header[3], pairs))
    }

    fn word(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (word, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((word.to_vec(), rest))
    }

    #[test]
    fn lengths_are_little_endian_and_the_string_follows_the_variables() {
        let mut out = Vec::new();
        let mut packet = Packet::begin(5, 9, &mut out);
        packet.push(b"AB", b"c");
        packet.push_raw(b"xyz");
        assert_eq!(packet.finish(), Ok(()));
        assert_eq!(out, b"\x05\x0a\0\x09\x02\0AB\x01\0cxyz");
    }

    #[test]
    fn packet_of_65535_bytes_fits_and_one_more_does_not() {
        for (size, expected) in [(65_531, Ok(())), (65_532, Err(TooBig(65_536)))] {
            let mut out = Vec::new();
            let mut packet = Packet::begin(0, 0, &mut out);
            packet.push(b"", &vec![b'x'; size]);
            assert_eq!(packet.finish(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            modifiers in any::<(u8, u8)>(),
            pairs in proptest::collection::vec(("[A-Z_]{0,9}", "[ -~]{0,300}"), 0..20),
        ) {
            let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
            let mut out = Vec::new();
            let mut packet = Packet::begin(modifiers.0, modifiers.1, &mut out);
            for (name, value) in &pairs {
                packet.push(name, value);
            }
            prop_assert_eq!(packet.finish(), Ok(()));
            prop_assert_eq!(read(&out), Some((modifiers.0, modifiers.1, pairs)));
        }
    }
}
