//! Case files: one configuration, its files and origins, and many named client scripts.
//!
//! Called by the differential harness; calls nothing. nginx counterpart: none.
//!
//! A section starts with `=== KIND ARGUMENTS` and ends at the next; `#` starts a comment line between sections
//! and in scripts. Kinds:
//!
//! | kind | content |
//! |---|---|
//! | `main` | configuration text before `events` |
//! | `http` | text inside `http { }` |
//! | `server` | text inside one `server { listen %%PORT_8080%%; server_name localhost; }` |
//! | `config` | a whole configuration instead of the three above |
//! | `file PATH [gzip] [nonl] [repeat=N]` | a file below the server's directory; its time is always 2024-01-01 |
//! | `dir PATH` | an empty directory |
//! | `origin NAME` | rules of a scripted origin ([`crate::origin::rules`]) |
//! | `dns NAME [quiet]` | rules of a scripted name server ([`crate::dns::rules`]); `quiet`: what it was asked is not compared |
//! | `logs PATH...` | log files to compare once all cases ran, lines sorted |
//! | `case NAME` | a client script ([`crate::script`]) |
//! | `test CONTEXT NAME` | configuration text for `-t`; CONTEXT: `file`, `main`, `events`, `http`, `server`, `location`, `upstream` |
//! | `expect REASON` | what the case before must give, instead of asking the oracle |

use std::fs;
use std::io;
use std::path::Path;

/// A parsed case file.
#[derive(Clone, Debug, Default)]
pub struct CaseFile {
    /// Topic and file name: `rewrite/flags`.
    pub name: String,
    /// The whole configuration, placeholders unfilled; empty when only `test` cases are there.
    pub conf: String,
    /// Files below the server's directory.
    pub files: Vec<FileSpec>,
    /// Names and rules of origins.
    pub origins: Vec<(String, Vec<String>)>,
    /// Names and rules of name servers.
    pub dns: Vec<(String, Vec<String>)>,
    /// Log files to compare.
    pub logs: Vec<String>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// A file or, without content, a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Path below the server's directory.
    pub path: String,
    /// The content.
    pub content: Option<String>,
    /// Stored gzipped.
    pub gzip: bool,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name within the file.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// What it must give, where the oracle is not asked.
    pub expect: Option<String>,
}

/// What a case does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lines of a client script.
    Script(Vec<String>),
    /// A configuration for `-t`.
    Test(String),
}

/// Reads and parses `path`, named by its last two components.
///
/// # Errors
/// When it cannot be read or a section is unknown.
pub fn read(path: &Path) -> io::Result<CaseFile> {
    let topic = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let text = fs::read_to_string(path)?;
    let name = format!("{topic}/{stem}");
    parse(&name, &text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Parses the text of a case file.
///
/// # Errors
/// When a section is unknown or stands in the wrong place.
pub fn parse(name: &str, text: &str) -> io::Result<CaseFile> {
    let mut file = CaseFile { name: name.to_owned(), ..CaseFile::default() };
    let mut parts = Parts::default();
    let mut sections: Vec<(&str, Vec<String>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("=== "), sections.last_mut()) {
            (Some(header), Some((kind, lines))) if kind.starts_with("expect") && is_seen(header) => {
                lines.push(line.to_owned());
            }
            (Some(header), _) => sections.push((header, Vec::new())),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) if line.is_empty() || line.starts_with('#') => {}
            (None, None) => {
                return Err(io::Error::other(format!("text before the first section: {line}")));
            }
        }
    }
    for (header, mut lines) in sections {
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        add(&mut file, &mut parts, header, lines)?;
    }
    file.conf = parts.conf();
    Ok(file)
}

/// Whether a line that looks like a section says what came on one of several connections, or what an origin saw, as part of an expectation.
fn is_seen(header: &str) -> bool {
    header.starts_with("connection ")
        || header.starts_with("origin ") && header.contains(" connection ")
        || header.ends_with(" was asked")
}

/// The pieces of the configuration.
#[derive(Default)]
struct Parts {
    main: String,
    http: String,
    server: Option<String>,
    config: Option<String>,
}

