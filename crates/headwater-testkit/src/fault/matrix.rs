//! The cells: which script meets which location and which client.
//!
//! Called by the fault tests; calls `catalogue`'s data only. nginx counterpart: none.

use super::client::Client;
use super::script::{Kind, Script};

/// One exchange.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The location.
    pub mode: &'static str,
    /// Who asks.
    pub client: Client,
    /// Which script, by its place in the catalogue.
    pub script: usize,
    /// For messages.
    pub name: String,
}

/// The configuration. A location's name says: `b` buffered, `u` unbuffered, `t` buffered with little memory, `w` for tunnels, `n` request
/// bodies unbuffered; 1 without another attempt, 2 with a second peer.
pub const CONF: &str = r#"
error_log error.log info;
events { worker_connections 1024; }
http {
    access_log off;
    server_tokens off;
    client_max_body_size 0;
    client_body_buffer_size 8k;
    lingering_timeout 1s;
    proxy_connect_timeout 400ms;
    proxy_send_timeout 400ms;
    proxy_read_timeout 400ms;
    proxy_http_version 1.1;
    proxy_set_header Connection close;
    proxy_next_upstream off;
    error_page 502 /e502;
    error_page 504 /e504;
    error_page 500 /e500;
    upstream pair {
        server 127.0.0.1:%%A%% max_fails=0; server 127.0.0.1:%%B%% max_fails=0 backup; %%NOT_KEPT%%
    }
    upstream dead {
        server 127.0.0.1:%%DEAD%% max_fails=0; server 127.0.0.1:%%B%% max_fails=0 backup; %%NOT_KEPT%%
    }
    upstream stuck {
        server 127.0.0.1:%%STUCK%% max_fails=0; server 127.0.0.1:%%B%% max_fails=0 backup; %%NOT_KEPT%%
    }
    upstream kept {
        server 127.0.0.1:%%A%% max_fails=0; server 127.0.0.1:%%B%% max_fails=0 backup; keepalive 4;
    }
    server {
        listen %%PORT_8080%% sndbuf=32k;
        location = /e502 { internal; return 502 "bad gateway\n"; }
        location = /e504 { internal; return 504 "gateway timeout\n"; }
        location = /e500 { internal; return 500 "internal error\n"; }
        location = /alive { return 204; }
        location /b1/ { proxy_pass http://pair; }
        location /b2/ { %%NEXT%% proxy_pass http://pair; }
        location /u1/ { proxy_buffering off; proxy_pass http://pair; }
        location /u2/ { %%NEXT%% proxy_buffering off; proxy_pass http://pair; }
        location /t1/ { proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_pass http://pair; }
        location /t2/ { %%NEXT%% proxy_buffers 4 4k; proxy_busy_buffers_size 8k; proxy_pass http://pair; }
        location /n1/ { proxy_request_buffering off; proxy_pass http://pair; }
        location /n2/ { %%NEXT%% proxy_request_buffering off; proxy_pass http://pair; }
        location /dead1/ { proxy_pass http://dead; }
        location /dead2/ { %%NEXT%% proxy_pass http://dead; }
        location /stuck1/ { proxy_pass http://stuck; }
        location /stuck2/ { %%NEXT%% proxy_pass http://stuck; }
        location /k1/ { proxy_set_header Connection ""; proxy_pass http://kept; }
        location /k2/ { %%NEXT%% proxy_set_header Connection ""; proxy_pass http://kept; }
        location /ku2/ { %%NEXT%% proxy_buffering off; proxy_set_header Connection ""; proxy_pass http://kept; }
        location /w1/ {
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_pass http://pair;
        }
        location /w2/ {
            %%NEXT%% proxy_buffering off;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_pass http://pair;
        }
    }
}
"#;

/// What stands for `%%NEXT%%` in the configuration.
pub const NEXT: &str =
    "proxy_next_upstream error timeout invalid_header http_502 non_idempotent; proxy_next_upstream_tries 2;";

/// The cells of some kinds.
#[must_use]
pub fn cells(scripts: &[Script], kinds: &[Kind]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (index, script) in scripts.iter().enumerate().filter(|(_, script)| kinds.contains(&script.kind)) {
        for mode in modes(script.kind) {
            for client in clients(script.kind, mode) {
                let name = format!("{mode} {client:?} {}", script.name);
                cells.push(Cell { mode, client: *client, script: index, name });
            }
        }
    }
    if kinds.contains(&Kind::Odd) {
        for mode in ["dead1", "dead2", "stuck1", "stuck2"] {
            for client in [Client::Get11, Client::Get10, Client::Post(10), Client::Post(100_000)] {
                cells.push(Cell { mode, client, script: 0, name: format!("{mode} {client:?} good") });
            }
        }
    }
    cells
}

fn modes(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Cut | Kind::Odd => &["b1", "b2", "u1", "u2"],
        Kind::Tunnel => &["w1", "w2"],
        Kind::Large => &["b1", "u1", "u2", "t1", "t2"],
        Kind::Body => &["b1", "b2", "u2", "n1", "n2"],
        Kind::Keep => &["k1", "k2", "ku2"],
    }
}

fn clients(kind: Kind, mode: &str) -> &'static [Client] {
    match kind {
        Kind::Cut | Kind::Odd => &[Client::Get11, Client::Get10],
        Kind::Tunnel => &[Client::Upgrade],
        Kind::Large if mode == "b1" => &[Client::Get11, Client::Get10],
        Kind::Large => &[Client::Slow11, Client::Slow10],
        Kind::Body => {
            &[Client::Post(10), Client::Post(100_000), Client::Post(8_000_000), Client::PutChunked(100_000)]
        }
        Kind::Keep => &[Client::Twice],
    }
}
