//! Tests of the request head parser: leniency, limits, and independence of how the input is split.

use super::*;
use proptest::prelude::*;

type Parsed = (RequestLine, Vec<Line>, Vec<Span>, usize);

fn run(
    input: &[u8],
    split: usize,
    limits: &HeadLimits,
    options: &HeadOptions,
) -> Result<Option<Parsed>, HeadError> {
    let mut parser = RequestParser::new();
    let mut end = 0;
    loop {
        end = (end + split.max(1)).min(input.len());
        if let Progress::Complete { len } = parser.parse(&input[..end], limits, options)? {
            let invalid = parser.invalid_lines().to_vec();
            let (line, lines) = parser.take();
            return Ok(Some((line, lines, invalid, len)));
        }
        if end == input.len() {
            return Ok(None);
        }
    }
}

fn parse(input: &str) -> Result<Option<Parsed>, HeadError> {
    let whole = run(input.as_bytes(), usize::MAX >> 1, &HeadLimits::default(), &HeadOptions::default());
    for split in [1, 2, 3, 7] {
        let pieces = run(input.as_bytes(), split, &HeadLimits::default(), &HeadOptions::default());
        assert_eq!(pieces, whole, "{input:?} by {split}");
    }
    whole
}

fn good(input: &str) -> Parsed {
    match parse(input) {
        Ok(Some(parsed)) => parsed,
        other => panic!("{input:?}: {other:?}"),
    }
}

fn text(span: Span, input: &str) -> String {
    String::from_utf8_lossy(span.get(input.as_bytes())).into_owned()
}

/// Method, target, path, arguments, version, whether complex.
fn line(input: &str) -> (String, String, String, Option<String>, Version, bool) {
    let (line, ..) = good(input);
    (
        text(line.method_text, input),
        text(line.target, input),
        text(line.path, input),
        line.args.map(|args| text(args, input)),
        line.version,
        line.complex,
    )
}

fn headers(input: &str) -> Vec<(String, String)> {
    let (_, lines, ..) = good(input);
    lines.iter().map(|line| (text(line.name, input), text(line.value, input))).collect()
}

fn fails(input: &str, error: HeadError) {
    assert_eq!(parse(input), Err(error), "{input:?}");
}

#[test]
fn request_line_forms_are_split() {
    let expect = |method: &str, target: &str, path: &str, args: Option<&str>, version, complex| {
        (method.into(), target.into(), path.into(), args.map(Into::into), version, complex)
    };
    use Version::{Http09, Http10, Http11};
    assert_eq!(line("GET / HTTP/1.1\r\n\r\n"), expect("GET", "/", "/", None, Http11, false));
    assert_eq!(
        line("\r\n\n\rGET  /a?b  HTTP/1.0 \n\n"),
        expect("GET", "/a?b", "/a", Some("b"), Http10, false)
    );
    assert_eq!(line("M-_X /a.b/c HTTP/1.7\r\n\r\n"), expect("M-_X", "/a.b/c", "/a.b/c", None, Http11, false));
    assert_eq!(line("GET /\r\n"), expect("GET", "/", "/", None, Http09, false));
    assert_eq!(line("GET /a?b \n"), expect("GET", "/a?b", "/a", Some("b"), Http09, false));
    assert_eq!(line("GET /a?b#c?d HTTP/1.1\n\n"), expect("GET", "/a?b#c?d", "/a", Some("b"), Http11, true));
    assert_eq!(line("GET /a#c?d HTTP/1.1\n\n"), expect("GET", "/a#c?d", "/a", None, Http11, true));
    assert_eq!(
        line("GET /a?%20//.. HTTP/1.1\n\n"),
        expect("GET", "/a?%20//..", "/a", Some("%20//.."), Http11, false)
    );
    for target in ["/%41", "//", "/.", "/a/./b", "/a//b", "/a/../b?c=%", "/#"] {
        assert!(line(&format!("GET {target} HTTP/1.1\r\n\r\n")).5, "{target}");
    }
    for target in ["/a..b", "/a.", "/a/b.c", "/\u{e9}", "/a+b", "/?/.", "/\\"] {
        assert!(!line(&format!("GET {target} HTTP/1.1\r\n\r\n")).5, "{target}");
    }
}

