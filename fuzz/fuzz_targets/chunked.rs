//! Chunked bodies: no panic, any split gives the same result, and what was decoded can be coded again.
#![no_main]

use headwater_wire::http1::chunked::{
    ChunkedDecoder, ChunkedError, LAST_CHUNK, encode_chunk_header,
};
use libfuzzer_sys::fuzz_target;

/// Body, bytes consumed, whether it ended, bytes of trailers.
type Decoded = Result<(Vec<u8>, usize, bool, Vec<u8>), ChunkedError>;

fn run(input: &[u8], split: usize) -> Decoded {
    let mut decoder = ChunkedDecoder::with_trailers(256);
    let (mut body, mut total) = (Vec::new(), 0);
    for piece in input.chunks(split) {
        let mut rest = piece;
        while !rest.is_empty() && !decoder.is_done() {
            let step = decoder.decode(rest)?;
            assert!(step.consumed > 0);
            body.extend_from_slice(step.data.map_or(&[][..], |data| &rest[data]));
            rest = &rest[step.consumed..];
            total += step.consumed;
        }
    }
    Ok((
        body,
        total,
        decoder.is_done(),
        decoder.take_trailers().buffer().to_vec(),
    ))
}

fuzz_target!(|data: &[u8]| {
    let [split, input @ ..] = data else { return };
    let whole = run(input, input.len().max(1));
    assert_eq!(run(input, usize::from(*split).max(1)), whole);
    if let Ok((body, ..)) = whole
        && !body.is_empty()
    {
        let mut coded = Vec::new();
        encode_chunk_header(body.len(), &mut coded);
        coded.extend_from_slice(&body);
        coded.extend_from_slice(b"\r\n");
        coded.extend_from_slice(LAST_CHUNK);
        assert_eq!(
            run(&coded, coded.len()),
            Ok((body, coded.len(), true, Vec::new()))
        );
    }
});
