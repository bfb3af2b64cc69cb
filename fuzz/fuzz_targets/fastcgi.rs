//! FastCGI records and the CGI head inside, which SCGI and uwsgi send bare: no panic, and any split gives the same result.
#![no_main]

use headwater_wire::cgi::{self, CgiHeadParser, CgiResponseParser};
use headwater_wire::fastcgi::{Event, Kind, RecordError, RecordParser};
use headwater_wire::headers::HeaderList;
use headwater_wire::http1::Progress;
use libfuzzer_sys::fuzz_target;

/// Content of STDOUT and of STDERR, and how many records ended.
type Found = (Vec<u8>, Vec<u8>, usize);

fn records(input: &[u8], split: usize) -> Result<Found, RecordError> {
    let mut parser = RecordParser::default();
    let (mut stdout, mut stderr, mut ended) = (Vec::new(), Vec::new(), 0);
    for piece in input.chunks(split) {
        let mut rest = piece;
        loop {
            let step = parser.step(rest)?;
            match step.event {
                Event::More => {
                    assert_eq!(step.consumed, rest.len());
                    break;
                }
                Event::Begin(..) => {}
                Event::Content(Kind::Stdout, range) => stdout.extend_from_slice(&rest[range]),
                Event::Content(_, range) => stderr.extend_from_slice(&rest[range]),
                Event::End(_) => ended += 1,
            }
            rest = &rest[step.consumed..];
        }
    }
    // A record that ends with the input is told at the next step.
    if let Ok(step) = parser.step(&[])
        && matches!(step.event, Event::End(_))
    {
        ended += 1;
    }
    Ok((stdout, stderr, ended))
}

/// Where the head ends and what its lines are; `None` for an invalid one.
fn head(input: &[u8], split: usize) -> Option<(Progress, HeaderList)> {
    let mut parser = CgiHeadParser::default();
    let mut progress = Progress::Partial;
    let mut end = 0;
    while end < input.len() && progress == Progress::Partial {
        end = (end + split).min(input.len());
        match parser.parse(&input[..end]) {
            Ok(more) => progress = more,
            Err(_) => {
                let _ = parser.offending().get(&input[..end]);
                return None;
            }
        }
    }
    Some((progress, HeaderList::adopt(input.to_vec(), parser.take())))
}

/// The same for a head that may begin with a status line, and the status in that.
fn response(input: &[u8], split: usize) -> Option<(Progress, Option<u16>, usize)> {
    let mut parser = CgiResponseParser::default();
    let mut progress = Progress::Partial;
    let mut end = 0;
    while end < input.len() && progress == Progress::Partial {
        end = (end + split).min(input.len());
        match parser.parse(&input[..end]) {
            Ok(more) => progress = more,
            Err(_) => {
                let _ = parser.offending().get(&input[..end]);
                return None;
            }
        }
    }
    let (line, lines) = parser.take();
    Some((progress, line.filter(|_| progress != Progress::Partial).map(|line| line.status), lines.len()))
}

fuzz_target!(|data: &[u8]| {
    let [split, input @ ..] = data else { return };
    let split = usize::from(*split).max(1);
    assert_eq!(response(input, split), response(input, input.len().max(1)));
    let whole = records(input, input.len().max(1));
    assert_eq!(records(input, split), whole);
    let Ok((stdout, ..)) = whole else { return };
    let one = head(&stdout, stdout.len().max(1));
    let many = head(&stdout, split);
    assert_eq!(one.is_some(), many.is_some());
    if let (Some((one, lines)), Some((many, others))) = (one, many) {
        assert_eq!((one, lines.lines()), (many, others.lines()));
        let _ = cgi::status(&lines);
    }
});