impl Parts {
    fn conf(self) -> String {
        if let Some(config) = self.config {
            return config;
        }
        let server = self
            .server
            .map(|text| format!("server {{\nlisten %%PORT_8080%%;\nserver_name localhost;\n{text}}}\n"));
        if server.is_none() && self.http.is_empty() {
            return String::new();
        }
        let (main, http, server) = (self.main, self.http, server.unwrap_or_default());
        format!("{main}events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{http}{server}}}\n")
    }
}

fn add(file: &mut CaseFile, parts: &mut Parts, header: &str, lines: Vec<String>) -> io::Result<()> {
    let (kind, rest) = header.split_once(' ').unwrap_or((header, ""));
    let rest = rest.trim();
    let text = || lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    match kind {
        "main" => parts.main = text(),
        "http" => parts.http = text(),
        "server" => parts.server = Some(text()),
        "config" => parts.config = Some(text()),
        "file" => file.files.push(file_spec(rest, text())),
        "dir" => file.files.push(FileSpec { path: rest.to_owned(), content: None, gzip: false }),
        "origin" => file.origins.push((rest.to_owned(), lines)),
        "dns" => file.dns.push((rest.to_owned(), lines)),
        "logs" => file.logs.extend(rest.split_whitespace().map(str::to_owned)),
        "case" => {
            let is_step = |line: &String| !line.trim().is_empty() && !line.starts_with('#');
            let action = Action::Script(lines.into_iter().filter(is_step).collect());
            file.cases.push(Case { name: rest.to_owned(), action, expect: None });
        }
        "test" => {
            let (context, name) = rest.split_once(' ').unwrap_or((rest, ""));
            let action = Action::Test(wrap(context, &lines.join("\n"))?);
            file.cases.push(Case { name: name.to_owned(), action, expect: None });
        }
        "expect" => {
            let case = file.cases.last_mut().ok_or_else(|| io::Error::other("`expect` before a case"))?;
            case.expect = Some(text());
        }
        _ => return Err(io::Error::other(format!("unknown section: {header}"))),
    }
    Ok(())
}

fn file_spec(args: &str, text: String) -> FileSpec {
    let mut words = args.split_whitespace();
    let path = words.next().unwrap_or_default().to_owned();
    let (mut gzip, mut content) = (false, text);
    for word in words {
        if word == "gzip" {
            gzip = true;
        } else if word == "nonl" {
            content.truncate(content.trim_end_matches('\n').len());
        } else if let Some(count) = word.strip_prefix("repeat=").and_then(|text| text.parse().ok()) {
            content = content.repeat(count);
        }
    }
    FileSpec { path, content: Some(content), gzip }
}

/// Puts `text` into a minimal configuration so that it stands in the named context, from line 3 on.
fn wrap(context: &str, text: &str) -> io::Result<String> {
    let (before, after) = match context {
        "file" => ("", ""),
        "main" => ("# 1\n# 2\n", "\nevents { }\n"),
        "events" => ("# 1\nevents {\n", "\n}\n"),
        "http" => ("events { }\nhttp {\n", "\n}\n"),
        "server" => ("events { }\nhttp { server { listen %%PORT_8080%%;\n", "\n} }\n"),
        "location" => ("events { }\nhttp { server { listen %%PORT_8080%%; location / {\n", "\n} } }\n"),
        "upstream" => ("events { }\nhttp { upstream u {\n", "\n} }\n"),
        _ => return Err(io::Error::other(format!("unknown context: {context}"))),
    };
    Ok(format!("{before}{text}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_server_and_case_sections_gives_conf_and_script() {
        let file = parse("a/b", "# c\n=== server\nreturn 200;\n\n=== case one\nGET /\n# x\n\n").unwrap();
        assert!(file.conf.contains("server_name localhost;\nreturn 200;\n}"));
        assert_eq!(file.cases[0].action, Action::Script(vec!["GET /".to_owned()]));
    }

    #[test]
    fn parse_unknown_section_fails() {
        assert!(parse("a/b", "=== what\n").is_err());
    }
}
