//! Tests of the chunked decoder and encoder.

use super::*;
use proptest::prelude::*;

/// Body, trailers and unread bytes, fed `split` bytes at a time.
fn run(input: &[u8], split: usize) -> Result<(Vec<u8>, usize, bool, HeaderList), ChunkedError> {
    let mut decoder = ChunkedDecoder::with_trailers(64);
    let mut body = Vec::new();
    let mut total = 0;
    for piece in input.chunks(split.max(1)) {
        let mut rest = piece;
        while !rest.is_empty() && !decoder.is_done() {
            assert!(decoder.min_remaining() > 0);
            let step = decoder.decode(rest)?;
            assert!(step.consumed > 0 && step.consumed <= rest.len());
            body.extend_from_slice(step.data.map_or(&[][..], |data| &rest[data]));
            rest = &rest[step.consumed..];
            total += step.consumed;
        }
    }
    Ok((body, total, decoder.is_done(), decoder.take_trailers()))
}

fn check(input: &str, expect: Result<&str, ChunkedError>) {
    for split in 1..=input.len().max(1) {
        let got = run(input.as_bytes(), split);
        match expect {
            Ok(body) => {
                let (got, _, done, _) = got.unwrap();
                assert_eq!((got.as_slice(), done), (body.as_bytes(), true), "{input:?} by {split}");
            }
            Err(error) => assert_eq!(got.err(), Some(error), "{input:?} by {split}"),
        }
    }
}

#[test]
fn decode_good_bodies_gives_data() {
    check("0\r\n\r\n", Ok(""));
    check("5\r\nhello\r\n0\r\n\r\n", Ok("hello"));
    check("00005;a=\"b\"\r\nhello\r\nA \t x\r\n0123456789\r\n0;x\r\n\r\n", Ok("hello0123456789"));
    check("1\r\na\r\n0\r\nX: 1\r\nY:2\r\n\r\nGET", Ok("a"));
}

#[test]
fn decode_bad_framing_fails() {
    let bad = Err(ChunkedError::InvalidFraming);
    for input in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n",
        " 5\r\nhello\r\n",
        "5\nhello\r\n",
        "5;x\nhello\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloo\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\nX: 1\n\r\n",
        "5\r\r\nhello\r\n",
        "0\r\n\rX",
        "5;a\rb\r\nhello",
        "5\r\nhello\r\n\r\n",
    ] {
        check(input, bad);
    }
}

#[test]
fn decode_huge_size_fails() {
    check("8000000000000000\r\n", Err(ChunkedError::SizeOverflow));
    check("7fffffffffffffff\r\n", Err(ChunkedError::SizeOverflow));
    check("10000000000000000000005\r\nhello", Err(ChunkedError::SizeOverflow));
    let mut decoder = ChunkedDecoder::new();
    assert!(decoder.decode(b"7ffffffffffffff0\r\n").is_ok());
    assert!(decoder.min_remaining() > 1 << 62);
}

#[test]
fn decode_trailers_kept_up_to_limit() {
    let (_, total, _, trailers) = run(b"0\r\nX-A:  1 \r\nb: 2\r\n\r\nrest", 3).unwrap();
    assert_eq!(trailers.get(b"x-a"), Some(&b"1"[..]));
    assert_eq!(trailers.get(b"B"), Some(&b"2"[..]));
    assert_eq!(total, 21);
    let long = format!("0\r\nX: {}\r\n\r\n", "y".repeat(100));
    check(&long, Err(ChunkedError::TrailersTooLarge));
    check("0\r\n X: 1\r\n\r\n", Err(ChunkedError::InvalidTrailer));
    check("0\r\nX Y: 1\r\n\r\n", Err(ChunkedError::InvalidTrailer));
}

#[test]
fn decode_without_trailers_skips_any_bytes() {
    let mut decoder = ChunkedDecoder::new();
    let step = decoder.decode(b"0\r\n\x01 junk\r\n\r\nX").unwrap();
    assert_eq!(step, Step { consumed: 13, data: None, done: true });
    assert!(decoder.trailers().is_empty());
}

#[test]
fn encode_chunk_header_is_hexadecimal() {
    for len in [1usize, 9, 16, 255, 4096, usize::MAX] {
        let mut out = Vec::new();
        encode_chunk_header(len, &mut out);
        assert_eq!(out, format!("{len:x}\r\n").into_bytes());
    }
}

proptest! {
    #[test]
    fn decode_any_split_gives_the_same_result(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("5\r\nhello\r\n"), Just("0\r\n"), Just("\r\n"), Just("1;x\r\n"), Just("a"), Just("\n"), Just("A: b\r\n"),
            ],
            0..8,
        ),
        split in 1usize..20,
    ) {
        let input = pieces.concat();
        let plain = |result: Result<(Vec<u8>, usize, bool, HeaderList), ChunkedError>| {
            result.map(|(body, total, done, trailers)| (body, total, done, trailers.buffer().to_vec()))
        };
        let whole = plain(run(input.as_bytes(), usize::MAX >> 1));
        prop_assert_eq!(plain(run(input.as_bytes(), split)), whole);
    }

    #[test]
    fn decode_encoded_chunks_gives_them_back(chunks in proptest::collection::vec("[a-z]{1,40}", 0..6)) {
        let mut coded = Vec::new();
        for chunk in &chunks {
            encode_chunk_header(chunk.len(), &mut coded);
            coded.extend_from_slice(chunk.as_bytes());
            coded.extend_from_slice(b"\r\n");
        }
        coded.extend_from_slice(LAST_CHUNK);
        let (body, total, done, _) = run(&coded, 11).unwrap();
        prop_assert_eq!((body, total, done), (chunks.concat().into_bytes(), coded.len(), true));
    }
}
