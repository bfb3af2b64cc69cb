//! Response heads: no panic, and any split of the input gives the same result.
#![no_main]

use headwater_wire::HeaderList;
use headwater_wire::http1::semantics::response_framing;
use headwater_wire::http1::{Progress, ResponseError, ResponseParser, StatusLine};
use libfuzzer_sys::fuzz_target;

type Parsed = Result<Option<(StatusLine, Vec<headwater_wire::Line>, usize)>, ResponseError>;

fn run(input: &[u8], split: usize) -> Parsed {
    let mut parser = ResponseParser::new();
    let mut end = 0;
    loop {
        end = (end + split).min(input.len());
        if let Progress::Complete { len } = parser.parse(&input[..end])? {
            let (status, lines) = parser.take();
            return Ok(Some((status, lines, len)));
        }
        if end == input.len() {
            return Ok(None);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [split, input @ ..] = data else { return };
    let whole = run(input, input.len().max(1));
    assert_eq!(run(input, usize::from(*split).max(1)), whole);
    if let Ok(Some((status, lines, len))) = whole {
        assert!(len <= input.len() && status.text.end() <= len);
        let headers = HeaderList::adopt(input[..len].to_vec(), lines);
        let _ = response_framing(status.status, false, &headers);
    }
});
