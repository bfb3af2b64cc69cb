//! Saving a response under a path while it is relayed: `*_store`.
//!
//! Called by `read_head` when a response begins and by `relay` for its bytes and its end. What is saved is the decoded body before any filter, in a temp
//! file that gets its lasting name when the response is complete; that file is also where the bytes wait for a slow client. nginx's counterpart:
//! `ngx_http_upstream_store`, `ngx_ext_rename_file`.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use headwater_conf::{Args, Cx, Directive, Result, Value};
use headwater_io::tempfile::{FileError, PersistOptions};
use headwater_wire::headers::KnownHeader;

use super::engine::Engine;
use super::relay::Step;
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::output::{Output, SendError};
use crate::modules::static_files::map_path;
use crate::request::Request;
use crate::script::Complex;

/// `*_store`.
#[derive(Debug, Clone, Default)]
pub enum Store {
    /// Responses are not saved.
    #[default]
    Off,
    /// They are saved where the location's `root` or `alias` would look for them.
    On,
    /// They are saved under this path.
    Path(Complex),
}

impl Value for Store {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        Ok(match directive.arg(0) {
            b"off" => Self::Off,
            b"on" => Self::On,
            b"" => return Err(directive.error_at(0, "empty path")),
            _ => Self::Path(Complex::compile(cx, directive, 0)?),
        })
    }
}

impl Store {
    /// Whether responses are saved.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    fn path(&self, r: &Request) -> Vec<u8> {
        match self {
            Self::Off => Vec::new(),
            Self::On => map_path(r, &r.uri.borrow()),
            Self::Path(path) => path.value(r).into_owned(),
        }
    }
}

/// `*_store_access`: the mode of files; directories get the right to be entered besides the right to be read.
#[derive(Debug, Clone, Copy)]
pub struct StoreAccess(pub u32);

impl StoreAccess {
    /// `user:rw`.
    pub const USUAL: Self = Self(0o600);

    fn of_directories(self) -> u32 {
        self.0 | (self.0 & 0o444) >> 2
    }
}

impl Value for StoreAccess {
    const ARGS: Args = Args::range(1, 3);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (mut mode, mut user) = (0, 0o600);
        for (at, word) in directive.args.iter().enumerate() {
            let invalid = || directive.error_at(at, format!("invalid value \"{}\"", word.str()));
            let (shift, right) = if let Some(right) = word.after("user:") {
                user = 0;
                (6, right)
            } else if let Some(right) = word.after("group:") {
                (3, right)
            } else if let Some(right) = word.after("all:") {
                (0, right)
            } else {
                return Err(invalid());
            };
            let right: u32 = match right {
                b"rw" => 6,
                b"r" => 4,
                _ => return Err(invalid()),
            };
            mode |= right << shift;
        }
        Ok(Self(mode | user))
    }
}

impl Engine<'_> {
    /// Decides, when a head was passed on, whether the body is saved: that of a 200 that is buffered.
    pub(super) fn begin_store(&mut self, buffered: bool) {
        let kept = !matches!(self.r.output, Output::Memory(_));
        self.storing = self.conf.store.is_on() && buffered && kept && self.head.status == 200;
    }

    /// Adds decoded bytes that go on to the client at once.
    pub(super) fn store_bytes(&mut self, data: &[u8]) {
        match self.append_to_spool(data) {
            Ok(range) => {
                if let Some(spool) = &mut self.spool {
                    spool.handed = range.offset.saturating_add(range.len);
                }
            }
            Err(error) => self.store_failed(&error),
        }
    }

    /// Gives up saving; the client gets the response all the same.
    pub(super) fn store_failed(&mut self, failed: &FileError) {
        self.storing = false;
        self.may_use_file = false;
        self.log(Level::Crit, format_args!("{failed} {}", os_error(&failed.error)));
    }

    /// The client cannot be sent to. A response that is saved goes on without it; otherwise this is the end.
    pub(super) fn client_failed(&mut self, error: SendError) -> Step {
        if !self.storing {
            return Step::Client(error);
        }
        self.lost = Some(error);
        if let Some(spool) = &mut self.spool {
            spool.handed = spool.length;
        }
        self.end_waits = false;
        Step::More
    }

    /// Gives the file of a complete response its lasting name, unless it is not as long as was announced.
    pub(super) fn save(&mut self) {
        if !self.storing {
            return;
        }
        if self.spool.is_none()
            && let Err(error) = self.open_spool()
        {
            return self.store_failed(&error);
        }
        self.storing = false;
        let Some(spool) = &mut self.spool else { return };
        if self.head.content_length.is_some_and(|length| length != spool.length) {
            return;
        }
        let path = self.conf.store.path(self.r);
        let Some(temp) = spool.temp.take().filter(|_| !path.is_empty()) else { return };
        let seconds = |value| headwater_wire::date::parse(value).and_then(|time| u64::try_from(time).ok());
        let mtime = self.head.headers.get_known(KnownHeader::LastModified).and_then(seconds);
        let access = self.conf.store_access;
        let options = PersistOptions {
            mode: Some(access.0),
            mtime: mtime.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time))),
            dir_mode: Some(access.of_directories()),
        };
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&path));
        if let Err(error) = temp.persist(Path::new(&path), &options) {
            self.log(Level::Crit, format_args!("{error} {}", os_error(&error.error)));
        }
    }
}
