//! `open_file_cache`: descriptors and what is known of files, kept per worker.
//!
//! Everything that looks at files for requests opens and tests them here. nginx's counterpart: `ngx_open_file_cache.c`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use headwater_conf::context::HSL;
use headwater_conf::interpret::bytes_path;
use headwater_conf::value::{Number, Seconds, parse_number, parse_seconds};
use headwater_conf::{Args, Cx, Directive, Result, Value, settings};

use crate::config::LocationBuilder;
use crate::config::ignored::Ignored;
use crate::request::Request;

settings! {
    /// The cache of open files.
    pub struct OpenFileSettings, raw OpenFileRaw, module "ngx_http_core_module" {
        /// Keeps descriptors of files, and what is known of files and directories, for later requests. Each worker keeps its own.
        "open_file_cache", HSL, "off | max=N [inactive=time]", "off" => cache: Cache = Cache::Off;
        /// Also keeps that a file could not be opened.
        "open_file_cache_errors", HSL, "on | off", "off" => errors: bool = false;
        /// Sets how often a file must be used before its descriptor is kept.
        "open_file_cache_min_uses", HSL, "number", "1" => min_uses: Number = Number(1);
        /// Sets after what time it is looked whether a file is still the same.
        "open_file_cache_valid", HSL, "time", "60s" => valid: Seconds = Seconds(Duration::from_secs(60));
        /// Has no meaning on Linux.
        "open_file_cache_events", HSL, "on | off", "off" => events: Ignored<1, 1> = Ignored;
    }
}

/// How many workers have entries of their own; more share them.
const SHELVES: usize = 64;

/// `open_file_cache`: what one directive keeps, for the blocks inside too.
#[derive(Debug, Clone)]
pub enum Cache {
    /// Nothing.
    Off,
    /// Files.
    On(Arc<Shelves>),
}

/// The entries of all workers.
#[derive(Debug)]
pub struct Shelves {
    max: usize,
    inactive: Duration,
    shelves: Box<[OnceLock<Mutex<Shelf>>]>,
}

impl Value for Cache {
    const ARGS: Args = Args::range(1, 2);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (mut max, mut inactive, mut off) = (0, Duration::from_secs(60), false);
        for (index, word) in directive.args.iter().enumerate() {
            let invalid = || {
                let text = format!("invalid \"open_file_cache\" parameter \"{}\"", word.str());
                directive.error_at(index, text)
            };
            if let Some(text) = word.after("max=") {
                max = parse_number(text).filter(|max| *max > 0).ok_or_else(invalid)?;
            } else if let Some(text) = word.after("inactive=") {
                inactive = parse_seconds(text).ok_or_else(invalid)?;
            } else if word.is("off") {
                off = true;
            } else {
                return Err(invalid());
            }
        }
        if off {
            return Ok(Self::Off);
        }
        if max == 0 {
            return Err(directive.error("\"open_file_cache\" must have the \"max\" parameter"));
        }
        let shelves = (0..SHELVES).map(|_| OnceLock::new()).collect();
        Ok(Self::On(Arc::new(Shelves { max, inactive, shelves })))
    }
}

/// Gives locations with a cache its settings.
pub fn build(builder: &mut LocationBuilder<'_, '_>) {
    let settings = builder.settings::<OpenFileSettings>();
    if matches!(settings.cache, Cache::On(_)) {
        builder.attach(settings);
    }
}

/// A file that can be served.
pub struct OpenFile {
    /// The file.
    pub file: Arc<File>,
    /// What the system knows of it.
    pub metadata: Metadata,
}

/// Opens a path for reading without waiting on pipes.
///
/// # Errors
/// The system's, which may have been kept from an earlier attempt.
pub fn open(r: &Request, path: &[u8]) -> io::Result<OpenFile> {
    match look_up(r, path) {
        Some(Ok(Found { metadata, file: Some(file) })) => Ok(OpenFile { file, metadata }),
        Some(Err(error)) => Err(error),
        Some(Ok(Found { file: None, .. })) | None => open_now(path),
    }
}

/// What the system knows of a path.
///
/// # Errors
/// The system's. With a cache these are errors of opening.
pub fn test(r: &Request, path: &[u8]) -> io::Result<Metadata> {
    match look_up(r, path) {
        Some(found) => found.map(|found| found.metadata),
        None => std::fs::metadata(bytes_path(path)),
    }
}