#[test]
fn absolute_form_gives_scheme_host_and_port() {
    let parts = |input: &str| {
        let (line, ..) = good(input);
        let text = |span: Option<Span>| span.map(|span| text(span, input));
        (text(line.schema), text(line.host), text(line.port))
    };
    let some = |value: &str| Some(value.to_string());
    let input = "GET http://Ex_a.com:80/a?b HTTP/1.1\r\n\r\n";
    assert_eq!(parts(input), (some("http"), some("Ex_a.com"), some("80")));
    assert_eq!(line(input).1, "/a?b");
    let input = "GET h+-.1://[::1]?b HTTP/1.1\r\n\r\n";
    assert_eq!(parts(input), (some("h+-.1"), some("[::1]"), None));
    assert_eq!((line(input).1, line(input).2, line(input).5), ("?b".into(), String::new(), true));
    let input = "GET http://host HTTP/1.1\r\n\r\n";
    assert_eq!(parts(input), (some("http"), some("host"), None));
    assert_eq!((line(input).1, line(input).2, line(input).5), ("/".into(), "/".into(), false));
    let input = "GET http://host: HTTP/1.1\r\n\r\n";
    assert_eq!(parts(input), (some("http"), some("host"), some("")));
    let input = "CONNECT host.example:443 HTTP/1.1\r\n\r\n";
    assert_eq!(parts(input), (None, some("host.example"), some("443")));
    assert_eq!(line(input).1, "host.example:443");
    assert_eq!(parts("CONNECT [::1]:1 HTTP/1.1\r\n\r\n"), (None, some("[::1]"), some("1")));
}

#[test]
fn request_text_and_protocol_leave_out_the_line_end() {
    for end in ["\r\n\r\n", "\n\n"] {
        let input = format!("\r\nGET /a HTTP/1.1{end}");
        let (line, ..) = good(&input);
        assert_eq!(text(line.request, &input), "GET /a HTTP/1.1");
        assert_eq!(text(line.protocol, &input), "HTTP/1.1");
    }
    let (line, ..) = good("GET /a\r\n");
    assert_eq!(text(line.request, "GET /a\r\n"), "GET /a");
    assert_eq!((line.minor, line.protocol.len), (9, 0));
    assert_eq!(good("GET / HTTP/1.7\n\n").0.minor, 7);
}

#[test]
fn bad_request_lines_fail() {
    use HeadError::{InvalidHttp09Method, InvalidMethod, InvalidRequest, InvalidVersion};
    for input in ["get / HTTP/1.1\r\n", " GET /", "\x16\x03\x01", "G\tT /", "GET\r\n", "G@T /"] {
        fails(input, InvalidMethod);
    }
    for input in [
        "GET a HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET \r\n",
        "GET /a b HTTP/1.1\r\n",
        "GET /\0 HTTP/1.1\r\n",
        "GET /\t HTTP/1.1\r\n",
        "GET /\x7f HTTP/1.1\r\n",
        "GET / HTTP/1\r\n",
        "GET / HTTP/0.9\r\n",
        "GET / HTTP/1.\r\n",
        "GET / http/1.1\r\n",
        "GET / HTTP/1.1x\r\n",
        "GET / HTTP/1.1 x\r\n",
        "GET / HTTP/1.1\rx",
        "GET /\rX",
        "GET http:/h/ HTTP/1.1\r\n",
        "GET http://h\r\n",
        "GET http:///a HTTP/1.1\r\n",
        "GET http://u@h/ HTTP/1.1\r\n",
        "GET http://h:8a/ HTTP/1.1\r\n",
        "GET http://[::1/ HTTP/1.1\r\n",
        "GET http://[::1]a/ HTTP/1.1\r\n",
        "GET / HTTP/1.1000\r\n",
        "CONNECT h HTTP/1.1\r\n",
        "CONNECT h: HTTP/1.1\r\n",
        "CONNECT h:1/ HTTP/1.1\r\n",
        "CONNECT http://h:1/ HTTP/1.1\r\n",
        "GET host:80 HTTP/1.1\r\n",
    ] {
        // an empty host is found by the check of the host itself
        if input.contains("///") {
            assert!(good(&format!("{input}\r\n")).0.host.is_some_and(|host| host.is_empty()));
            continue;
        }
        fails(input, InvalidRequest);
    }
    for input in ["GET / HTTP/2.0\r\n", "GET / HTTP/10.1\r\n", "PRI * HTTP/2.0\r\n", "GET / HTTP/9"] {
        if input.starts_with("PRI") {
            fails(input, InvalidRequest);
        } else {
            fails(input, InvalidVersion);
        }
    }
    fails("POST /\r\n", InvalidHttp09Method);
}

