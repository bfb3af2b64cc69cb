//! The client's script: lines of a case file become steps.
//!
//! Called by the runner with the lines of a case, placeholders filled; calls [`crate::text`]. nginx counterpart: none.
//!
//! ```text
//! GET /uri | Host: b | Range: bytes=0-1     a whole request on a connection of its own, read until the close
//!     further parts: `port 8081`, `HTTP/1.0`, `nohost`, `keep` (no Connection: close), `body:TEXT`
//! connect 8081    a new connection (the first one, to port 8080, opens by itself)
//! > text          sends text and CRLF; escapes \r \n \t \0 \xHH
//! >> text         sends text alone
//! fill 5000 x     sends 5000 times x
//! read            waits for one whole response
//! pause 50        waits so many milliseconds
//! shut            closes the sending half
//! drop            closes without reading further
//! wait 2000       how long to wait for the server's next byte from here on (default 4000 ms)
//! ```

use std::io;
use std::time::Duration;

use crate::text::unescape;

/// One thing the client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Finishes the connection there is, and opens one to the named port.
    Connect(String),
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits for one whole response.
    Read,
    /// Waits.
    Pause(Duration),
    /// Closes the sending half.
    Shut,
    /// Closes without reading what is left.
    Drop,
    /// Sets how long to wait for the next byte.
    Wait(Duration),
}

/// Parses the lines of a script.
///
/// # Errors
/// When a line is none of the forms above.
pub fn parse(lines: &[String]) -> io::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for line in lines {
        parse_line(line, &mut steps)?;
    }
    Ok(steps)
}

fn parse_line(line: &str, steps: &mut Vec<Step>) -> io::Result<()> {
    let bad = || io::Error::other(format!("not a step of a client script: {line}"));
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let millis = || rest.trim().parse().map(Duration::from_millis).map_err(|_| bad());
    match word {
        ">" => steps.push(Step::Send([unescape(rest), b"\r\n".to_vec()].concat())),
        ">>" => steps.push(Step::Send(unescape(rest))),
        "fill" => {
            let (count, text) = rest.split_once(' ').ok_or_else(bad)?;
            let count: usize = count.parse().map_err(|_| bad())?;
            steps.push(Step::Send(unescape(text).repeat(count)));
        }
        "connect" => steps.push(Step::Connect(rest.trim().to_owned())),
        "read" => steps.push(Step::Read),
        "pause" => steps.push(Step::Pause(millis()?)),
        "wait" => steps.push(Step::Wait(millis()?)),
        "shut" => steps.push(Step::Shut),
        "drop" => steps.push(Step::Drop),
        _ if is_method(word) && !rest.is_empty() => parse_request(word, rest, steps),
        _ => return Err(bad()),
    }
    Ok(())
}

fn is_method(word: &str) -> bool {
    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

fn parse_request(method: &str, rest: &str, steps: &mut Vec<Step>) {
    let mut parts = rest.split(" | ").map(str::trim);
    let uri = parts.next().unwrap_or_default();
    let (mut port, mut version, mut headers, mut body) = ("8080", "HTTP/1.1", String::new(), None);
    let (mut host, mut close) = (true, true);
    for part in parts {
        if let Some(name) = part.strip_prefix("port ") {
            port = name;
        } else if let Some(text) = part.strip_prefix("body:") {
            body = Some(unescape(text));
        } else if part.starts_with("HTTP/") {
            version = part;
        } else if part == "nohost" {
            host = false;
        } else if part == "keep" {
            close = false;
        } else {
            host &= !part.to_ascii_lowercase().starts_with("host:");
            headers.push_str(&format!("{part}\r\n"));
        }
    }
    let mut head = format!("{method} {uri} {version}\r\n");
    if host {
        head.push_str("Host: localhost\r\n");
    }
    head.push_str(&headers);
    if let Some(body) = &body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = unescape(&head);
    bytes.extend_from_slice(&body.unwrap_or_default());
    steps.push(Step::Connect(port.to_owned()));
    steps.push(Step::Send(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_line_with_parts_gives_one_request() {
        let steps = parse(&["POST /x | X-A: 1 | body:ab | port 81".to_owned()]).unwrap();
        let wanted = "POST /x HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab";
        assert_eq!(steps, [Step::Connect("81".into()), Step::Send(wanted.into())]);
    }

    #[test]
    fn unknown_line_fails() {
        assert!(parse(&["jump 5".to_owned()]).is_err());
    }
}
