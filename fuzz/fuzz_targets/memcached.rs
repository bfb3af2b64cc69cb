//! memcached's answers: no panic, and any split gives the same result.
#![no_main]

use headwater_wire::memcached::{BodyDecoder, End, Head, HeadError, HeadParser, shown_line, write_get};
use libfuzzer_sys::fuzz_target;

fn head(input: &[u8], key: &[u8], flags: bool, split: usize) -> Option<(usize, Result<Head, HeadError>)> {
    let mut parser = HeadParser::default();
    let mut end = 0;
    while end < input.len() {
        end = (end + split).min(input.len());
        if let Some(found) = parser.parse(&input[..end], key, flags) {
            return Some(found);
        }
    }
    None
}

/// The value, how it ended, and how much was used up.
fn value(input: &[u8], length: u64, split: usize) -> (Vec<u8>, End, usize) {
    let mut decoder = BodyDecoder::new(length);
    let (mut value, mut used, mut came, mut end) = (Vec::new(), 0, 0, End::More);
    while came < input.len() && end == End::More {
        came = (came + split).min(input.len());
        let step = decoder.decode(&input[used..came]);
        if let Some(range) = step.data {
            value.extend_from_slice(&input[used..came][range]);
        }
        used += step.consumed;
        end = step.end;
    }
    (value, end, used)
}

fuzz_target!(|data: &[u8]| {
    let [split, key_length, flags, rest @ ..] = data else { return };
    let split = usize::from(*split).max(1);
    let (key, input) = rest.split_at(usize::from(*key_length).min(rest.len()));
    let mut request = Vec::new();
    let span = write_get(key, &mut request);
    let key = span.get(&request);
    assert!(key.iter().all(|byte| *byte > b' '));
    let flags = flags & 1 == 1;
    let whole = head(input, key, flags, input.len().max(1));
    assert_eq!(head(input, key, flags, split), whole);
    let Some((length, found)) = whole else { return };
    assert!(!shown_line(input, length).contains(&b'\n'));
    let Ok(Head::Value { length: bytes, .. }) = found else { return };
    let input = &input[length..];
    let one = value(input, bytes, input.len().max(1));
    assert_eq!(value(input, bytes, split), one);
    assert!(one.0.len() as u64 <= bytes);
});
