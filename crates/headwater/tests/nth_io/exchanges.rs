//! The exchanges whose operations fail, and what a client may see then.

use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use headwater_testkit::fault::client::{Client, Seen};
use headwater_testkit::fault::script::Script;
use headwater_testkit::response::Framing;

/// The server's configuration.
pub(crate) const CONF: &str = r#"
error_log error.log info;
events { worker_connections 256; }
http {
    access_log off;
    server_tokens off;
    client_body_buffer_size 8k;
    lingering_timeout 1s;
    proxy_connect_timeout 1s;
    proxy_read_timeout 1s;
    fastcgi_read_timeout 1s;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    upstream origin { server 127.0.0.1:%%A%% max_fails=0; keepalive 4; }
    server {
        listen %%PORT_8080%% sndbuf=32k;
        root html;
        location = /alive { return 204; }
        location /b/ { proxy_pass http://origin; }
        location /u/ { proxy_buffering off; proxy_pass http://origin; }
        location /t/ { proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_pass http://origin; }
        location /w/ {
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_pass http://origin;
        }
        location = /file { }
        location /sent/ { alias html/; sendfile on; tcp_nopush on; }
        location /fastcgi/ { fastcgi_pass 127.0.0.1:%%FASTCGI%%; }
        location = /auth { internal; proxy_pass http://origin/b/0/%%GOOD%%; proxy_pass_request_body off; }
        location /guarded/ { auth_request /auth; alias html/; }
        location /added/ { add_before_body /b/0/%%GOOD%%; default_type text/html; alias html/; }
    }
}
"#;

/// One kind of exchange.
pub(crate) struct Exchange {
    pub(crate) name: &'static str,
    pub(crate) uri: String,
    pub(crate) client: Client,
    /// The length of its last body when nothing fails.
    length: usize,
    /// Whether a part of the page may be an error page of its own.
    has_parts: bool,
}

/// What a client's view amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The right answer.
    Right,
    /// An error page, or an end that shows that the answer is not whole.
    Failed,
    /// Something that could be taken for the right answer, or no end at all.
    Wrong,
}

/// All exchanges.
pub(crate) fn all(scripts: &[Script]) -> Vec<Exchange> {
    let of = |name, uri: String, client, length| Exchange { name, uri, client, length, has_parts: false };
    let via = |name, mode: &str, script: &str, client, length| {
        let index = scripts.iter().position(|one| one.name == script).unwrap_or(usize::MAX);
        of(name, format!("/{mode}/1/{index}"), client, length)
    };
    let large = headwater_testkit::fault::catalogue::LARGE;
    let mut all = vec![
        via("keepalive", "b", "kept and good", Client::Twice, 6),
        via("post from a file", "b", "body taken", Client::Post(100_000), 4),
        via("chunked put from a file", "b", "body taken", Client::PutChunked(100_000), 4),
        via("temp file", "t", "large length whole", Client::Slow11, large),
        via("large through a pipe", "b", "large length whole", Client::Get11, large),
        via("large through a pipe, unbuffered", "u", "large length whole", Client::Get11, large),
        via("chunks unbuffered", "u", "large chunked whole", Client::Get11, large),
        via("chunks", "b", "chunked in two at 60", Client::Get11, 7),
        via("tunnel", "w", "tunnel echoes and closes", Client::Upgrade, 10),
        of("static file", "/file".to_owned(), Client::Get11, 200_000),
        of("static file by sendfile", "/sent/file".to_owned(), Client::Get11, 200_000),
        of("fastcgi", "/fastcgi/x".to_owned(), Client::Get11, 5),
        of("auth_request", "/guarded/main".to_owned(), Client::Get11, 14),
        of("subrequest before the body", "/added/main".to_owned(), Client::Get11, 19),
    ];
    if let Some(last) = all.last_mut() {
        last.has_parts = true;
    }
    all
}

impl Exchange {
    /// Whether this is what is seen when nothing fails.
    pub(crate) fn is_expected(&self, seen: &Seen) -> bool {
        seen.end != "timeout"
            && seen
                .responses
                .last()
                .is_some_and(|last| last.body.len() == self.length && last.framing != Framing::Broken)
    }

    /// What this view amounts to, beside the right one.
    pub(crate) fn verdict(&self, seen: &Seen, right: &Seen) -> Verdict {
        if seen.responses == right.responses && seen.end != "timeout" {
            return Verdict::Right;
        }
        if seen.end == "timeout" || seen.end == "confused" {
            return Verdict::Wrong;
        }
        for (at, answer) in seen.responses.iter().enumerate() {
            let is_right = right.responses.get(at).is_some_and(|right| right == answer);
            let status = answer.head.split(' ').nth(1).and_then(|text| text.parse::<u16>().ok()).unwrap_or(0);
            let error = status >= 400 && answer.framing != Framing::Broken;
            let broken = answer.framing == Framing::Broken;
            // A tunnel has no length: what came is a part of what was to come.
            let tunnel = self.client == Client::Upgrade
                && answer.head.is_empty()
                && right.responses.get(at).is_some_and(|right| right.body.starts_with(&answer.body));
            let parts =
                self.has_parts && answer.body.ends_with(b"the main part\n") && contains(&answer.body, b"50");
            if !(is_right || error || broken || tunnel || parts) {
                return Verdict::Wrong;
            }
        }
        Verdict::Failed
    }
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    headwater_testkit::text::find(body, part).is_some()
}

/// A FastCGI server that answers everything with `hello`.
pub(crate) fn fastcgi() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let accepting = listener.try_clone()?;
    thread::spawn(move || {
        for mut stream in accepting.incoming().flatten() {
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                // The end of standard input: an empty record of type 5.
                while !request
                    .windows(8)
                    .any(|head| head[0] == 1 && head[1] == 5 && head[4] == 0 && head[5] == 0)
                {
                    match stream.read(&mut buffer) {
                        Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                }
                let text = b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
                let mut answer = vec![1, 6, 0, 1, 0, u8::try_from(text.len()).unwrap_or_default(), 0, 0];
                answer.extend_from_slice(text);
                answer.extend_from_slice(&[1, 6, 0, 1, 0, 0, 0, 0]);
                answer.extend_from_slice(&[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                let _ = stream.write_all(&answer);
            });
        }
    });
    Ok(listener)
}
