//! The scripts: every way in which a back end may fail that tests can play.
//!
//! Called by the fault tests; calls nothing. nginx counterpart: none.

use std::time::Duration;

use super::script::{Act, Kind, Script};

/// Length of a large body, bytes.
pub const LARGE: usize = 600_000;

const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-A: b\r\n\r\nabcdef";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;e=1\r\ndefg\r\n0\r\nT: v\r\n\r\n";
const CLOSED: &[u8] = b"HTTP/1.0 404 Not here\r\nX-A: b\r\n\r\nabcdef";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello";

/// All scripts.
#[must_use]
pub fn all() -> Vec<Script> {
    let mut all = vec![Script::new(Kind::Cut, "good", answer(super::backend::GOOD))];
    for (name, whole) in [("length", LENGTH), ("chunked", CHUNKED), ("close", CLOSED)] {
        cuts(&mut all, Kind::Cut, name, whole);
        for at in 1..whole.len() {
            let (first, second) = whole.split_at(at);
            let acts = [write(first), Act::Pause(Duration::from_millis(2)), write(second)];
            all.push(Script::new(Kind::Cut, format!("{name} in two at {at}"), asked(&acts)));
        }
    }
    cuts(&mut all, Kind::Tunnel, "tunnel", SWITCH);
    tunnels(&mut all);
    silences(&mut all);
    heads(&mut all);
    lengths(&mut all);
    large(&mut all);
    bodies(&mut all);
    keep(&mut all);
    all
}

fn write(bytes: &[u8]) -> Act {
    Act::Write(bytes.to_vec())
}

/// The acts after the request's body was read.
fn asked(acts: &[Act]) -> Vec<Act> {
    let mut all = vec![Act::ReadBody];
    all.extend_from_slice(acts);
    all
}

fn answer(bytes: &[u8]) -> Vec<Act> {
    asked(&[write(bytes)])
}

/// Closes and resets after every byte.
fn cuts(all: &mut Vec<Script>, kind: Kind, name: &str, whole: &[u8]) {
    for at in 0..=whole.len() {
        let part = write(&whole[..at]);
        all.push(Script::new(kind, format!("{name} closed at {at}"), asked(std::slice::from_ref(&part))));
        let reset = asked(&[part, Act::Pause(Duration::from_millis(1)), Act::Reset]);
        all.push(Script::new(kind, format!("{name} reset at {at}"), reset));
    }
}

