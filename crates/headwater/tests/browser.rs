//! Pages as a browser sees them: headless Chromium in front of PHP, of a WebSocket chat, and of a page put together of five back ends.
//!
//! `SCREENSHOTS=dir` leaves pictures of the pages there.

#![allow(clippy::expect_used, reason = "what does not work fails the test")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use headwater_testkit::example::Example;
use headwater_testkit::program::Program;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::subject;
use headwater_testkit::template::{Template, free_port};
use rustix::process::{Pid, Signal, kill_process_group};

const CONF: &str = r#"
worker_processes 2;
events { worker_connections 512; }
http {
    access_log off;
    log_format report $args;
    client_max_body_size 8m;
    server {
        listen 127.0.0.1:%%PORT_8080%%;
        root %%DIR%%/html;
        index site.php;
        gzip on;
        gzip_min_length 100;
        location ~ \.php$ {
            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param REDIRECT_STATUS 200;
            fastcgi_pass unix:%%DIR%%/php.sock;
        }
        location = /report {
            access_log %%DIR%%/report.log report;
            return 204;
        }
        location /chat {
            proxy_pass http://127.0.0.1:%%NODE%%;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }
    }
}
"#;

const POOL: &str = "[global]\nerror_log = DIR/fpm.log\ndaemonize = no\n[www]\nlisten = DIR/php.sock\nlisten.mode = 0666\n\
    pm = static\npm.max_children = 2\n";

/// Chromium without a window, with a profile of its own.
fn chromium(home: &TempDir) -> Command {
    let mut command = Command::new("chromium");
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
        ])
        .arg("--window-size=1000,700")
        .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

/// Shows a page that needs no script; gives the document as the browser has it.
fn browse(url: &str, picture: &str) -> String {
    let home = TempDir::new().expect("a directory");
    let mut command = chromium(&home);
    if let Some(dir) = std::env::var_os("SCREENSHOTS") {
        command.arg(format!("--screenshot={}", PathBuf::from(dir).join(picture).display()));
    }
    let child = command.args(["--timeout=20000", "--dump-dom", url]).stdout(Stdio::piped()).spawn();
    let child = child.expect("chromium runs");
    let group = Pid::from_child(&child);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(60));
        let _ = kill_process_group(group, Signal::KILL);
    });
    let output = child.wait_with_output().expect("its output");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn site_of_php_with_a_chat_works_in_a_browser() {
    let dir = TempDir::new().expect("a directory");
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    fs::copy(programs.join("site.php"), dir.path().join("html/site.php")).expect("copied");
    for path in [dir.path().join("html"), dir.path().to_path_buf()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("open to PHP");
    }
    let mut pool = POOL.replace("DIR", &dir.path().display().to_string());
    if rustix::process::geteuid().is_root() {
        pool.push_str("user = www-data\ngroup = www-data\n");
    }
    fs::write(dir.path().join("fpm.conf"), pool).expect("written");
    let fpm = fs::read_dir("/usr/sbin").expect("a directory").flatten().map(|entry| entry.path());
    let fpm = fpm.filter(|path| path.to_string_lossy().contains("php-fpm")).max().expect("php-fpm");
    let mut fpm = Command::new(fpm);
    fpm.arg("-y").arg(dir.path().join("fpm.conf"));
    let _php = Program::start(&mut fpm, || dir.path().join("php.sock").exists()).expect("php-fpm");
    let node = free_port().expect("a port");
    let mut chat = Command::new("node");
    chat.arg(programs.join("server.js")).arg(node.to_string());
    let _node = Program::on_port(&mut chat, node).expect("node");
    let mut template = Template::new(dir.path());
    template.set("NODE", node);
    let port = template.port("8080").expect("a port");
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
    let server = Server::start(&subject.path, CONF, &mut template, port, Mode::Master).expect("it starts");
    let home = TempDir::new().expect("a directory");
    let url = format!("http://127.0.0.1:{port}/");
    let mut browser = chromium(&home);
    browser.args(["--remote-debugging-port=0", &url]);
    let report = || server.read("report.log");
    let _browser =
        Program::start(&mut browser, || report().ends_with('\n')).expect("what the browser reports");
    let report = report().replace("%22", "\"").replace("%3A", ":").replace("%2C", ",").replace("%20", " ");
    let wanted = r#"{"posted":"Ann","file":300000,"chat":"hello","box":"rgb(0, 128, 0)","posts":200,"text":true,"width":80}"#;
    let wanted = wanted.replace('{', "%7B").replace('}', "%7D");
    assert_eq!(report.trim(), wanted, "{}", server.read("error.log"));
}

#[test]
fn page_of_five_back_ends_with_one_down_is_whole_in_a_browser() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ssi");
    let subject = subject::find(Path::new(env!("CARGO_BIN_EXE_headwater"))).expect("a binary");
    let example = Example::start(&subject.path, &home, &[]).expect("it starts");
    let page = browse(&format!("http://127.0.0.1:{}/", example.port(8092)), "ssi.png");
    for wanted in [
        "<section id=\"news\"><h2>News</h2><ul><li>Proxy beats its own record</li>",
        "<p class=\"big\">21 °C</p><p>sunny in Nanjing</p>",
        "<td>ALPHA</td><td>101.5</td>",
        "<p>Hello guest, this is /section/profile/.</p>",
        "<section id=\"ads\"><h2>Offers</h2><p class=\"down\">not available right now</p></section>",
        "<footer>Seen with Chrome</footer>",
    ] {
        assert!(page.contains(wanted), "{wanted} is missing in\n{page}");
    }
}
