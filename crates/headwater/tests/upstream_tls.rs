//! Back ends with TLS that are real programs: nginx, `openssl s_server` and uWSGI.
//!
//! Runs headwater (or `SUBJECT`) on loopback with free ports, the oracle nginx, `openssl` and uWSGI (Debian's `openssl`, `uwsgi`, `uwsgi-plugin-python3`); all
//! end with the test. What scripted origins can show is in `tests/differential/tls`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use headwater_testkit::program::Program;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::template::Template;
use headwater_testkit::{certificates, oracle, subject};

const BACK: &str = r#"
events { worker_connections 512; }
http {
    access_log off;
    client_max_body_size 100m;
    keepalive_requests 1000000;
    ssl_certificate %%TLS%%/server.pem;
    ssl_certificate_key %%TLS%%/server.key;
    ssl_client_certificate %%TLS%%/ca.pem;
    ssl_verify_client optional;
    ssl_session_cache shared:S:1m;
    server {
        listen 127.0.0.1:%%PORT_BACK%% ssl;
        server_name localhost;
        root html;
        location = /about {
            return 200 "name=$ssl_server_name reused=$ssl_session_reused protocol=$ssl_protocol cipher=$ssl_cipher client=$ssl_client_s_dn verify=$ssl_client_verify requests=$connection_requests\n";
        }
        location /put/ { dav_methods PUT; create_full_put_path on; }
    }
    server {
        listen 127.0.0.1:%%PORT_BACK12%% ssl;
        ssl_protocols TLSv1.2;
        location / { return 200 "reused=$ssl_session_reused protocol=$ssl_protocol cipher=$ssl_cipher\n"; }
    }
    server {
        listen 127.0.0.1:%%PORT_STRICT%% ssl;
        ssl_verify_client on;
        location / { return 200 "client=$ssl_client_s_dn\n"; }
    }
}
"#;

