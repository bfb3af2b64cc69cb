//! Tests of what heads mean.

use super::*;
use crate::http1::request::{HeadLimits, HeadOptions, RequestParser};

fn checked(head: &str) -> (Result<RequestSemantics, SemanticsError>, HeaderList) {
    let mut parser = RequestParser::new();
    parser.parse(head.as_bytes(), &HeadLimits::default(), &HeadOptions::default()).unwrap();
    let (line, lines) = parser.take();
    let headers = HeaderList::adopt(head.as_bytes().to_vec(), lines);
    (check(&line, &headers), headers)
}

/// A request with a host and these header lines.
fn with(lines: &str) -> Result<RequestSemantics, SemanticsError> {
    checked(&format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n")).0
}

fn fails(lines: &str, status: u16, message: &str) {
    let error = with(lines).unwrap_err();
    assert_eq!((error.status, error.message), (status, message), "{lines}");
}

#[test]
fn framing_of_good_requests() {
    assert_eq!(with("A: b").unwrap().framing, BodyFraming::None);
    assert_eq!(with("Content-Length: 0").unwrap().framing, BodyFraming::Length(0));
    assert_eq!(with("content-length: 0012 ").unwrap().framing, BodyFraming::Length(12));
    assert_eq!(with("Transfer-Encoding: Chunked").unwrap().framing, BodyFraming::Chunked);
}

#[test]
fn smuggling_attempts_are_refused() {
    let duplicate = "client sent duplicate header line";
    fails("Content-Length: 1\r\nContent-Length: 1", 400, duplicate);
    fails("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked", 400, duplicate);
    fails("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 400, duplicate);
    let both = "client sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time";
    fails("Content-Length: 1\r\nTransfer-Encoding: chunked", 400, both);
    fails("Transfer-Encoding: chunked\r\nContent-Length: 1", 400, both);
    for value in ["1,1", "+1", "-1", "0x1", "1 1", "", "1\t", "9223372036854775808", "1e1"] {
        fails(&format!("Content-Length: {value}"), 400, "client sent invalid \"Content-Length\" header");
    }
    for value in [
        "identity",
        "chunked, chunked",
        "gzip, chunked",
        "chunked;a",
        "\tchunked",
        "xchunked",
        "chunked\u{b}",
        "",
    ] {
        fails(&format!("Transfer-Encoding: {value}"), 501, "client sent unknown \"Transfer-Encoding\"");
    }
    let old = checked("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").0.unwrap_err();
    assert_eq!(old.message, "client sent HTTP/1.0 request with \"Transfer-Encoding\" header");
    fails("Host: h", 400, "client sent duplicate host header");
    fails("Expect: 100-continue\r\nExpect: 100-continue", 400, duplicate);
    fails("Authorization: a\r\nAuthorization: b", 400, duplicate);
}

#[test]
fn duplicate_is_described_with_both_lines() {
    let (result, headers) = checked("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n");
    let text = result.unwrap_err().describe(&headers);
    assert_eq!(text, b"client sent duplicate host header: \"host: b\", previous value: \"Host: a\"");
}

#[test]
fn connection_decides_about_keep_alive() {
    let of = |lines: &str| {
        let found = with(lines).unwrap();
        (found.keep_alive, found.connection_close, found.connection_keep_alive, found.upgrade)
    };
    assert_eq!(of("A: b"), (true, false, false, false));
    assert_eq!(of("Connection: CLOSE"), (false, true, false, false));
    assert_eq!(of("Connection: keep-alive, Upgrade"), (true, false, true, true));
    assert_eq!(of("Connection: close\r\nConnection: x"), (false, true, false, false));
    assert_eq!(of("Connection: close\r\nConnection: keep-alive"), (true, false, true, false));
    assert_eq!(of("Connection: upgraded"), (true, false, false, false));
    assert!(!checked("GET / HTTP/1.0\r\n\r\n").0.unwrap().keep_alive);
    assert!(checked("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").0.unwrap().keep_alive);
    assert!(!checked("GET /\r\n").0.unwrap().keep_alive);
}

#[test]
fn expect_counts_in_http_11_only() {
    assert!(with("Expect: 100-Continue").unwrap().expect_continue);
    assert!(!with("Expect: 100-continue, x").unwrap().expect_continue);
    assert!(!checked("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").0.unwrap().expect_continue);
}

#[test]
fn host_of_request_line_wins_over_header() {
    let host = |head: &str| {
        let (result, headers) = checked(head);
        let found = result.unwrap();
        let host =
            found.host.as_ref().map(|host| String::from_utf8(host.get(headers.buffer()).to_vec()).unwrap());
        (host, found.port)
    };
    let some = |name: &str| Some(name.to_string());
    assert_eq!(host("GET / HTTP/1.1\r\nHost: ExAmple.com.:81\r\n\r\n"), (some("example.com"), Some(81)));
    assert_eq!(host("GET http://a:1/ HTTP/1.1\r\nHost: b:2\r\n\r\n"), (some("a"), Some(1)));
    assert_eq!(host("GET http://[::A]/ HTTP/1.1\r\nHost: b\r\n\r\n"), (some("[::a]"), None));
    assert_eq!(host("CONNECT a.b:443 HTTP/1.1\r\nHost: c\r\n\r\n"), (some("a.b"), Some(443)));
    assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), (None, None));
}

