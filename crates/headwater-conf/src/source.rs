//! Where configuration bytes come from, and the record of every file that was read.
//!
//! Nothing in the configuration path touches `std::fs` directly: a privileged master can later hand the bytes to an
//! unprivileged process through another [`Source`]. Called by `interpret`; nginx's counterpart is `ngx_open_file` in `ngx_conf_parse`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Gives the bytes of configuration files and of the files that configuration names.
pub trait Source: Send + Sync {
    /// Reads the whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The files that match a shell pattern, sorted by name; none is not an error (nginx: `ngx_glob`).
    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The real file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct FileSource;

impl Source for FileSource {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let Some(text) = pattern.to_str() else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let paths = glob::glob_with(text, options)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut found: Vec<PathBuf> = paths.filter_map(std::result::Result::ok).collect();
        found.sort();
        Ok(found)
    }
}

/// Files held in memory, for tests and for programs that embed the server.
#[derive(Debug, Default, Clone)]
pub struct MemorySource {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl MemorySource {
    /// No files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces one file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }
}

impl Source for MemorySource {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn glob(&self, pattern: &Path) -> io::Result<Vec<PathBuf>> {
        let pattern = glob::Pattern::new(&pattern.to_string_lossy())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(self.files.keys().filter(|path| pattern.matches_path(path)).cloned().collect())
    }
}

/// Every configuration file of one load, in the order read; spans refer to it by index. `-T` prints it.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Files {
    /// Adds a file and gives its index.
    pub fn add(&mut self, path: PathBuf, content: Vec<u8>) -> u32 {
        self.files.push((path, content));
        u32::try_from(self.files.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The path of a file, empty when the index is unknown.
    #[must_use]
    pub fn path(&self, file: u32) -> &Path {
        self.files.get(file as usize).map_or(Path::new(""), |(path, _)| path.as_path())
    }

    /// The bytes of a file, empty when the index is unknown.
    #[must_use]
    pub fn content(&self, file: u32) -> &[u8] {
        self.files.get(file as usize).map_or(&[], |(_, content)| content.as_slice())
    }

    /// Paths and contents in the order read.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.files.iter().map(|(path, content)| (path.as_path(), content.as_slice()))
    }
}
