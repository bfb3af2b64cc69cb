//! The programs below `examples/`, run on the configurations that stand beside them.
//!
//! Called by the examples' tests. Every `127.0.0.1:PORT` of the configuration is given a free port, so that tests can run at the same
//! time. nginx counterpart: none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::server::{Mode, Server, TempDir};
use crate::template::{Template, free_port};

const HOST: &str = "127.0.0.1:";

/// A running example.
#[derive(Debug)]
pub struct Example {
    server: Server,
    ports: BTreeMap<u16, u16>,
    _dir: TempDir,
}

impl Example {
    /// Starts `binary` on the `nginx.conf` in `home`; a port in `given` is replaced by that one, the others by free ones. It runs when it
    /// listens where the file first says `listen`.
    ///
    /// # Errors
    /// When the configuration cannot be read or the program does not listen.
    pub fn start(binary: &Path, home: &Path, given: &[(u16, u16)]) -> io::Result<Self> {
        let mut ports: BTreeMap<u16, u16> = given.iter().copied().collect();
        let text = fs::read_to_string(home.join("nginx.conf"))?;
        let mut conf = String::new();
        let mut first = None;
        for (number, part) in text.split(HOST).enumerate() {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            let (port, rest) = part.split_at(digits);
            match (number, port.parse::<u16>()) {
                (1.., Ok(port)) => {
                    let free = match ports.get(&port) {
                        Some(free) => *free,
                        None => free_port()?,
                    };
                    ports.insert(port, free);
                    if conf.ends_with("listen ") {
                        first.get_or_insert(free);
                    }
                    conf.push_str(&format!("{HOST}{free}{rest}"));
                }
                _ => conf.push_str(part),
            }
        }
        let dir = TempDir::new()?;
        copy(home, dir.path())?;
        // What the command line of the tests says must not be said twice.
        let conf = conf.replace("daemon off;\n", "").replace("%%", "%% ");
        let mut template = Template::new(dir.path());
        let port = first.ok_or_else(|| io::Error::other("the configuration names no port"))?;
        let server = Server::start(binary, &conf, &mut template, port, Mode::Single)?;
        Ok(Self { server, ports, _dir: dir })
    }

    /// The port that stands for one of the configuration.
    #[must_use]
    pub fn port(&self, written: u16) -> u16 {
        self.ports.get(&written).copied().unwrap_or(written)
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Asks for a URI at a port of the configuration; gives the whole response as text.
    ///
    /// # Errors
    /// When there is no whole response within ten seconds.
    pub fn get(&self, written: u16, uri: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port(written))))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {uri} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Copies what an example serves, without its sources.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        match name.to_str() {
            Some("src" | "tests" | "logs" | "Cargo.toml") => {}
            _ if entry.file_type()?.is_dir() => {
                fs::create_dir_all(&target)?;
                copy(&entry.path(), &target)?;
            }
            _ => {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}
