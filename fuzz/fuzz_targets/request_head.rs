//! Request heads: no panic, and any split of the input gives the same result.
#![no_main]

use headwater_wire::HeaderList;
use headwater_wire::http1::semantics::check;
use headwater_wire::http1::{
    HeadError, HeadLimits, HeadOptions, Progress, RequestLine, RequestParser,
};
use libfuzzer_sys::fuzz_target;

type Parsed = Result<Option<(RequestLine, Vec<headwater_wire::Line>, usize)>, HeadError>;

fn run(input: &[u8], split: usize, limits: &HeadLimits, options: &HeadOptions) -> Parsed {
    let mut parser = RequestParser::new();
    let mut end = 0;
    loop {
        end = (end + split).min(input.len());
        if let Progress::Complete { len } = parser.parse(&input[..end], limits, options)? {
            let (line, lines) = parser.take();
            return Ok(Some((line, lines, len)));
        }
        if end == input.len() {
            return Ok(None);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [first, second, input @ ..] = data else {
        return;
    };
    let small = HeadLimits {
        first_buffer: 32,
        line: 64,
        buffers: 2,
        max_headers: 4,
    };
    let limits = if first & 1 == 0 {
        HeadLimits::default()
    } else {
        small
    };
    let options = HeadOptions {
        underscores: first & 2 != 0,
        ignore_invalid: first & 4 == 0,
    };
    let whole = run(input, input.len().max(1), &limits, &options);
    assert_eq!(
        run(input, usize::from(*second).max(1), &limits, &options),
        whole
    );
    if let Ok(Some((line, lines, len))) = whole {
        assert!(len <= input.len() && line.request.end() <= len);
        let headers = HeaderList::adopt(input[..len].to_vec(), lines);
        for header in headers.iter() {
            assert!(
                !header.name.contains(&b'\n')
                    && !header.value.contains(&b'\n')
                    && !header.value.contains(&0)
            );
        }
        if let Err(error) = check(&line, &headers) {
            assert!(!error.describe(&headers).is_empty());
        }
    }
});