fn tunnels(all: &mut Vec<Script>) {
    let mut add = |name: &str, acts: &[Act]| all.push(Script::new(Kind::Tunnel, name, asked(acts)));
    let pause = Act::Pause(Duration::from_millis(20));
    add("tunnel echoes and closes", &[write(SWITCH), Act::Echo(5)]);
    add("tunnel echoes and resets", &[write(SWITCH), Act::Echo(5), pause.clone(), Act::Reset]);
    add("tunnel hangs", &[write(SWITCH), Act::Hang]);
    add("tunnel hangs after echo", &[write(SWITCH), Act::Echo(5), Act::Hang]);
    add("tunnel is refused", &[write(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")]);
    add("tunnel 101 without upgrade", &[write(b"HTTP/1.1 101 Maybe\r\n\r\nx"), pause]);
    let mut long = SWITCH.to_vec();
    long.extend(pattern(LARGE));
    add("tunnel sends much", &[write(&long), Act::Echo(5)]);
}

fn silences(all: &mut Vec<Script>) {
    let mut add = |name: &str, acts: &[Act]| all.push(Script::new(Kind::Odd, name, asked(acts)));
    add("silent", &[Act::Hang]);
    add("silent in the status line", &[write(b"HTTP/1.1 20"), Act::Hang]);
    add("silent in the head", &[write(b"HTTP/1.1 200 OK\r\nContent-Le"), Act::Hang]);
    add("silent before the body", &[write(&LENGTH[..LENGTH.len() - 6]), Act::Hang]);
    add("silent in the body", &[write(&LENGTH[..LENGTH.len() - 3]), Act::Hang]);
    add("silent in a chunk", &[write(&CHUNKED[..CHUNKED.len() - 20]), Act::Hang]);
    add("silent before the last chunk", &[write(&CHUNKED[..CHUNKED.len() - 11]), Act::Hang]);
    add("silent until the close", &[write(CLOSED), Act::Hang]);
    add("silent after all", &[write(LENGTH), Act::Hang]);
    add("silent after all chunks", &[write(CHUNKED), Act::Hang]);
    add("silent after the interim", &[write(b"HTTP/1.1 100 Continue\r\n\r\n"), Act::Hang]);
}

fn heads(all: &mut Vec<Script>) {
    let mut add = |name: &str, bytes: &[u8]| all.push(Script::new(Kind::Odd, name, answer(bytes)));
    let wide = |length: usize| {
        let mut head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Wide: ".to_vec();
        head.extend(std::iter::repeat_n(b'w', length));
        head.extend_from_slice(b"\r\n\r\nok");
        head
    };
    add("head nearly too big", &wide(3000));
    add("head too big", &wide(5000));
    add("head much too big", &wide(300_000));
    add("garbage", b"\x00\x01\x02garbage\r\n\r\n");
    add("garbage like a head", b"HTTP/x.y abc\r\n\r\n");
    add("tls", b"\x16\x03\x01\x00\x05hello");
    add("http 0.9", b"<html>old</html>");
    add("empty lines", b"\r\n\r\n\r\n");
    add("header without colon", b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok");
    add("header with null", b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok");
    add("folded header", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok");
    add("status of two digits", b"HTTP/1.1 20 OK\r\n\r\n");
    add("status 000", b"HTTP/1.1 000 Zero\r\nContent-Length: 2\r\n\r\nok");
    add("status 999", b"HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok");
    add("status 204 with a body", b"HTTP/1.1 204 None\r\nContent-Length: 2\r\n\r\nok");
    add("status 304 with a body", b"HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\nok");
    add("status 502", b"HTTP/1.1 502 Theirs\r\nContent-Length: 2\r\n\r\nok");
    add("status 504", b"HTTP/1.1 504 Theirs\r\nContent-Length: 2\r\n\r\nok");
    add("one interim", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    add("interim only", b"HTTP/1.1 100 Continue\r\n\r\n");
    add("hints", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    add("unasked 101", b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbytes");
    add("bare line feeds", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok");
    let endless = [Act::Endless(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())];
    all.push(Script::new(Kind::Odd, "endless interims", asked(&endless)));
    let endless = [write(b"HTTP/1.1 200 OK\r\n"), Act::Endless(b"X-More: and more\r\n".to_vec())];
    all.push(Script::new(Kind::Odd, "endless head", asked(&endless)));
}

fn lengths(all: &mut Vec<Script>) {
    let mut add = |name: &str, headers: &str, body: &str| {
        let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{body}");
        all.push(Script::new(Kind::Odd, name, answer(text.as_bytes())));
    };
    add("longer than said", "Content-Length: 3", "abcdef");
    add("much longer than said", "Content-Length: 3", &"x".repeat(100_000));
    add("shorter than said", "Content-Length: 10", "abc");
    add("body of nothing", "Content-Length: 0", "abc");
    add("negative length", "Content-Length: -1", "abc");
    add("length with plus", "Content-Length: +3", "abc");
    add("length no number", "Content-Length: many", "abc");
    add("length empty", "Content-Length: ", "abc");
    add("huge length", "Content-Length: 9223372036854775807", "abc");
    add("length over 64 bits", "Content-Length: 99999999999999999999999", "abc");
    add("two equal lengths", "Content-Length: 3\r\nContent-Length: 3", "abc");
    add("two lengths", "Content-Length: 3\r\nContent-Length: 4", "abcd");
    add("length and chunks", "Content-Length: 3\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n");
    add("unknown coding", "Transfer-Encoding: gzip", "abc");
    add("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n");
    add("no chunk", "Transfer-Encoding: chunked", "");
    add("bad chunk size", "Transfer-Encoding: chunked", "zz\r\nabc\r\n0\r\n\r\n");
    add("bad second chunk", "Transfer-Encoding: chunked", "3\r\nabc\r\nq\r\n");
    add("huge chunk", "Transfer-Encoding: chunked", "7fffffffffffffff\r\nabc");
    add("chunk over 64 bits", "Transfer-Encoding: chunked", "fffffffffffffffffff\r\nabc");
    add("negative chunk", "Transfer-Encoding: chunked", "-3\r\nabc\r\n0\r\n\r\n");
    add("chunk without end", "Transfer-Encoding: chunked", "3\r\nabcdef\r\n0\r\n\r\n");
    add("data after the last chunk", "Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\nmore");
    add("trailers without end", "Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\nT: v\r\n");
    add("length on close", "Connection: close\r\nContent-Length: 3", "abc");
}

/// Bytes that tell where they stand.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + u8::try_from((at / 97 + at % 23) % 26).unwrap_or_default()).collect()
}

fn large(all: &mut Vec<Script>) {
    let body = pattern(LARGE);
    let half = &body[..LARGE / 2];
    let framed = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").into_bytes();
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{LARGE:x}\r\n").into_bytes();
    let closing = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    for (name, head, end) in
        [("length", framed, &b""[..]), ("chunked", chunked, b"\r\n0\r\n\r\n"), ("close", closing, b"")]
    {
        let mut add = |what: &str, acts: &[Act]| {
            all.push(Script::new(Kind::Large, format!("large {name} {what}"), asked(acts)));
        };
        let (head, pause) = (write(&head), Act::Pause(Duration::from_millis(30)));
        add("whole", &[head.clone(), write(&body), write(end)]);
        add("cut", &[head.clone(), write(half)]);
        add("reset", &[head.clone(), write(half), pause, Act::Reset]);
        add("hangs", &[head.clone(), write(half), Act::Hang]);
        add("goes wrong", &[head, write(&body), write(b"\r\nzz\r\n")]);
    }
}

fn bodies(all: &mut Vec<Script>) {
    let mut add = |name: &str, acts: &[Act]| all.push(Script::new(Kind::Body, name, acts.to_vec()));
    let good = write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntook");
    let early = write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    let pause = Act::Pause(Duration::from_millis(30));
    add("body taken", &[Act::ReadBody, good]);
    add("body taken, closed", &[Act::ReadBody]);
    add("body taken, reset", &[Act::ReadBody, Act::Reset]);
    add("body taken, silent", &[Act::ReadBody, Act::Hang]);
    add("body never read", &[Act::Hang]);
    add("body refused at once", &[early.clone(), Act::Hang]);
    add("body refused in the middle", &[Act::ReadSome(2), early, Act::Hang]);
    add("body reset at once", &[Act::Reset]);
    add("body reset in the middle", &[Act::ReadSome(2), pause, Act::Reset]);
}

fn keep(all: &mut Vec<Script>) {
    let mut add = |name: &str, next: &[Act]| {
        let first = asked(&[write(LENGTH), Act::Next]);
        all.push(Script { name: name.to_owned(), kind: Kind::Keep, acts: first, next: next.to_vec() });
    };
    add("kept and good", &[write(LENGTH)]);
    add("kept and closed", &[]);
    add("kept and reset", &[Act::Reset]);
    add("kept and cut in the head", &[write(&LENGTH[..20])]);
    add("kept and cut in the body", &[write(&LENGTH[..LENGTH.len() - 2])]);
    add("kept and silent", &[Act::Hang]);
    add("kept and garbage", &[write(b"garbage\r\n\r\n")]);
    let extra = [write(LENGTH), write(b"HTTP/1.1 200 OK\r\n\r\nforged"), Act::Next];
    all.push(Script::new(Kind::Keep, "kept with more behind it", asked(&extra)));
    let later = asked(&[write(LENGTH), Act::Pause(Duration::from_millis(2))]);
    all.push(Script::new(Kind::Keep, "closed while idle", later));
}
