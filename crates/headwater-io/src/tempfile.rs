//! Temporary files in nginx's directory layout, for request bodies, proxied responses and the cache.
//!
//! Called by body buffering, `proxy_store` and the cache. Calls block, as they do in nginx.
//! nginx counterpart: `ngx_create_temp_file`, `ngx_create_hashed_filename` and `ngx_ext_rename_file`.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use crate::fault::{Op, point};

/// Number of the last file made by this process.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What is added to the number after a collision; odd, so that all numbers are reached.
const COLLISION_STEP: u32 = 123_457;

/// A directory for temporary files: `client_body_temp_path`, `proxy_temp_path` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TempDir {
    /// The directory; it must exist.
    pub path: PathBuf,
    /// Length in digits of the names of up to three levels of subdirectories; 0 ends the list.
    pub levels: [u8; 3],
}

impl TempDir {
    /// Makes a file that is deleted at once: it lives as long as it is open.
    ///
    /// # Errors
    /// What `open(2)`, `mkdir(2)` and `unlink(2)` return.
    pub fn create(&self) -> io::Result<TempFile> {
        let mut file = self.create_named()?;
        if let Some(path) = file.name.0.take() {
            fs::remove_file(path)?;
        }
        Ok(file)
    }

    /// Makes a file that keeps its name until it is dropped, persisted or [kept](TempFile::keep).
    ///
    /// # Errors
    /// What `open(2)` and `mkdir(2)` return, and for which path.
    pub fn create_named(&self) -> Result<TempFile, FileError> {
        point(Op::FileCreate).map_err(|error| FileError::new("open()", &self.path, error))?;
        let mut number = next_number(1);
        loop {
            let path = self.path_of(number);
            let error = match open_new(&path) {
                Ok(file) => {
                    return Ok(TempFile { file, name: Name(Some(path)), len: 0 });
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::AlreadyExists => number = next_number(COLLISION_STEP),
                // Should the directories vanish again and again, this ends when the directory itself is missing.
                io::ErrorKind::NotFound if self.levels[0] != 0 => {
                    self.create_levels(&path).map_err(|error| FileError::new("mkdir()", &path, error))?;
                }
                _ => return Err(FileError::new("open()", &path, error)),
            }
        }
    }

    /// The path of a file number: levels `1 2` put 0000000123 into `3/12/`.
    #[must_use]
    pub fn path_of(&self, number: u32) -> PathBuf {
        let name = format!("{number:010}");
        let mut path = self.path.clone();
        let mut end = name.len();
        for level in self.used_levels() {
            let start = end.saturating_sub(level);
            path.push(name.get(start..end).unwrap_or_default());
            end = start;
        }
        path.push(name);
        path
    }

    /// Makes the subdirectories of a path of this directory, mode 0700.
    fn create_levels(&self, path: &Path) -> io::Result<()> {
        let depth = self.used_levels().count();
        let mut parents: Vec<&Path> = path.ancestors().skip(1).take(depth).collect();
        parents.reverse();
        for parent in parents {
            make_dir(parent, 0o700)?;
        }
        Ok(())
    }

    fn used_levels(&self) -> impl Iterator<Item = usize> + '_ {
        self.levels.iter().take_while(|level| **level != 0).map(|level| usize::from(*level))
    }
}

/// A system call on a file that failed, told as nginx's log does: `rename() "a" to "b" failed`.
#[derive(Debug)]
pub struct FileError {
    what: String,
    /// What the call returned.
    pub error: io::Error,
}

impl FileError {
    /// A call that failed for a path.
    #[must_use]
    pub fn new(call: &str, path: &Path, error: io::Error) -> Self {
        Self { what: format!("{call} \"{}\" failed", path.display()), error }
    }

    fn rename(from: &Path, to: &Path, error: io::Error) -> Self {
        Self { what: format!("rename() \"{}\" to \"{}\" failed", from.display(), to.display()), error }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        error.error
    }
}

/// What [`TempFile::persist`] does besides renaming: `proxy_store_access` and the response's `Last-Modified`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistOptions {
    /// New mode of the file; it stays 0600 when `None`.
    pub mode: Option<u32>,
    /// New modification time.
    pub mtime: Option<SystemTime>,
    /// Mode of missing directories of the target, which are made; they are an error when `None`.
    pub dir_mode: Option<u32>,
}

/// An open temporary file, mode 0600. Dropping it deletes it if it still has a name.
#[derive(Debug)]
pub struct TempFile {
    file: File,
    name: Name,
    len: u64,
}

/// The name a file still has; dropping it deletes the file.
#[derive(Debug)]
struct Name(Option<PathBuf>);

