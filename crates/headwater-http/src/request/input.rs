//! Bytes read from a client and not used yet. What is used is stepped over, not moved; a body that is all there is leaves without a copy.
//!
//! Owned by a client connection. nginx's counterpart: `ngx_http_request_t::header_in`.

use std::ops::Deref;

use bytes::{Buf as _, Bytes};

/// The bytes; reads as a slice of those not used yet.
#[derive(Debug, Default)]
pub struct Input {
    buffer: Vec<u8>,
    /// How many bytes at the front of `buffer` are used.
    used: usize,
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }
}

impl Input {
    /// Appends what was read.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.used > 0 && self.buffer.capacity().saturating_sub(self.buffer.len()) < bytes.len() {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Steps over bytes at the front.
    pub fn consume(&mut self, length: usize) {
        self.used = self.used.saturating_add(length);
        if self.used >= self.buffer.len() {
            self.clear();
        }
    }

    /// Drops all bytes.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.used = 0;
    }

    /// Takes all bytes, with the buffer they lie in.
    pub fn take(&mut self) -> Bytes {
        let mut bytes = Bytes::from(std::mem::take(&mut self.buffer));
        bytes.advance(std::mem::take(&mut self.used).min(bytes.len()));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_gone_and_the_rest_stays_in_order() {
        let mut input = Input::default();
        input.append(b"head|body");
        input.consume(5);
        assert_eq!(&*input, b"body");
        input.append(&[b'x'; 100]);
        assert_eq!(&input[..5], b"bodyx");
        assert_eq!(input.len(), 104);
        input.consume(104);
        assert!(input.is_empty());
        input.append(b"next");
        input.consume(1);
        assert_eq!(input.take(), &b"ext"[..]);
        assert!(input.is_empty());
    }
}
