//! Placeholders of configurations and scripts, and the ports they name.
//!
//! `%%PORT_x%%` is a free TCP port, the same one for the same name; `%%DIR%%` the server's private directory;
//! `%%ORIGIN_x%%` the port and `%%UNIX_x%%` the socket path of the scripted origin `x`, `%%DNS_x%%` the
//! port of the scripted name server `x`.
//! Called by the server, the runner and the normaliser; calls nothing. nginx counterpart: none.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports are handed out below the kernel's ephemeral range so that outgoing connections do not take them.
const FIRST_PORT: u16 = 12_000;
const PORT_COUNT: u16 = 18_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// The values of the placeholders for one server instance.
#[derive(Clone, Debug)]
pub struct Template {
    dir: PathBuf,
    values: BTreeMap<String, String>,
}

impl Template {
    /// Placeholders for a server that lives in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), values: BTreeMap::new() }
    }

    /// The server's private directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets the value of a placeholder.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.values.insert(name.to_owned(), value.to_string());
    }

    /// The port that `%%PORT_name%%` stands for, reserved on first use.
    ///
    /// # Errors
    /// When no port is free.
    pub fn port(&mut self, name: &str) -> io::Result<u16> {
        let key = format!("PORT_{name}");
        if let Some(port) = self.values.get(&key).and_then(|text| text.parse().ok()) {
            return Ok(port);
        }
        let port = free_port()?;
        self.set(&key, port);
        Ok(port)
    }

    /// `text` with every placeholder replaced.
    ///
    /// # Errors
    /// When a placeholder is unknown or unterminated.
    pub fn fill(&mut self, text: &str) -> io::Result<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("%%") {
            let (name, tail) = after
                .split_once("%%")
                .ok_or_else(|| io::Error::other(format!("unterminated placeholder near {after:.20}")))?;
            out.push_str(before);
            out.push_str(&self.value(name)?);
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The numbers and paths that differ between two instances, with the names to show instead.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (value.as_str(), name.as_str()))
    }

    fn value(&mut self, name: &str) -> io::Result<String> {
        if name == "DIR" {
            return Ok(self.dir.display().to_string());
        }
        if let Some(port) = name.strip_prefix("PORT_") {
            return self.port(port).map(|port| port.to_string());
        }
        self.values.get(name).cloned().ok_or_else(|| io::Error::other(format!("unknown placeholder {name}")))
    }
}

/// A TCP port on which nothing listens now; five digits always.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> io::Result<u16> {
    let start = u16::try_from(process::id().wrapping_mul(61) % u32::from(PORT_COUNT)).unwrap_or(0);
    for _ in 0..PORT_COUNT {
        let step = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + start.wrapping_add(step) % PORT_COUNT;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no free port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_same_port_name_gives_same_port() {
        let mut template = Template::new(Path::new("/x"));
        let text = template.fill("%%PORT_a%% %%PORT_a%% %%DIR%%").unwrap();
        let words: Vec<&str> = text.split(' ').collect();
        assert_eq!(words[0], words[1]);
        assert_eq!(words[2], "/x");
    }

    #[test]
    fn fill_unknown_name_fails() {
        assert!(Template::new(Path::new("/x")).fill("%%NO%%").is_err());
    }
}
