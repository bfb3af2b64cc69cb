//! Runs the cases of one file against one binary.
//!
//! Called by the differential harness, once for the oracle and once for the subject; calls the server, the
//! client, the origins and the normaliser. nginx counterpart: none.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::case::{Action, Case, CaseFile, FileSpec};
use crate::client;
use crate::dns::{self, Dns};
use crate::normalize;
use crate::origin::Origin;
use crate::origin::rules::Rules;
use crate::script;
use crate::server::{Mode, Server, TempDir};
use crate::template::{Template, free_port};

/// How the text of a case begins that could not be carried out; never right, even when both servers give it.
pub const BROKEN: &str = "<not run: ";

/// The time of every file: 2024-01-01 00:00:00 UTC.
const FILE_TIME: u64 = 1_704_067_200;

/// What each case gave, as comparable text, in the order of the cases; one more entry for each compared log.
///
/// `wanted` chooses the cases to run by name; the others get an empty text.
///
/// # Errors
/// When the machinery fails. A server that does not start is a result.
pub fn run(binary: &Path, file: &CaseFile, wanted: &dyn Fn(&Case) -> bool) -> io::Result<Vec<String>> {
    let mut last = Err(io::Error::other("not run"));
    // Another process may take a port between its choice and its use.
    for _ in 0..3 {
        last = run_once(binary, file, wanted);
        match &last {
            Err(error) if error.to_string().contains("Address already in use") => {}
            _ => break,
        }
    }
    last.or_else(|error| {
        let text = format!("{BROKEN}{error}>");
        Ok(vec![text; file.cases.len() + file.logs.len()])
    })
}

fn run_once(binary: &Path, file: &CaseFile, wanted: &dyn Fn(&Case) -> bool) -> io::Result<Vec<String>> {
    let dir = TempDir::new()?;
    let mut template = Template::new(dir.path());
    write_files(dir.path(), &file.files)?;
    let origins = start_origins(file, &mut template)?;
    let name_servers = start_name_servers(file, &mut template)?;
    let is_script = |case: &Case| matches!(case.action, Action::Script(_)) && wanted(case);
    let mut server = None;
    if file.cases.iter().any(is_script) {
        let port = template.port("8080")?;
        server = Some(Server::start(binary, &file.conf, &mut template, port, Mode::Single)?);
    }
    let mut results = Vec::new();
    for case in &file.cases {
        let result = match &case.action {
            _ if !wanted(case) => Ok(String::new()),
            Action::Script(lines) => run_script(lines, &mut template, &origins, &name_servers),
            Action::Test(conf) => run_test(binary, conf, &mut template),
        };
        results.push(result.unwrap_or_else(|error| format!("{BROKEN}{error}>")));
    }
    if let Some(server) = &mut server {
        thread::sleep(Duration::from_millis(40));
        server.stop();
    }
    let read = |name: &String| fs::read(dir.path().join(name)).unwrap_or_default();
    results.extend(
        file.logs.iter().map(|name| normalize::log(&String::from_utf8_lossy(&read(name)), &template)),
    );
    Ok(results)
}

fn start_origins(file: &CaseFile, template: &mut Template) -> io::Result<Vec<Origin>> {
    let mut origins = Vec::new();
    for (name, lines) in &file.origins {
        let port = free_port()?;
        template.set(&format!("ORIGIN_{name}"), port);
        template.set(&format!("UNIX_{name}"), template.dir().join(format!("{name}.sock")).display());
        origins.push((name, port, lines));
    }
    let mut started = Vec::new();
    for (name, port, lines) in origins {
        let lines = lines.iter().map(|line| template.fill(line)).collect::<io::Result<Vec<_>>>()?;
        started.push(Origin::start(name, port, template.dir(), Rules::parse(&lines)?)?);
    }
    Ok(started)
}

fn start_name_servers(file: &CaseFile, template: &mut Template) -> io::Result<Vec<(String, bool, Dns)>> {
    let mut started = Vec::new();
    for (header, lines) in &file.dns {
        let (name, quiet) = header.split_once(' ').map_or((header.as_str(), false), |(name, _)| (name, true));
        let port = free_port()?;
        template.set(&format!("DNS_{name}"), port);
        let lines = lines.iter().map(|line| template.fill(line)).collect::<io::Result<Vec<_>>>()?;
        started.push((name.to_owned(), quiet, Dns::start(port, dns::rules::Rules::parse(&lines)?)?));
    }
    Ok(started)
}

fn run_script(
    lines: &[String],
    template: &mut Template,
    origins: &[Origin],
    name_servers: &[(String, bool, Dns)],
) -> io::Result<String> {
    let lines = lines.iter().map(|line| template.fill(line)).collect::<io::Result<Vec<_>>>()?;
    let connections = client::play(&script::parse(&lines)?, template)?;
    let mut text = normalize::received(&connections, template);
    for origin in origins {
        text.push_str(&normalize::seen(&origin.take_seen(), template));
    }
    for (name, quiet, dns) in name_servers {
        let seen = dns.take_seen();
        if !quiet && !seen.is_empty() {
            text.push_str(&format!("=== {name} was asked\n{}\n", seen.join("\n")));
        }
    }
    Ok(text)
}

fn run_test(binary: &Path, conf: &str, template: &mut Template) -> io::Result<String> {
    let dir = template.dir().to_path_buf();
    let conf_file = dir.join("test.conf");
    fs::write(&conf_file, template.fill(conf)?)?;
    let log = dir.join("test-error.log");
    let output = Command::new(binary)
        .arg("-t")
        .args(["-p".as_ref(), dir.as_os_str(), "-c".as_ref(), conf_file.as_os_str()])
        .args(["-e".as_ref(), log.as_os_str()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(normalize::test_output(&text, output.status.code(), template))
}

fn write_files(dir: &Path, files: &[FileSpec]) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(FILE_TIME);
    for spec in files {
        let path = dir.join(&spec.path);
        let Some(content) = &spec.content else {
            fs::create_dir_all(&path)?;
            continue;
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = File::create(&path)?;
        if spec.gzip {
            let mut encoder = GzEncoder::new(&mut file, Compression::new(6));
            encoder.write_all(content.as_bytes())?;
            encoder.finish()?;
        } else {
            file.write_all(content.as_bytes())?;
        }
        file.set_modified(time)?;
    }
    set_directory_times(&dir.join("html"), time)
}

/// Directory listings show the times of directories.
fn set_directory_times(dir: &Path, time: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            set_directory_times(&entry.path(), time)?;
        }
    }
    File::open(dir)?.set_modified(time)
}