const FRONT: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    client_max_body_size 100m;
    upstream kept { server 127.0.0.1:%%PORT_BACK%%; keepalive 8; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        server_name localhost;
        proxy_ssl_trusted_certificate %%TLS%%/ca.pem;
        proxy_ssl_name example.test;
        location / { proxy_pass https://127.0.0.1:%%PORT_BACK%%; }
        location /verified/ { proxy_ssl_verify on; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /wrong/ { proxy_ssl_verify on; proxy_ssl_name wrong.test; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /named/ { proxy_ssl_server_name on; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /kept/ { proxy_pass https://kept/; }
        location /once/ { proxy_set_header Connection close; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /fresh/ { proxy_set_header Connection close; proxy_ssl_session_reuse off; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /old/ { proxy_set_header Connection close; proxy_pass https://127.0.0.1:%%PORT_BACK12%%/; }
        location /only13/ { proxy_ssl_protocols TLSv1.3; proxy_pass https://127.0.0.1:%%PORT_BACK12%%/; }
        location /cipher/ { proxy_ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256; proxy_pass https://127.0.0.1:%%PORT_BACK12%%/; }
        location /nobody/ { proxy_pass https://127.0.0.1:%%PORT_STRICT%%/; }
        location /client/ { proxy_ssl_certificate %%TLS%%/client.pem; proxy_ssl_certificate_key %%TLS%%/client-pkcs8.key; proxy_ssl_password_file %%TLS%%/passwords; proxy_pass https://127.0.0.1:%%PORT_STRICT%%/; }
        location /unbuffered/ { proxy_buffering off; proxy_request_buffering off; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /server/ { proxy_pass https://127.0.0.1:%%PORT_OPENSSL%%/; }
        location /logged/ { proxy_ssl_key_log keys.log; proxy_pass https://127.0.0.1:%%PORT_BACK%%/; }
        location /uwsgi/ { include uwsgi.conf; uwsgi_pass suwsgi://127.0.0.1:%%PORT_UWSGI%%; }
        location /uwsgi/verified/ { include uwsgi.conf; uwsgi_ssl_verify on; uwsgi_ssl_name localhost; uwsgi_ssl_trusted_certificate %%TLS%%/ca.pem; uwsgi_pass suwsgi://127.0.0.1:%%PORT_UWSGI%%; }
        location /uwsgi/wrong/ { include uwsgi.conf; uwsgi_ssl_verify on; uwsgi_ssl_name wrong.test; uwsgi_ssl_trusted_certificate %%TLS%%/ca.pem; uwsgi_pass suwsgi://127.0.0.1:%%PORT_UWSGI%%; }
    }
}
"#;

const UWSGI_CONF: &str = "uwsgi_param REQUEST_METHOD $request_method;\nuwsgi_param PATH_INFO $document_uri;\n\
    uwsgi_param QUERY_STRING $query_string;\nuwsgi_param SERVER_NAME localhost;\nuwsgi_param SERVER_PORT 80;\n\
    uwsgi_param SERVER_PROTOCOL $server_protocol;\nuwsgi_param CONTENT_LENGTH $content_length;\n";

const APPLICATION: &str = r#"
def application(env, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    body = env['wsgi.input'].read()
    return [env['PATH_INFO'].encode(), b' ', str(len(body)).encode()]
"#;

struct Stage {
    server: Server,
    back: Server,
    port: u16,
    ports: Template,
    certificates: PathBuf,
    _dirs: [TempDir; 2],
}

impl Stage {
    fn new() -> Stage {
        let (front_dir, back_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let certificates = certificates::directory().unwrap();
        let mut template = Template::new(back_dir.path());
        template.set("TLS", certificates.display());
        fs::create_dir_all(back_dir.path().join("html")).unwrap();
        let back_port = template.port("BACK").unwrap();
        let back =
            Server::start(&oracle::nginx().unwrap(), BACK, &mut template, back_port, Mode::Single).unwrap();
        let mut ports = Template::new(front_dir.path());
        ports.set("TLS", certificates.display());
        for name in ["PORT_BACK", "PORT_BACK12", "PORT_STRICT"] {
            ports.set(name, template.fill(&format!("%%{name}%%")).unwrap());
        }
        fs::write(front_dir.path().join("uwsgi.conf"), UWSGI_CONF).unwrap();
        let port = ports.port("8080").unwrap();
        let binary = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).unwrap().path;
        let server = Server::start(&binary, FRONT, &mut ports, port, Mode::Master).unwrap();
        Stage { server, back, port, ports, certificates, _dirs: [front_dir, back_dir] }
    }

    fn port_of(&mut self, name: &str) -> u16 {
        self.ports.port(name).unwrap()
    }

    /// The whole answer to a request of these lines.
    fn ask(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn get(&self, target: &str) -> String {
        String::from_utf8_lossy(&self.ask(&format!("GET {target} HTTP/1.0"), b"")).into_owned()
    }

    #[track_caller]
    fn has(&self, target: &str, parts: &[&str]) {
        let answer = self.get(target);
        for part in parts {
            assert!(answer.contains(part), "no {part:?} in\n{answer}\n{}", self.server.read("error.log"));
        }
    }

    /// A program that speaks TLS on the port of this name.
    fn openssl(&mut self, certificate: &str, args: &[&str]) -> Program {
        let port = self.port_of("OPENSSL");
        let mut command = Command::new("openssl");
        command.current_dir(&self.certificates).args(["s_server", "-www", "-accept", &port.to_string()]);
        command
            .args(["-cert", &format!("{certificate}.pem"), "-key", &format!("{certificate}.key")])
            .args(args);
        Program::on_port(&mut command, port).unwrap()
    }
}

fn body(answer: &[u8]) -> &[u8] {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    &answer[at..]
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|number| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

#[test]
fn nginx_behind_tls_sees_names_versions_and_certificates() {
    let stage = Stage::new();
    stage.has("/about", &["name= ", "protocol=TLSv1.3", "client= verify=NONE"]);
    stage.has("/verified/about", &["200 OK", "name= "]);
    stage.has("/named/about", &["name=example.test "]);
    stage.has("/old/", &["protocol=TLSv1.2"]);
    stage.has("/cipher/", &["cipher=ECDHE-RSA-AES128-GCM-SHA256"]);
    stage.has("/client/", &["client=CN=the client"]);
    stage.has("/nobody/", &["400 Bad Request", "No required SSL certificate was sent"]);
    stage.has("/wrong/about", &["502 Bad Gateway"]);
    stage.has("/only13/", &["502 Bad Gateway"]);
    let log = stage.server.read("error.log");
    assert!(
        log.contains(
            "upstream SSL certificate does not match \"wrong.test\" while SSL handshaking to upstream"
        ),
        "{log}"
    );
    assert!(log.contains("SSL_do_handshake() failed (SSL: "), "{log}");
}

#[test]
fn nginx_behind_tls_resumes_sessions_unless_told_not_to() {
    let stage = Stage::new();
    for target in ["/once/about", "/old/"] {
        // Each worker shares what the others have learned.
        stage.has(target, &["reused=. "]);
        for _ in 0..4 {
            stage.has(target, &["reused=r "]);
        }
    }
    for _ in 0..3 {
        stage.has("/fresh/about", &["reused=. "]);
    }
}

#[test]
fn connections_with_tickets_waiting_in_them_are_kept_and_move_between_workers() {
    let stage = Stage::new();
    let count = |answer: &str| -> u32 {
        let number = answer.rsplit("requests=").next().unwrap_or_default();
        number.trim().parse().unwrap_or_else(|_| panic!("{answer}"))
    };
    let counts: Vec<u32> = (0..40).map(|_| count(&stage.get("/kept/about"))).collect();
    assert_eq!(counts, (1..=40).collect::<Vec<u32>>(), "one connection carries all of them");
    // Long enough for the pool to be looked over.
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(count(&stage.get("/kept/about")), 41);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    stage.has("/kept/about", &["200 OK", "reused="]);
                }
            });
        }
    });
    assert_eq!(stage.server.read("error.log").matches("[error]").count(), 0);
}

#[test]
fn large_bodies_come_through_unchanged_both_ways() {
    const SIZE: usize = 64 << 20;
    let stage = Stage::new();
    let sent = bytes(SIZE);
    fs::write(stage.back.dir().join("html/large"), &sent).unwrap();
    for place in ["", "/unbuffered"] {
        let got = stage.ask(&format!("GET {place}/large HTTP/1.0"), b"");
        assert!(body(&got) == sent, "{place}: {} bytes", body(&got).len());
        let head = format!("PUT {place}/put/file{} HTTP/1.1\r\nContent-Length: {SIZE}", place.len());
        let answer = String::from_utf8_lossy(&stage.ask(&head, &sent)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let stored = fs::read(stage.back.dir().join(format!("html/put/file{}", place.len()))).unwrap();
        assert!(stored == sent, "{place}: {} bytes stored", stored.len());
    }
}

#[test]
fn large_chunked_body_that_streams_is_stored_unchanged() {
    let stage = Stage::new();
    let sent = bytes(5_000_000);
    let mut chunked = Vec::new();
    for piece in sent.chunks(70_001) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = stage.ask("PUT /unbuffered/put/chunked HTTP/1.1\r\nTransfer-Encoding: chunked", &chunked);
    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    assert!(fs::read(stage.back.dir().join("html/put/chunked")).unwrap() == sent);
}

#[test]
fn a_slow_client_gets_all_of_a_large_response() {
    const SIZE: usize = 8 << 20;
    let stage = Stage::new();
    let sent = bytes(SIZE);
    fs::write(stage.back.dir().join("html/large"), &sent).unwrap();
    for place in ["", "/unbuffered"] {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.port)).unwrap();
        let head = format!("GET {place}/large HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut got = Vec::new();
        let mut piece = vec![0; 300_000];
        loop {
            thread::sleep(Duration::from_millis(5));
            match stream.read(&mut piece).unwrap() {
                0 => break,
                length => got.extend_from_slice(&piece[..length]),
            }
        }
        assert!(body(&got) == sent, "{place}: {} bytes", body(&got).len());
    }
}

#[test]
fn openssl_server_is_spoken_to_in_both_versions_and_with_all_kinds_of_keys() {
    let mut stage = Stage::new();
    for (certificate, args, wanted) in [
        ("server", &["-tls1_3"][..], "TLSv1.3"),
        ("server", &["-tls1_2"][..], "TLSv1.2"),
        ("ec", &["-tls1_2"][..], "ECDHE-ECDSA-"),
        ("ec", &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"][..], "ECDHE-ECDSA-CHACHA20-POLY1305"),
        ("rsa4096", &["-groups", "P-384"][..], "TLSv1.3"),
        ("ed25519", &[][..], "TLSv1.3"),
        ("v1", &[][..], "TLSv1.3"),
        ("v1", &["-tls1_2"][..], "TLSv1.2"),
    ] {
        let _openssl = stage.openssl(certificate, args);
        stage.has("/server/", &["HTTP/1.1 200", wanted]);
    }
}

#[test]
fn openssl_server_with_old_ciphers_only_is_refused_with_a_line_in_the_log() {
    let mut stage = Stage::new();
    let _openssl = stage.openssl("server", &["-tls1_2", "-cipher", "AES256-SHA"]);
    stage.has("/server/", &["502 Bad Gateway"]);
    let log = stage.server.read("error.log");
    assert!(log.contains("SSL_do_handshake() failed (SSL: received fatal alert: HandshakeFailure) while SSL handshaking to upstream"), "{log}");
}

#[test]
fn a_missing_certificate_that_is_noticed_late_fails_with_a_line_in_the_log() {
    let mut stage = Stage::new();
    let _openssl =
        stage.openssl("server", &["-tls1_3", "-Verify", "2", "-verify_return_error", "-CAfile", "ca.pem"]);
    stage.has("/server/", &["502 Bad Gateway"]);
    let log = stage.server.read("error.log");
    // In TLS 1.3 the handshake is over for the client before the server looks at its certificate.
    let alert = log.contains("SSL_read() failed (SSL: received fatal alert: CertificateRequired)");
    let reset = log.contains("recv() failed (104: Connection reset by peer)");
    assert!(alert || reset, "{log}");
}

#[test]
fn secrets_are_logged_where_that_is_asked_for() {
    let stage = Stage::new();
    stage.has("/logged/about", &["200 OK"]);
    let log = stage.server.read("keys.log");
    assert!(
        log.contains("CLIENT_TRAFFIC_SECRET_0 ") && log.contains("SERVER_HANDSHAKE_TRAFFIC_SECRET "),
        "{log}"
    );
    let mut words = log.lines().next().unwrap_or_default().split(' ').skip(1).map(str::len);
    assert_eq!(words.next(), Some(64));
}

#[test]
fn uwsgi_over_tls_answers() {
    let mut stage = Stage::new();
    let port = stage.port_of("UWSGI");
    let dir = stage.server.dir().to_path_buf();
    fs::write(dir.join("app.py"), APPLICATION).unwrap();
    let (certificate, key) = (stage.certificates.join("server.pem"), stage.certificates.join("server.key"));
    let address = format!("127.0.0.1:{port},{},{}", certificate.display(), key.display());
    let mut command = Command::new("uwsgi");
    command.current_dir(&dir).args(["--plugin", "python3", "--wsgi-file", "app.py", "--need-app"]);
    command.args(["--logto", "uwsgi.log", "--suwsgi-socket", &address]);
    let _uwsgi = Program::on_port(&mut command, port).unwrap();
    stage.has("/uwsgi/a", &["HTTP/1.1 200 OK", "/uwsgi/a 0"]);
    stage.has("/uwsgi/verified/b", &["HTTP/1.1 200 OK", "/uwsgi/verified/b 0"]);
    stage.has("/uwsgi/wrong/c", &["502 Bad Gateway"]);
    let sent = bytes(300_000);
    let answer = stage.ask("POST /uwsgi/d HTTP/1.1\r\nContent-Length: 300000", &sent);
    assert!(
        String::from_utf8_lossy(&answer).contains("/uwsgi/d 300000"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let log = stage.server.read("error.log");
    assert!(log.contains("upstream: \"suwsgi://127.0.0.1:"), "{log}");
}