#[test]
fn header_values_are_trimmed_of_spaces_only() {
    let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
    assert_eq!(
        headers(
            "GET / HTTP/1.1\r\nA:  b c  \r\nB:\r\nC: \r\nD:\tx\t\r\nE\r\nF: g\r\r\nH: i: j\nK: \u{1}\r\n\r\nrest"
        ),
        [
            pair("A", "b c"),
            pair("B", ""),
            pair("C", ""),
            pair("D", "\tx\t"),
            pair("E", ""),
            pair("F", "g"),
            pair("H", "i: j"),
            pair("K", "\u{1}")
        ]
    );
}

#[test]
fn invalid_names_are_dropped_or_kept() {
    let input = "GET / HTTP/1.1\r\nA_B: 1\r\n_C: 2\r\nD@: 3\r\n\u{e9}: 4\r\nE: 5\r\n\r\n";
    let (_, lines, invalid, _) = good(input);
    assert_eq!(lines.len(), 1);
    let dropped: Vec<_> = invalid.iter().map(|&span| text(span, input)).collect();
    assert_eq!(dropped, ["A_B: 1", "_C: 2", "D@: 3", "\u{e9}: 4"]);
    let run = |options| run(input.as_bytes(), 5, &HeadLimits::default(), &options).unwrap().unwrap().1.len();
    assert_eq!(run(HeadOptions { underscores: true, ignore_invalid: true }), 3);
    assert_eq!(run(HeadOptions { underscores: false, ignore_invalid: false }), 5);
}

#[test]
fn characters_never_allowed_in_headers_fail() {
    for header in [
        ": a",
        " A: b",
        "\tA: b",
        "A : b",
        "A B: c",
        "A\0: b",
        "A: \0",
        "A: b\0c",
        "A: b \0",
        "A: b\rc",
        "A\x7f: b",
        "A: b\r\n continued",
        "A\t: b",
    ] {
        fails(&format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"), HeadError::InvalidHeaderLine);
    }
    fails("GET / HTTP/1.1\r\n\rX", HeadError::InvalidHeaderLine);
    let mut parser = RequestParser::new();
    let input = b"GET / HTTP/1.1\r\nAb c: d\r\n";
    let error = parser.parse(input, &HeadLimits::default(), &HeadOptions::default());
    assert_eq!(error, Err(HeadError::InvalidHeaderLine));
    assert_eq!(parser.offending().get(input), b"Ab");
    assert!(parser.request_line().is_some_and(|line| line.request.get(input) == b"GET / HTTP/1.1"));
    assert_eq!(parser.parse(input, &HeadLimits::default(), &HeadOptions::default()), error);
}

#[test]
fn known_names_are_recognised() {
    let (_, lines, _, len) = good("GET / HTTP/1.1\r\nhost: a\r\nX-Other: b\r\nCONTENT-LENGTH: 0\r\n\r\nbody");
    let known: Vec<_> = lines.iter().map(|line| line.known).collect();
    use crate::headers::KnownHeader::{ContentLength, Host, Other};
    assert_eq!(known, [Host, Other, ContentLength]);
    assert_eq!(len, 58);
}

const SMALL: HeadLimits = HeadLimits { first_buffer: 32, line: 64, buffers: 2, max_headers: 5 };

fn limited(input: &str) -> Result<bool, HeadError> {
    let whole = run(input.as_bytes(), usize::MAX >> 1, &SMALL, &HeadOptions::default());
    for split in 1..9 {
        assert_eq!(
            run(input.as_bytes(), split, &SMALL, &HeadOptions::default()),
            whole,
            "{input:?} by {split}"
        );
    }
    whole.map(|parsed| parsed.is_some())
}

#[test]
fn lines_that_fit_a_large_buffer_pass_longer_ones_fail() {
    // "GET /" and " HTTP/1.1\r\n" are 16 bytes
    let request = |len: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(len - 16));
    assert_eq!(limited(&request(64)), Ok(true));
    assert_eq!(limited(&request(65)), Err(HeadError::UriTooLong));
    assert_eq!(limited(&"GET /aaaaaaaaaaaaaaaa".repeat(9)), Err(HeadError::InvalidRequest));
    let header = |len: usize| format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(len - 5));
    assert_eq!(limited(&header(64)), Ok(true));
    assert_eq!(limited(&header(65)), Err(HeadError::HeaderLineTooLong));
    assert_eq!(limited(&header(200)), Err(HeadError::HeaderLineTooLong));
}

