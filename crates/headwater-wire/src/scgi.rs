//! SCGI requests: one netstring of headers, then the body as it is.
//!
//! Called by the SCGI module; the response has a CGI head ([`crate::cgi`]). nginx counterpart: `ngx_http_scgi_create_request`. Source: SCGI: A Simple Common
//! Gateway Interface alternative (python.ca/scgi/protocol.txt).

/// Room kept before the headers for the length and its colon: twenty digits are the largest 64-bit number.
const LENGTH: usize = 21;

/// Writes the headers of a request.
#[derive(Debug)]
pub struct Headers<'o> {
    out: &'o mut Vec<u8>,
    /// Where the room for the length starts.
    start: usize,
}

impl<'o> Headers<'o> {
    /// Starts the headers with `CONTENT_LENGTH`, which is always the first; bytes of the body.
    #[must_use]
    pub fn begin(content_length: u64, out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.resize(start.saturating_add(LENGTH), b' ');
        let mut headers = Self { out, start };
        headers.push(b"CONTENT_LENGTH", content_length.to_string().as_bytes());
        headers
    }

    /// Appends a header.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.out.extend_from_slice(name);
        self.out.push(0);
        self.out.extend_from_slice(value);
        self.out.push(0);
    }

    /// Ends the netstring and puts its length in front.
    pub fn finish(self) {
        let content = self.start.saturating_add(LENGTH);
        let length = format!("{}:", self.out.len().saturating_sub(content));
        self.out.push(b',');
        // The length ends where the headers start; the room before it goes.
        let unused = LENGTH.saturating_sub(length.len());
        let from = self.start.saturating_add(unused);
        if let Some(room) = self.out.get_mut(from..content) {
            room.copy_from_slice(length.as_bytes());
        }
        self.out.drain(self.start..from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn written(length: u64, pairs: &[Pair]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let mut headers = Headers::begin(length, &mut out);
        for (name, value) in pairs {
            headers.push(name, value);
        }
        headers.finish();
        assert_eq!(&out[..6], b"before");
        out[6..].to_vec()
    }

    /// What a server reads: pairs and what follows the netstring.
    fn read(bytes: &[u8]) -> Option<(Vec<Pair>, &[u8])> {
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
        let content = bytes.get(colon + 1..colon + 1 + length)?;
        let rest = bytes[colon + 1 + length..].strip_prefix(b",")?;
        let mut words = content.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let mut pairs = Vec::new();
        while let Some(name) = words.next() {
            pairs.push((name.to_vec(), words.next()?.to_vec()));
        }
        Some((pairs, rest))
    }

    #[test]
    fn headers_are_a_netstring_that_begins_with_the_length_of_the_body() {
        let pairs = [(b"SCGI".to_vec(), b"1".to_vec())];
        assert_eq!(written(27, &pairs), b"25:CONTENT_LENGTH\x0027\0SCGI\x001\0,");
        assert_eq!(written(0, &[]), b"17:CONTENT_LENGTH\x000\0,");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            length in any::<u64>(),
            pairs in proptest::collection::vec(("[A-Z_]{0,9}", "[ -~]{0,99}"), 0..9),
        ) {
            let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect();
            let bytes = written(length, &pairs);
            let (found, rest) = read(&bytes).unwrap();
            prop_assert_eq!(&found[0], &(b"CONTENT_LENGTH".to_vec(), length.to_string().into_bytes()));
            prop_assert_eq!(&found[1..], &pairs[..]);
            prop_assert!(rest.is_empty());
        }
    }
}
