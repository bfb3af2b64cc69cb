//! The temp file of a response that comes faster than the client takes it, or that is saved.
//!
//! Called by `relay` and `store`. nginx's counterpart: `ngx_event_pipe_write_chain_to_temp_file`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_io::tempfile::{FileError, TempFile, read_exact_at};

use super::engine::Engine;
use super::relay::{PIECE, Step};
use crate::filters::{Chunk, End as Mark};
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::out_queue::FileRange;

/// How much is read back from a temp file at once for filters, bytes.
const READ_BACK: usize = 32 * 1024;

/// The temp file of a response that comes faster than the client takes it.
pub(super) struct Spool {
    /// Gone when the response was saved.
    pub(super) temp: Option<TempFile>,
    /// The same file as the output holds it.
    file: Arc<File>,
    pub(super) length: u64,
    /// Up to where the file was handed on. Without filters that is at once, as stretches of the file; filters get its bytes when the
    /// client has taken what they made before.
    pub(super) handed: u64,
}

impl Engine<'_> {
    /// Bytes that went to the temp file.
    pub(super) fn stored(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.length)
    }

    /// Bytes of the temp file that the filters have not seen.
    pub(super) fn waits_in_file(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.length.saturating_sub(spool.handed))
    }

    /// Hands the filters what comes next in the temp file.
    pub(super) fn read_back(&mut self) -> Step {
        let piece = if self.r.expands.get() { PIECE } else { READ_BACK };
        let Some(spool) = &mut self.spool else { return Step::More };
        let left = usize::try_from(spool.length.saturating_sub(spool.handed)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; piece.min(left)];
        let read = read_exact_at(&spool.file, &mut bytes, spool.handed);
        spool.handed = spool.handed.saturating_add(bytes.len() as u64);
        if let Err(error) = read {
            let text = os_error(&error);
            self.log(Level::Crit, format_args!("the temporary file of a response cannot be read {text}"));
            return Step::Broken;
        }
        let ends = self.end_waits && self.waits_in_file() == 0;
        let mark = if ends { Mark::Last } else { Mark::More };
        match self.r.push(Chunk::Slice(&bytes), mark) {
            Ok(()) => Step::More,
            Err(error) => Step::Client(error),
        }
    }

    /// Whether bytes that do not fit into memory may go to a temp file.
    pub(super) fn may_spool(&self) -> bool {
        let length = self.spool.as_ref().map_or(0, |spool| spool.length);
        let room = self.storing || length < self.conf.max_temp_file_size;
        room && self.may_use_file && !self.r.header_only.get()
    }

    /// Appends to the temp file and gives what of it goes on now: the stretch itself, or nothing when filters must read it later. `None` when
    /// that failed.
    pub(super) fn spool<'d>(&mut self, data: &'d [u8]) -> Option<Chunk<'d>> {
        let range = match self.append_to_spool(data) {
            Ok(range) => range,
            Err(failed) => {
                let saved_until_now = self.storing;
                self.store_failed(&failed);
                // A response that cannot be saved is passed on at the client's speed.
                return (saved_until_now && self.waits_in_file() == 0).then_some(Chunk::Slice(data));
            }
        };
        if self.r.has_body_filters() {
            return Some(Chunk::Empty);
        }
        if let Some(spool) = &mut self.spool {
            spool.handed = spool.length;
        }
        Some(Chunk::File(range))
    }

    pub(super) fn append_to_spool(&mut self, data: &[u8]) -> Result<FileRange, FileError> {
        if self.spool.is_none() {
            self.open_spool()?;
            if !self.storing {
                self.log(Level::Warn, format_args!("an upstream response is buffered to a temporary file"));
            }
        }
        // A file without a name is known by its directory.
        let directory = || self.conf.temp_path.directory(&self.r.exchange.generation.main.prefix);
        let failed = |path: Option<&Path>, error: io::Error| {
            FileError::new("pwrite()", &path.map_or_else(directory, Path::to_path_buf), error)
        };
        let gone = || failed(None, io::ErrorKind::NotFound.into());
        let spool = self.spool.as_mut().ok_or_else(gone)?;
        let temp = spool.temp.as_mut().ok_or_else(gone)?;
        temp.append(data).map_err(|error| failed(temp.path(), error))?;
        let range = FileRange { file: spool.file.clone(), offset: spool.length, len: data.len() as u64 };
        spool.length = spool.length.saturating_add(data.len() as u64);
        Ok(range)
    }

    /// Makes the temp file; that of a response which is saved has a name.
    pub(super) fn open_spool(&mut self) -> Result<(), FileError> {
        let prefix = &self.r.exchange.generation.main.prefix;
        let directory = self.conf.temp_path.directory(prefix);
        let temp = match self.storing {
            true => self.conf.temp_path.create_named(prefix)?,
            false => self
                .conf
                .temp_path
                .create(prefix, false)
                .map_err(|error| FileError::new("open()", &directory, error))?,
        };
        let file = temp.file().try_clone().map_err(|error| FileError::new("dup()", &directory, error))?;
        self.spool = Some(Spool { temp: Some(temp), file: Arc::new(file), length: 0, handed: 0 });
        Ok(())
    }
}
