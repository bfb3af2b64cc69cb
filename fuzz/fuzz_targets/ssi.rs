//! Server side includes: no panic, and a page means the same however it is cut into pieces.
#![no_main]

use headwater_wire::ssi::{Event, Parser};
use libfuzzer_sys::fuzz_target;

const OPENING: &[u8] = b"<!--#";

/// What a page amounts to, fed in pieces of `size` bytes.
fn run(page: &[u8], size: usize) -> Vec<u8> {
    let mut parser = Parser::new(64);
    let mut out = Vec::new();
    for piece in page.chunks(size) {
        let mut pos = 0;
        loop {
            match parser.next(piece, &mut pos) {
                Event::Text(held, range) => {
                    out.extend_from_slice(&OPENING[..held]);
                    out.extend_from_slice(&piece[range]);
                }
                Event::Command => out.extend_from_slice(format!("{:?}", parser.take()).as_bytes()),
                Event::Broken => out.push(0),
                Event::Complaint(text) => out.extend_from_slice(text.as_bytes()),
                Event::More => break,
            }
        }
        assert_eq!(pos, piece.len());
    }
    out.extend_from_slice(&OPENING[..parser.held_back()]);
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((size, page)) = data.split_first() else { return };
    if page.is_empty() {
        return;
    }
    assert_eq!(run(page, usize::from(*size) + 1), run(page, page.len()));
});
