//! The files behind access logs: one buffer per worker and file, and files whose names hold variables.
//!
//! Buffers live as long as some configuration generation uses the file with the same buffering, so a reload keeps them. nginx's
//! counterpart: `ngx_http_log_write`, `ngx_http_log_script_write`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use headwater_io::clock;
use headwater_io::logbuffer::{BufferOptions, LogBuffer};
use headwater_io::logfile::LogFile;

use super::OpenCacheLimits;
use crate::flow::error_log::Level;
use crate::modules::static_files;
use crate::request::Request;
use crate::script::Complex;

/// A write error is logged at most this often per file.
const COMPLAINT_INTERVAL: i64 = 60;

/// A log file with its buffering.
pub(super) struct FileTarget {
    id: u64,
    file: Arc<LogFile>,
    options: Option<BufferOptions>,
}

/// All targets of all generations that are alive.
static TARGETS: Mutex<Vec<Weak<FileTarget>>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// What a worker keeps for one target.
struct WorkerLog {
    target: Weak<FileTarget>,
    buffer: LogBuffer,
    /// When a write error was last logged, and when the disk was last full, Unix seconds.
    complained: i64,
    disk_full: i64,
}

thread_local! {
    static LOGS: RefCell<HashMap<u64, WorkerLog>> = RefCell::default();
    static OPEN: RefCell<HashMap<PathBuf, OpenFile>> = RefCell::default();
}

/// Writes what this worker's buffers hold: before log files are opened anew.
pub fn flush_worker_logs() {
    let _ = LOGS.try_with(|logs| {
        for log in logs.borrow().values() {
            // Whoever logs next reports the error; here is no request to report it for.
            let _ = log.buffer.flush();
        }
    });
}

/// Writes what this worker's buffers hold and drops them: at the end of the worker, while its runtime still stands.
pub fn close_worker_logs() {
    let logs = LOGS.try_with(RefCell::take);
    drop(logs);
    let _ = OPEN.try_with(RefCell::take);
}

impl FileTarget {
    /// The target of a file with this buffering; the one of an earlier generation when it is alive.
    pub(super) fn of(file: Arc<LogFile>, options: Option<BufferOptions>) -> Arc<Self> {
        let mut targets = TARGETS.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|target| target.strong_count() > 0);
        let known = targets
            .iter()
            .filter_map(Weak::upgrade)
            .find(|target| Arc::ptr_eq(&target.file, &file) && target.options == options);
        if let Some(target) = known {
            return target;
        }
        let target = Arc::new(Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), file, options });
        targets.push(Arc::downgrade(&target));
        target
    }

    /// Lets `line` append one line to this worker's buffer.
    pub(super) fn append(self: &Arc<Self>, r: &Request, line: impl FnOnce(&mut Vec<u8>)) {
        let buffer = LOGS.try_with(|logs| {
            let mut logs = logs.borrow_mut();
            if !logs.contains_key(&self.id) {
                // A good moment to drop what earlier generations left.
                logs.retain(|_, log| log.target.strong_count() > 0);
            }
            let log = logs.entry(self.id).or_insert_with(|| WorkerLog {
                target: Arc::downgrade(self),
                buffer: LogBuffer::new(self.file.clone(), self.options),
                complained: i64::MIN,
                disk_full: i64::MIN,
            });
            (log.disk_full != clock::unix_seconds()).then(|| log.buffer.clone())
        });
        // No buffer means that the disk was full within this second, or that the worker ends.
        let Ok(Some(buffer)) = buffer else { return };
        buffer.append_with(line);
        if let Some(error) = buffer.take_error() {
            self.complain(r, &error);
        }
    }

    fn complain(&self, r: &Request, error: &io::Error) {
        let now = clock::unix_seconds();
        let due = LOGS.try_with(|logs| {
            logs.borrow_mut().get_mut(&self.id).is_some_and(|log| {
                if error.kind() == io::ErrorKind::StorageFull {
                    log.disk_full = now;
                }
                let due = now.saturating_sub(log.complained) >= COMPLAINT_INTERVAL;
                if due {
                    log.complained = now;
                }
                due
            })
        });
        if due.unwrap_or(false) {
            let path = self.file.path().display();
            r.log(
                Level::Alert,
                format_args!("write() to \"{path}\" failed {}", crate::flow::os_error(error)),
            );
        }
    }
}

/// A log file whose name holds variables.
pub(super) struct NamedTarget {
    path: Complex,
    cache: Option<OpenCacheLimits>,
}

