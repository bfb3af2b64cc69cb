//! What a scripted origin answers to what.
//!
//! Called by the case parser and the origin; calls [`crate::text`] and [`super::fastcgi`]. nginx counterpart: none.
//!
//! ```text
//! tls server 1.3    (before the first `on`) speaks TLS with a certificate, see [`super::tls::TlsOptions`]; `on accept` comes before the handshake
//! on accept         acts at the start of each connection, before anything is read
//! on /path          acts for a request whose target (FastCGI, SCGI, uwsgi: parameters; memcached: line) contains the text; `on *` for any
//! < text            sends text and CRLF
//! << text           sends text alone
//! stdout text       sends text in a FastCGI record; `stderr text` likewise, `end` sends the record that ends a request
//! fill 5000 x       sends 5000 times x
//! stream 1000000    sends so many bytes without holding them in memory
//! pause 50          waits so many milliseconds
//! nobody            (first) answers without reading the request body
//! discard           (first) reads a body of known length without keeping it
//! keep              goes on with the next request of the connection; without it the connection closes
//! cut               closes a TLS connection without saying so
//! reset             ends the connection with RST
//! echo              sends back whatever comes (for a tunnel)
//! ```
//!
//! Rules for the same path are used one after the other; the last one repeats.

use std::io;
use std::time::Duration;

use super::fastcgi;
use super::tls::TlsOptions;
use crate::text::unescape;

/// One thing an origin does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Sends so many bytes, a piece at a time.
    Stream(u64),
    /// Waits.
    Pause(Duration),
    /// Leaves the request body unread.
    NoBody,
    /// Reads the request body without keeping it.
    Discard,
    /// Keeps the connection for another request.
    Keep,
    /// Closes a TLS connection without saying so.
    Cut,
    /// Ends the connection with RST.
    Reset,
    /// Sends back whatever comes.
    Echo,
}

/// The rules of one origin.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// Whether and how the origin speaks TLS.
    pub tls: Option<TlsOptions>,
}

#[derive(Clone, Debug)]
struct Rule {
    path: String,
    acts: Vec<Act>,
    used: bool,
}

impl Rules {
    /// Parses the lines of an origin's section.
    ///
    /// # Errors
    /// When a line is none of the forms above.
    pub fn parse(lines: &[String]) -> io::Result<Self> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut tls = None;
        for line in lines.iter().filter(|line| !line.trim().is_empty()) {
            if let Some(path) = line.strip_prefix("on ") {
                rules.push(Rule { path: path.trim().to_owned(), acts: Vec::new(), used: false });
                continue;
            }
            if let (true, Some(options)) = (rules.is_empty(), line.strip_prefix("tls ")) {
                tls = Some(TlsOptions::parse(options));
                continue;
            }
            let act = parse_act(line)
                .ok_or_else(|| io::Error::other(format!("not an act of an origin: {line}")))?;
            let rule = rules.last_mut().ok_or_else(|| io::Error::other("an act before the first `on`"))?;
            match (rule.acts.last_mut(), act) {
                // One write: otherwise it is a race whether the server under test sees the first line alone.
                (Some(Act::Send(before)), Act::Send(bytes)) => before.extend(bytes),
                (_, act) => rule.acts.push(act),
            }
        }
        Ok(Self { rules, tls })
    }

    /// The acts for the start of a connection.
    pub fn on_accept(&mut self) -> Vec<Act> {
        self.take(|path| path == "accept")
    }

    /// The acts for a request; a plain 200 and a close when no rule fits.
    pub fn choose(&mut self, request_line: &str) -> Vec<Act> {
        let acts = self.take(|path| path != "accept" && path != "*" && request_line.contains(path));
        let acts = if acts.is_empty() { self.take(|path| path == "*") } else { acts };
        if acts.is_empty() {
            // Closing, and saying so, keeps cases independent of what is pooled by default.
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            return vec![Act::Send(answer.to_vec())];
        }
        acts
    }

    /// Of the longest path that fits, the first unused rule, else the last one.
    fn take(&mut self, fits: impl Fn(&str) -> bool) -> Vec<Act> {
        let mut found: Vec<&mut Rule> = self.rules.iter_mut().filter(|rule| fits(&rule.path)).collect();
        let Some(longest) = found.iter().map(|rule| rule.path.clone()).max_by_key(String::len) else {
            return Vec::new();
        };
        found.retain(|rule| rule.path == longest);
        let last = found.len() - 1;
        let at = found.iter().position(|rule| !rule.used).unwrap_or(last);
        found[at].used = true;
        found[at].acts.clone()
    }
}

fn parse_act(line: &str) -> Option<Act> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    Some(match word {
        "<" => Act::Send([unescape(rest), b"\r\n".to_vec()].concat()),
        "<<" => Act::Send(unescape(rest)),
        "stdout" => Act::Send(fastcgi::stdout(&unescape(rest))),
        "stderr" => Act::Send(fastcgi::stderr(&unescape(rest))),
        "end" => Act::Send(fastcgi::end()),
        "fill" => {
            let (count, text) = rest.split_once(' ')?;
            Act::Send(unescape(text).repeat(count.parse().ok()?))
        }
        "pause" => Act::Pause(Duration::from_millis(rest.trim().parse().ok()?)),
        "stream" => Act::Stream(rest.trim().parse().ok()?),
        "nobody" => Act::NoBody,
        "discard" => Act::Discard,
        "keep" => Act::Keep,
        "cut" => Act::Cut,
        "reset" => Act::Reset,
        "echo" => Act::Echo,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_pause_are_sent_at_once() {
        let lines: Vec<String> = ["on /a", "<< 1", "<< 2", "pause 5", "<< 3"].map(str::to_owned).to_vec();
        let said = Rules::parse(&lines).unwrap().choose("GET /a HTTP/1.1");
        let pause = Act::Pause(Duration::from_millis(5));
        assert_eq!(said, [Act::Send(b"12".into()), pause, Act::Send(b"3".into())]);
    }

    #[test]
    fn rules_for_one_path_are_used_in_turn_and_the_last_repeats() {
        let lines: Vec<String> = ["on /a", "<< 1", "on /a", "<< 2"].map(str::to_owned).to_vec();
        let mut rules = Rules::parse(&lines).unwrap();
        let said: Vec<_> = (0..3).map(|_| rules.choose("GET /a HTTP/1.1")).collect();
        assert_eq!(said, [[Act::Send(b"1".into())], [Act::Send(b"2".into())], [Act::Send(b"2".into())]]);
    }
}
