//! Tests of the memcached protocol.

use proptest::prelude::*;

use super::*;

fn parse(input: &[u8], key: &[u8], split: usize) -> Option<(usize, Result<Head, HeadError>)> {
    let mut parser = HeadParser::default();
    let mut end = 0;
    while end < input.len() {
        end = (end + split).min(input.len());
        if let Some(found) = parser.parse(&input[..end], key, true) {
            return Some(found);
        }
    }
    None
}

fn line(text: &str) -> Result<Head, HeadError> {
    let (length, head) = parse(text.as_bytes(), b"k", text.len()).unwrap();
    assert_eq!(length, text.len());
    head
}

/// The value, whether its end was right, and what was not used up.
fn decode(input: &[u8], length: u64, split: usize) -> (Vec<u8>, End, usize) {
    let mut decoder = BodyDecoder::new(length);
    let (mut value, mut used, mut came) = (Vec::new(), 0, 0);
    let mut end = decoder.decode(&[]).end;
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

#[test]
fn request_escapes_what_would_end_the_key() {
    let mut out = b"x".to_vec();
    let key = write_get(b"a b%\r\n/c?d\xc3", &mut out);
    assert_eq!(out, b"xget a%20b%25%0D%0A/c?d\xc3\r\n");
    assert_eq!(key.get(&out), b"a%20b%25%0D%0A/c?d\xc3");
}

#[test]
fn value_line_gives_flags_and_length() {
    assert_eq!(line("VALUE k 2 5\r\n"), Ok(Head::Value { flags: 2, length: 5 }));
    let whatever = HeadParser::default().parse(b"VALUE k x 0\r\n", b"k", false);
    assert_eq!(whatever, Some((13, Ok(Head::Value { flags: 0, length: 0 }))));
    assert_eq!(line("END\r\n"), Ok(Head::NotFound));
}

#[test]
fn other_lines_are_refused() {
    for text in
        ["\n", "\r\n", "END\n", "ENDS\r\n", "ERROR\r\n", "VALUE k\r\n", "VALUE kk 0 1\r\n", "VALUE k 0\r\n"]
    {
        assert_eq!(line(text), Err(HeadError::Response), "{text:?}");
    }
    assert_eq!(line("VALUE j 0 1\r\n"), Err(HeadError::Key));
    assert_eq!(line("VALUE k x x\r\n"), Err(HeadError::Flags));
    assert_eq!(line("VALUE k  1\r\n"), Err(HeadError::Flags));
    for length in ["", "-1", "1 2", "1x", "9223372036854775808", "99999999999999999999999"] {
        assert_eq!(line(&format!("VALUE k 0 {length}\r\n")), Err(HeadError::Length), "{length:?}");
    }
}

#[test]
fn logged_line_has_no_end() {
    assert_eq!(shown_line(b"ERROR\r\nmore", 7), b"ERROR");
    assert_eq!(shown_line(b"\n", 1), b"");
}

#[test]
fn value_ends_with_the_trailer() {
    assert_eq!(decode(b"hello\r\nEND\r\n", 5, 99), (b"hello".to_vec(), End::Complete, 12));
    assert_eq!(decode(b"\r\nEND\r\n", 0, 99), (Vec::new(), End::Complete, 7));
    assert_eq!(decode(b"hello\r\nEND\r\nmore", 5, 99), (b"hello".to_vec(), End::Complete, 12));
    assert_eq!(decode(b"hello\r\nEN", 5, 99), (b"hello".to_vec(), End::More, 9));
    assert_eq!(decode(b"hello, world", 5, 99), (b"hello".to_vec(), End::Invalid, 5));
}

proptest! {
    #[test]
    fn any_split_of_a_line_gives_the_same(
        text in "(VALUE |END|V)?(k|key|j)?( ?[0-9x]{0,3}){0,3}\r?\n?[a-z]{0,3}\n?",
        split in 1_usize..9,
    ) {
        let input = text.as_bytes();
        prop_assert_eq!(parse(input, b"k", split), parse(input, b"k", input.len().max(1)));
    }

    #[test]
    fn any_split_of_a_value_gives_the_same(
        text in "[a-c]{0,6}(\r\n)?(END)?(\r\n)?[a-c]{0,3}",
        length in 0_u64..8,
        split in 1_usize..9,
    ) {
        let input = text.as_bytes();
        prop_assert_eq!(decode(input, length, split), decode(input, length, input.len().max(1)));
    }

    #[test]
    fn any_key_is_asked_for_in_one_line(key in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut out = Vec::new();
        let span = write_get(&key, &mut out);
        prop_assert!(out.starts_with(b"get ") && out.ends_with(b"\r\n"));
        prop_assert!(span.get(&out).iter().all(|byte| *byte > b' '));
        prop_assert_eq!(span.get(&out).len() + 6, out.len());
    }
}