/// An open file of the cache.
struct OpenFile {
    file: LogFile,
    opened: Instant,
    used: Instant,
    uses: usize,
}

impl NamedTarget {
    pub(super) fn new(path: Complex, cache: Option<OpenCacheLimits>) -> Self {
        Self { path, cache }
    }

    /// Appends a line to the file that the name says now.
    pub(super) fn write(&self, r: &Request, line: &[u8]) {
        if !has_root(r) {
            return;
        }
        let path = self.path.value(r);
        let path = headwater_conf::interpret::bytes_path(&path);
        let outcome = match self.cache {
            None => LogFile::open(path).map(|file| file.write(line)),
            Some(limits) => write_cached(path, limits, line),
        };
        let shown = path.display();
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                r.log(
                    Level::Alert,
                    format_args!("write() to \"{shown}\" failed {}", crate::flow::os_error(&error)),
                );
            }
            Err(error) => {
                r.log(
                    Level::Crit,
                    format_args!("open() \"{shown}\" failed {}", crate::flow::os_error(&error)),
                );
            }
        }
    }
}

/// Whether the request's document root is a directory: only then may names made from requests become files.
fn has_root(r: &Request) -> bool {
    let root = static_files::document_root(r);
    let root = headwater_conf::interpret::bytes_path(&root);
    let error = match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => return true,
        Ok(_) => io::Error::from_raw_os_error(rustix::io::Errno::NOTDIR.raw_os_error()),
        Err(error) => error,
    };
    let text = crate::flow::os_error(&error);
    r.log(Level::Error, format_args!("testing \"{}\" existence failed {text}", root.display()));
    false
}

/// Writes through the worker's cache of open files. The outer error is that of opening.
fn write_cached(path: &Path, limits: OpenCacheLimits, line: &[u8]) -> io::Result<io::Result<()>> {
    let now = clock::now();
    let written = OPEN.try_with(|open| {
        let mut open = open.borrow_mut();
        open.retain(|_, file| {
            now.saturating_duration_since(file.used) < limits.inactive.max(Duration::from_secs(1))
        });
        let fresh = |file: &&mut OpenFile| {
            // After `valid` the name may belong to another file.
            file.uses >= limits.min_uses.max(1) && now.saturating_duration_since(file.opened) < limits.valid
        };
        if let Some(file) = open.get_mut(path).filter(fresh) {
            file.used = now;
            file.uses = file.uses.saturating_add(1);
            return Ok(file.file.write(line));
        }
        let uses = open.remove(path).map_or(1, |file| file.uses.saturating_add(1));
        let file = LogFile::open(path)?;
        let outcome = file.write(line);
        if open.len() >= limits.max
            && let Some(oldest) = open.iter().min_by_key(|(_, file)| file.used).map(|(path, _)| path.clone())
        {
            open.remove(&oldest);
        }
        open.insert(path.to_path_buf(), OpenFile { file, opened: now, used: now, uses });
        Ok(outcome)
    });
    match written {
        Ok(outcome) => outcome,
        // The worker ends: without the cache then.
        Err(_) => LogFile::open(path).map(|file| file.write(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("headwater-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        path
    }

    #[test]
    fn target_same_file_and_buffering_is_shared() {
        let dir = directory("shared");
        let file = Arc::new(LogFile::open(dir.join("a.log")).expect("opens"));
        let options = Some(BufferOptions { size: 10, flush: None, gzip: None });
        let one = FileTarget::of(file.clone(), None);
        assert!(Arc::ptr_eq(&one, &FileTarget::of(file.clone(), None)));
        assert!(!Arc::ptr_eq(&one, &FileTarget::of(file, options)));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn cached_file_beyond_the_limit_drops_the_oldest() {
        let dir = directory("cached");
        let limits = OpenCacheLimits {
            max: 2,
            inactive: Duration::from_secs(60),
            min_uses: 1,
            valid: Duration::from_secs(60),
        };
        for name in ["a", "b", "c", "a"] {
            write_cached(&dir.join(name), limits, b"line\n").expect("opens").expect("writes");
        }
        assert_eq!(OPEN.with(|open| open.borrow().len()), 2);
        assert_eq!(std::fs::read(dir.join("a")).expect("read"), b"line\nline\n");
        std::fs::remove_dir_all(&dir).expect("removed");
        assert!(write_cached(&dir.join("d"), limits, b"x").is_err());
    }
}
