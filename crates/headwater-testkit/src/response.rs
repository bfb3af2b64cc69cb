//! Reads responses out of the bytes that a client received.
//!
//! Called by the client (to know when a response is complete) and the normaliser; calls nothing.
//! nginx counterpart: none.

use crate::text::find;

/// One response, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status line without its CRLF.
    pub status_line: String,
    /// Header lines in the order received, each split at the colon.
    pub headers: Vec<(String, String)>,
    /// The body, de-chunked.
    pub body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<String>,
    /// How the end of the body was told.
    pub framing: Framing,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body: 1xx, 204, 304, answer to HEAD.
    None,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection closes.
    Close,
    /// The bytes ended, or a chunk was malformed, before the body did.
    Broken,
}

impl Response {
    /// The status code, 0 when the status line has none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status_line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Takes the first response from `bytes`: the response and how many bytes it took.
///
/// `head` tells that the request was a HEAD; `eof` that no more bytes will come, which ends a body delimited by
/// the close and makes anything incomplete [`Framing::Broken`]. `None`: not complete yet, or no response at all.
#[must_use]
pub fn parse(bytes: &[u8], head: bool, eof: bool) -> Option<(Response, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default().to_owned();
    if !status_line.starts_with("HTTP/") {
        return None;
    }
    let headers = lines.map(split_header).collect();
    let mut response =
        Response { status_line, headers, body: Vec::new(), trailers: Vec::new(), framing: Framing::None };
    let used = end + 4 + read_body(&mut response, &bytes[end + 4..], head, eof)?;
    Some((response, used))
}

fn split_header(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}

fn read_body(response: &mut Response, rest: &[u8], head: bool, eof: bool) -> Option<usize> {
    let status = response.status();
    if head || status < 200 || status == 204 || status == 304 {
        return Some(0);
    }
    if response.header("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let (framing, used) = read_chunks(rest, &mut response.body, &mut response.trailers);
        response.framing = framing;
        return (framing == Framing::Chunked || eof).then_some(used);
    }
    if let Some(length) = response.header("Content-Length").and_then(|text| text.parse::<usize>().ok()) {
        response.framing = if rest.len() < length { Framing::Broken } else { Framing::Length };
        let used = length.min(rest.len());
        response.body = rest[..used].to_vec();
        return (response.framing == Framing::Length || eof).then_some(used);
    }
    response.framing = Framing::Close;
    response.body = rest.to_vec();
    eof.then_some(rest.len())
}

/// Takes chunks from `bytes`; [`Framing::Broken`] when the last chunk or a chunk's end is missing.
#[must_use]
pub fn read_chunks(bytes: &[u8], body: &mut Vec<u8>, trailers: &mut Vec<String>) -> (Framing, usize) {
    let mut at = 0;
    while let Some(line_len) = find(&bytes[at..], b"\r\n") {
        let line = String::from_utf8_lossy(&bytes[at..at + line_len]).into_owned();
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            break;
        };
        let start = at + line_len + 2;
        if size == 0 {
            return read_trailers(bytes, start, trailers);
        }
        let end = start.saturating_add(size);
        if end.saturating_add(2) > bytes.len() || &bytes[end..end + 2] != b"\r\n" {
            body.extend_from_slice(&bytes[start..end.min(bytes.len())]);
            return (Framing::Broken, bytes.len());
        }
        body.extend_from_slice(&bytes[start..end]);
        at = end + 2;
    }
    (Framing::Broken, bytes.len())
}

fn read_trailers(bytes: &[u8], mut at: usize, trailers: &mut Vec<String>) -> (Framing, usize) {
    while let Some(len) = find(&bytes[at..], b"\r\n") {
        if len == 0 {
            return (Framing::Chunked, at + 2);
        }
        trailers.push(String::from_utf8_lossy(&bytes[at..at + len]).into_owned());
        at += len + 2;
    }
    (Framing::Broken, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_chunked_with_trailer_gives_body_and_trailer() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\nrest";
        let (response, used) = parse(bytes, false, false).unwrap();
        assert_eq!(response.body, b"abc");
        assert_eq!(response.trailers, ["X: y"]);
        assert_eq!(&bytes[used..], b"rest");
    }

    #[test]
    fn parse_any_prefix_without_eof_gives_nothing() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end], false, false).is_none(), "{end}");
        }
        assert!(parse(bytes, false, false).is_some());
    }

    #[test]
    fn parse_short_body_at_eof_is_broken() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok";
        assert_eq!(parse(bytes, false, true).unwrap().0.framing, Framing::Broken);
    }
}