#[test]
fn bad_hosts_are_refused() {
    let message = |head: &str| checked(head).0.map_err(|error| (error.status, error.message));
    let header = Err((400, "client sent invalid host header"));
    for host in ["", "a/b", "a b", "u@h", "h:x", "h:99999", "[::1"] {
        assert_eq!(message(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), header, "{host}");
        assert_eq!(message(&format!("GET http://a/ HTTP/1.1\r\nHost: {host}\r\n\r\n")), header, "{host}");
    }
    let missing = Err((400, "client sent HTTP/1.1 request without \"Host\" header"));
    assert_eq!(message("GET / HTTP/1.1\r\n\r\n"), missing);
    assert_eq!(message("GET http://a/ HTTP/1.1\r\n\r\n"), missing);
    let line = Err((400, "client sent invalid host in request line"));
    assert_eq!(message("GET http://a..b/ HTTP/1.1\r\nHost: a\r\n\r\n"), line);
    assert_eq!(message("GET http://a:70000/ HTTP/1.1\r\nHost: a\r\n\r\n"), line);
    assert_eq!(message("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n"), line);
    assert_eq!(message("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), Err((405, "client sent TRACE method")));
}

#[test]
fn response_framing_rules() {
    let framing = |status, head, lines: &[(&str, &str)]| {
        let mut headers = HeaderList::new();
        lines.iter().for_each(|(name, value)| headers.push(name.as_bytes(), value.as_bytes()));
        response_framing(status, head, &headers).map_err(|error| error.status)
    };
    let length = ("Content-Length", "5");
    let chunked = ("Transfer-Encoding", "chunked");
    assert_eq!(framing(200, false, &[length]), Ok(ResponseFraming::Length(5)));
    assert_eq!(framing(200, false, &[chunked]), Ok(ResponseFraming::Chunked));
    assert_eq!(framing(200, false, &[]), Ok(ResponseFraming::Close));
    for (status, head) in [(200, true), (204, false), (304, false), (103, false)] {
        assert_eq!(framing(status, head, &[length]), Ok(ResponseFraming::None));
    }
    assert_eq!(framing(200, false, &[length, length]), Err(502));
    assert_eq!(framing(200, false, &[chunked, chunked]), Err(502));
    assert_eq!(framing(200, false, &[length, chunked]), Err(502));
    assert_eq!(framing(200, true, &[chunked, length]), Err(502));
    assert_eq!(framing(200, false, &[("Transfer-Encoding", "gzip, chunked")]), Err(502));
    assert_eq!(framing(304, false, &[("Content-Length", "x")]), Err(502));
    let mut headers = HeaderList::new();
    assert!(!response_connection_close(&headers));
    headers.push(b"Connection", b"x, Close");
    assert!(response_connection_close(&headers));
}
