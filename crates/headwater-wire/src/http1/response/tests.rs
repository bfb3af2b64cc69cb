//! Tests of the response head parser.

use super::*;
use proptest::prelude::*;

type Parsed = (StatusLine, Vec<Line>, usize);

fn run(input: &[u8], split: usize) -> Result<Option<Parsed>, ResponseError> {
    let mut parser = ResponseParser::new();
    let mut end = 0;
    loop {
        end = (end + split.max(1)).min(input.len());
        if let Progress::Complete { len } = parser.parse(&input[..end])? {
            let (status, lines) = parser.take();
            return Ok(Some((status, lines, len)));
        }
        if end == input.len() {
            return Ok(None);
        }
    }
}

fn parse(input: &str) -> Result<Option<Parsed>, ResponseError> {
    let whole = run(input.as_bytes(), usize::MAX >> 1);
    for split in 1..6 {
        assert_eq!(run(input.as_bytes(), split), whole, "{input:?} by {split}");
    }
    whole
}

#[test]
fn status_lines_are_split() {
    for (line, version, status, text) in [
        ("HTTP/1.1 200 OK\r\n", (1, 1), 200, "200 OK"),
        ("HTTP/1.0 404\n", (1, 0), 404, "404"),
        ("HTTP/1.1 403.1 No\r\n", (1, 1), 403, "403.1 No"),
        ("HTTP/2.10   299 \u{e9} x \r\n", (2, 10), 299, "299 \u{e9} x "),
        ("HTTP/1.1 200 \r\n", (1, 1), 200, "200 "),
    ] {
        let input = format!("{line}A: b\r\n\r\n");
        let (status_line, lines, len) = parse(&input).unwrap().unwrap();
        assert_eq!((status_line.version_major, status_line.version_minor), version);
        assert_eq!(status_line.status, status);
        assert_eq!(status_line.text.get(input.as_bytes()), text.as_bytes());
        assert_eq!((lines.len(), len), (1, input.len()));
        assert!(!status_line.http09);
    }
}

#[test]
fn no_status_line_is_http_09() {
    for input in [
        "<html>",
        "HTTX",
        "HTTP/0.9 200 OK\r\n",
        "HTTP/1.1 20x\r\n",
        "HTTP/1.1 2000\r\n",
        "HTTP/1.1\r\n",
        "\r\n",
        "HTTP/1.1 200 OK\rx",
        "http/1.1 200 OK",
        "HTTP/1.1000 200",
    ] {
        let (status, lines, len) = parse(input).unwrap().unwrap();
        assert!(status.http09, "{input:?}");
        assert_eq!((status.status, status.version_minor, lines.len(), len), (200, 9, 0, 0));
    }
    assert_eq!(parse("HTTP/1."), Ok(None));
}

#[test]
fn further_status_lines_are_skipped() {
    let (status, lines, _) =
        parse("HTTP/1.1 200 OK\r\nHTTP/1.1 100 Continue\r\nA_b: c\r\n\r\n").unwrap().unwrap();
    assert_eq!((status.status, lines.len()), (200, 1));
}

#[test]
fn invalid_header_lines_fail() {
    for header in
        ["A B: c", " A: b", ": b", "A@: b", "A(: b", "\u{e9}: b", "A: \0", "A: b\rc", "HTTP: a\r\nHTTPS/1: b"]
    {
        let input = format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n");
        assert_eq!(parse(&input), Err(ResponseError::InvalidHeader), "{header:?}");
    }
}

#[test]
fn parser_reads_on_after_an_interim_response() {
    let mut parser = ResponseParser::new();
    let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let Ok(Progress::Complete { len }) = parser.parse(input) else { panic!("partial") };
    assert_eq!(parser.take().0.status, 100);
    assert_eq!(parser.parse(&input[len..]), Ok(Progress::Complete { len: 19 }));
    assert_eq!(parser.status_line().map(|line| line.status), Some(200));
}

proptest! {
    #[test]
    fn any_split_gives_the_same_result(
        start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.")],
        rest in proptest::collection::vec(
            prop_oneof![Just("A: b\r\n"), Just("\r\n"), Just("HTTP/1.1"), Just(" 200 x"), Just("\n"), Just("\0"), Just("y ")],
            0..10,
        ),
        split in 1usize..12,
    ) {
        let input = format!("{start}{}", rest.concat());
        prop_assert_eq!(run(input.as_bytes(), split), run(input.as_bytes(), usize::MAX >> 1));
    }
}