#[test]
fn heads_beyond_all_buffers_fail() {
    let lines = |count: usize| {
        format!("GET / HTTP/1.1\r\n{}\r\n", format!("A: {}\r\n", "b".repeat(30)).repeat(count))
    };
    // a large buffer of 64 bytes has room for one line of 35
    assert_eq!(limited(&lines(2)), Ok(true));
    assert_eq!(limited(&lines(3)), Err(HeadError::HeaderLineTooLong));
    let limits = HeadLimits { first_buffer: 16, line: 64, buffers: 0, max_headers: 5 };
    let error = run(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 1, &limits, &HeadOptions::default());
    assert_eq!(error, Err(HeadError::RequestTooLarge));
}

#[test]
fn too_many_lines_fail() {
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert_eq!(limited(&lines(5)), Ok(true));
    assert_eq!(limited(&lines(6)), Err(HeadError::TooManyHeaders));
}

#[test]
fn endless_empty_lines_fail() {
    assert_eq!(limited(&format!("{}GET / HTTP/1.1\r\n\r\n", "\r\n".repeat(30))), Ok(true));
    assert_eq!(limited(&"\r\n".repeat(200)), Err(HeadError::RequestTooLarge));
}

#[test]
fn errors_have_status_and_message() {
    for (error, status) in [
        (HeadError::InvalidMethod, 400),
        (HeadError::InvalidVersion, 505),
        (HeadError::UriTooLong, 414),
        (HeadError::HeaderLineTooLong, 494),
        (HeadError::TooManyHeaders, 494),
    ] {
        assert_eq!(error.status(), status);
        assert!(error.message().starts_with("client sent "));
    }
}

fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"/a/../b?c ".to_vec()),
        Just(b"http://h:1/ ".to_vec()),
        Just(b"HTTP/1.1".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"Host: a ".to_vec()),
        Just(b"X_Y:  b".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    let start = prop_oneof![Just(b"".to_vec()), Just(b"GET / HTTP/1.1\r\n".to_vec())];
    (start, proptest::collection::vec(piece, 0..14))
        .prop_map(|(start, pieces)| [start, pieces.concat()].concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_result(input in head_like(), split in 1usize..20, small in any::<bool>()) {
        let limits = if small { SMALL } else { HeadLimits::default() };
        let options = HeadOptions::default();
        let whole = run(&input, usize::MAX >> 1, &limits, &options);
        prop_assert_eq!(run(&input, split, &limits, &options), whole.clone());
        if let Ok(Some((line, lines, _, len))) = whole {
            prop_assert!(len <= input.len());
            prop_assert!(line.request.end() <= len);
            prop_assert!(lines.iter().all(|line| line.value.end() <= len && line.name.end() <= len));
        }
    }
}