fn look_up(r: &Request, path: &[u8]) -> Option<io::Result<Found>> {
    let settings = r.loc().settings::<OpenFileSettings>()?;
    let Cache::On(shelves) = &settings.cache else { return None };
    let index = r.connection().worker.index % SHELVES;
    let shelf = shelves.shelves.get(index)?.get_or_init(Mutex::default);
    let rules = Rules {
        max: shelves.max,
        inactive: millis(shelves.inactive),
        valid: millis(*settings.valid),
        min_uses: *settings.min_uses,
        errors: settings.errors,
    };
    let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
    Some(shelf.look_up(path, &rules, headwater_io::clock::now_ms()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn open_now(path: &[u8]) -> io::Result<OpenFile> {
    const O_NONBLOCK: i32 = 0o4000;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(bytes_path(path))?;
    let metadata = file.metadata()?;
    Ok(OpenFile { file: Arc::new(file), metadata })
}

/// How one location uses the cache; times in milliseconds.
struct Rules {
    max: usize,
    inactive: u64,
    valid: u64,
    min_uses: usize,
    errors: bool,
}

/// A file or directory; of a directory nothing is open.
struct Found {
    metadata: Metadata,
    file: Option<Arc<File>>,
}

/// One worker's entries, the least recently used first to go.
#[derive(Debug, Default)]
struct Shelf {
    by_path: HashMap<Arc<[u8]>, Entry>,
    by_use: BTreeMap<u64, Arc<[u8]>>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// Its place in `by_use`.
    stamp: u64,
    uses: usize,
    /// When it was last looked at, and when it was last used.
    created: u64,
    accessed: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not used often enough to stay open.
    Closed,
    Open(Arc<File>, Metadata),
    Directory(Metadata),
    Failed(i32),
}

impl Shelf {
    fn look_up(&mut self, path: &[u8], rules: &Rules, now: u64) -> io::Result<Found> {
        let outcome = self.find(path, rules, now);
        self.expire(rules, now, false);
        outcome
    }

    fn find(&mut self, path: &[u8], rules: &Rules, now: u64) -> io::Result<Found> {
        let mut before = State::Closed;
        let mut uses = 1_usize;
        if let Some(entry) = self.by_path.get_mut(path) {
            entry.uses = entry.uses.saturating_add(1);
            if now.saturating_sub(entry.created) < rules.valid
                && let Some(found) = entry.state.found()
            {
                entry.accessed = now;
                self.touch(path);
                return found;
            }
            uses = entry.uses;
            before = std::mem::replace(&mut entry.state, State::Closed);
        }
        let found = match look(path, &before) {
            Ok(found) => found,
            Err(error) => {
                match error.raw_os_error().filter(|_| rules.errors) {
                    Some(code) => self.store(path, rules, now, uses, State::Failed(code)),
                    None => self.remove(path),
                }
                return Err(error);
            }
        };
        let state = match &found.file {
            None => State::Directory(found.metadata.clone()),
            Some(file) if uses >= rules.min_uses => State::Open(file.clone(), found.metadata.clone()),
            Some(_) => State::Closed,
        };
        self.store(path, rules, now, uses, state);
        Ok(found)
    }

    fn store(&mut self, path: &[u8], rules: &Rules, now: u64, uses: usize, state: State) {
        if let Some(entry) = self.by_path.get_mut(path) {
            (entry.created, entry.accessed, entry.state) = (now, now, state);
            self.touch(path);
            return;
        }
        if self.by_path.len() >= rules.max {
            self.expire(rules, now, true);
        }
        self.clock = self.clock.saturating_add(1);
        let path: Arc<[u8]> = path.into();
        self.by_use.insert(self.clock, path.clone());
        self.by_path.insert(path, Entry { stamp: self.clock, uses, created: now, accessed: now, state });
    }

    fn touch(&mut self, path: &[u8]) {
        self.clock = self.clock.saturating_add(1);
        if let Some(entry) = self.by_path.get_mut(path)
            && let Some(path) = self.by_use.remove(&entry.stamp)
        {
            entry.stamp = self.clock;
            self.by_use.insert(self.clock, path);
        }
    }

    fn remove(&mut self, path: &[u8]) {
        if let Some(entry) = self.by_path.remove(path) {
            self.by_use.remove(&entry.stamp);
        }
    }

    /// Drops one or two entries that were not used for long, and before them the oldest one by force.
    fn expire(&mut self, rules: &Rules, now: u64, by_force: bool) {
        for round in u8::from(!by_force)..3 {
            let Some((_, path)) = self.by_use.first_key_value() else { return };
            let path = path.clone();
            let idle = self.by_path.get(&path).map_or(u64::MAX, |entry| now.saturating_sub(entry.accessed));
            if round > 0 && idle <= rules.inactive {
                return;
            }
            self.remove(&path);
        }
    }
}

impl State {
    fn found(&self) -> Option<io::Result<Found>> {
        match self {
            State::Closed => None,
            State::Open(file, metadata) => {
                Some(Ok(Found { metadata: metadata.clone(), file: Some(file.clone()) }))
            }
            State::Directory(metadata) => Some(Ok(Found { metadata: metadata.clone(), file: None })),
            State::Failed(code) => Some(Err(io::Error::from_raw_os_error(*code))),
        }
    }
}

/// Looks at a path anew; a file that is still the same stays open.
fn look(path: &[u8], before: &State) -> io::Result<Found> {
    if let State::Open(..) | State::Directory(_) = before {
        let metadata = std::fs::metadata(bytes_path(path))?;
        match before {
            State::Open(file, known) if known.ino() == metadata.ino() && known.dev() == metadata.dev() => {
                return Ok(Found { metadata, file: Some(file.clone()) });
            }
            State::Directory(_) if metadata.is_dir() => return Ok(Found { metadata, file: None }),
            _ => {}
        }
    }
    let OpenFile { file, metadata } = open_now(path)?;
    let file = (!metadata.is_dir()).then_some(file);
    Ok(Found { metadata, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { max: 2, inactive: 10_000, valid: 1000, min_uses: 1, errors: true };

    fn length(shelf: &mut Shelf, path: &std::path::Path, rules: &Rules, now: u64) -> Option<u64> {
        use std::os::unix::ffi::OsStrExt as _;
        let found = shelf.look_up(path.as_os_str().as_bytes(), rules, now).ok()?;
        found.file.map(|file| file.metadata().expect("open").len())
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("headwater-open-files-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        dir
    }

    #[test]
    fn look_up_a_replaced_file_is_noticed_when_no_longer_valid() {
        let dir = scratch("valid");
        let (path, other) = (dir.join("a"), dir.join("b"));
        let mut shelf = Shelf::default();
        std::fs::write(&path, "one").expect("written");
        assert_eq!(length(&mut shelf, &path, &RULES, 0), Some(3));
        std::fs::write(&other, "other").expect("written");
        std::fs::rename(&other, &path).expect("moved");
        assert_eq!(length(&mut shelf, &path, &RULES, 999), Some(3));
        assert_eq!(length(&mut shelf, &path, &RULES, 1000), Some(5));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn look_up_errors_are_kept_when_asked_for() {
        let dir = scratch("errors");
        let path = dir.join("a");
        let mut shelf = Shelf::default();
        assert_eq!(length(&mut shelf, &path, &RULES, 0), None);
        std::fs::write(&path, "one").expect("written");
        assert_eq!(length(&mut shelf, &path, &RULES, 1), None);
        assert_eq!(length(&mut shelf, &path, &RULES, 2000), Some(3));
        let forgetful = Rules { errors: false, ..RULES };
        let missing = dir.join("b");
        assert_eq!(length(&mut shelf, &missing, &forgetful, 0), None);
        std::fs::write(&missing, "four").expect("written");
        assert_eq!(length(&mut shelf, &missing, &forgetful, 1), Some(4));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn look_up_keeps_at_most_max_and_drops_what_is_idle() {
        let dir = scratch("max");
        let mut shelf = Shelf::default();
        for name in ["a", "b", "c"] {
            std::fs::write(dir.join(name), name).expect("written");
            length(&mut shelf, &dir.join(name), &RULES, 0);
        }
        assert_eq!(shelf.by_path.len(), 2);
        length(&mut shelf, &dir.join("c"), &RULES, 20_000);
        assert_eq!((shelf.by_path.len(), shelf.by_use.len()), (1, 1));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn look_up_rarely_used_files_are_not_kept_open() {
        let dir = scratch("uses");
        let path = dir.join("a");
        std::fs::write(&path, "one").expect("written");
        let rules = Rules { min_uses: 2, ..RULES };
        let mut shelf = Shelf::default();
        length(&mut shelf, &path, &rules, 0);
        assert!(shelf.by_path.values().all(|entry| matches!(entry.state, State::Closed)));
        length(&mut shelf, &path, &rules, 0);
        assert!(shelf.by_path.values().all(|entry| matches!(entry.state, State::Open(..))));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