impl TempFile {
    /// Bytes appended so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file's name, unless it was deleted at once.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.name.0.as_deref()
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes at the end.
    ///
    /// # Errors
    /// What `pwrite(2)` returns (`StorageFull`, ...); the length is unchanged then, and the next append overwrites.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        point(Op::FileWrite)?;
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes several buffers at the end, in one call when the kernel takes them whole.
    ///
    /// # Errors
    /// As [`TempFile::append`].
    pub fn append_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        point(Op::FileWrite)?;
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        // At most IOV_MAX buffers go in one call.
        let first = buffers.get(..buffers.len().min(1024)).unwrap_or_default();
        let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, first, self.len))?;
        let mut skip = written;
        let mut at = self.len + written as u64;
        for buffer in buffers {
            let rest = buffer.get(skip.min(buffer.len())..).unwrap_or_default();
            skip = skip.saturating_sub(buffer.len());
            if !rest.is_empty() {
                self.file.write_all_at(rest, at)?;
                at += rest.len() as u64;
            }
        }
        self.len += total;
        Ok(())
    }

    /// Overwrites bytes, such as the header of a cache file; the length grows if they reach beyond the end.
    ///
    /// # Errors
    /// What `pwrite(2)` returns.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        point(Op::FileWrite)?;
        self.file.write_all_at(bytes, offset)?;
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Reads up to a buffer full from `offset`; 0 at the end.
    ///
    /// # Errors
    /// What `pread(2)` returns.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.file, buffer, offset)
    }

    /// Gives the file its lasting name, replacing what has it, and returns the open file. Across file systems the
    /// content is copied next to the target first, so that the target is whole at every moment.
    ///
    /// # Errors
    /// `NotFound` for a file that was deleted at once; otherwise what `chmod(2)`, `rename(2)` and `write(2)` return.
    /// The temporary file is deleted then.
    pub fn persist(mut self, target: &Path, options: &PersistOptions) -> Result<File, FileError> {
        let source = self.name.0.clone().unwrap_or_default();
        if let Some(mode) = options.mode {
            let set = self.file.set_permissions(Permissions::from_mode(mode));
            set.map_err(|error| FileError::new("chmod()", &source, error))?;
        }
        if let Some(mtime) = options.mtime {
            let set = self.file.set_modified(mtime);
            set.map_err(|error| FileError::new("utimes()", &source, error))?;
        }
        let mut result = fs::rename(&source, target);
        if let (Err(error), Some(mode)) = (&result, options.dir_mode)
            && error.kind() == io::ErrorKind::NotFound
            && self.name.0.is_some()
        {
            create_parents(target, mode).map_err(|error| FileError::new("mkdir()", target, error))?;
            result = fs::rename(&source, target);
        }
        match result {
            Ok(()) => self.name.0 = None,
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                copy_across(&source, target, options)?;
            }
            Err(error) => return Err(FileError::rename(&source, target, error)),
        }
        Ok(self.file)
    }

    /// Leaves the file where it is: `client_body_in_file_only on`.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.name.0.take()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Someone may have removed it before.
            let _ = fs::remove_file(path);
        }
    }
}

impl AsFd for TempFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Copies a file to another file system under a temporary name, then renames it.
fn copy_across(source: &Path, target: &Path, options: &PersistOptions) -> Result<(), FileError> {
    let mut name = target.as_os_str().as_bytes().to_vec();
    // Writing into a Vec cannot fail.
    let _ = write!(name, ".{:010}", next_number(1));
    let near = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
    let copied = copy_to(source, &near, options)
        .map_err(|error| FileError::new("open()", &near, error))
        .and_then(|()| fs::rename(&near, target).map_err(|error| FileError::rename(&near, target, error)));
    if copied.is_err() {
        // The first error counts.
        let _ = fs::remove_file(&near);
    }
    copied
}

fn copy_to(source: &Path, target: &Path, options: &PersistOptions) -> io::Result<()> {
    let mut from = File::open(source)?;
    let mut to = open_new(target)?;
    io::copy(&mut from, &mut to)?;
    if let Some(mode) = options.mode {
        to.set_permissions(Permissions::from_mode(mode))?;
    }
    if let Some(mtime) = options.mtime {
        to.set_modified(mtime)?;
    }
    Ok(())
}

/// Makes the missing directories above `target`. One that may not be made is passed over, as it may exist; for the last one that is an error.
fn create_parents(target: &Path, mode: u32) -> io::Result<()> {
    let mut parents: Vec<&Path> =
        target.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    parents.reverse();
    let mut last = Ok(());
    for parent in parents.into_iter().filter(|path| *path != Path::new("/")) {
        last = make_dir(parent, mode);
        match &last {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return last,
            _ => {}
        }
    }
    last
}

/// Reads up to a buffer full of a file from `offset`; 0 at the end.
///
/// # Errors
/// What `pread(2)` returns.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    point(Op::FileRead)?;
    file.read_at(buffer, offset)
}

/// Fills a buffer from a file at `offset`.
///
/// # Errors
/// What `pread(2)` returns; `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    point(Op::FileRead)?;
    file.read_exact_at(buffer, offset)
}

/// The next file number of this process.
fn next_number(step: u32) -> u32 {
    NUMBER.fetch_add(step, Ordering::Relaxed).wrapping_add(step)
}

/// Makes a directory unless it is there.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
#[path = "tempfile_tests.rs"]
pub(crate) mod tests;
