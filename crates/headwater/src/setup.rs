//! Where everything is: prefix, configuration file, default error log; and loading with them.
//!
//! Made from the command line or by [`crate::Builder`]; used at start, for `-t`, for `-s` and at each reload. nginx's counterpart:
//! `ngx_process_options`.

use std::path::{Path, PathBuf};

use headwater_conf::{FileSource, Source};
use headwater_http::config::build::{LoadOptions, Loaded, load};
use headwater_http::flow::error_log::LogFiles;
use headwater_http::modules::Modules;

use crate::cli::Options;

/// The prefix without `-p`. The environment variable `HEADWATER_PREFIX` changes it when the program is built.
pub(crate) const PREFIX: &str = match option_env!("HEADWATER_PREFIX") {
    Some(prefix) => prefix,
    None => "/usr/local/nginx",
};

/// The configuration file without `-c`, relative to the prefix. `HEADWATER_CONF_PATH` changes it when the program is built.
pub(crate) const CONF_PATH: &str = match option_env!("HEADWATER_CONF_PATH") {
    Some(path) => path,
    None => "conf/nginx.conf",
};

/// The error log until the configuration names one, and when it names none; relative to the prefix.
pub(crate) const ERROR_LOG: &str = "logs/error.log";

/// The default configuration file's whole path.
pub(crate) fn conf_path() -> PathBuf {
    Path::new(PREFIX).join(CONF_PATH)
}

/// What a load starts from.
pub(crate) struct Setup {
    /// `-p`, absolute: what is opened late must not depend on the working directory.
    pub(crate) prefix: PathBuf,
    /// The main file, as messages name it.
    pub(crate) file: PathBuf,
    /// `-g`.
    pub(crate) globals: Option<String>,
    /// `-e`.
    pub(crate) error_log: Option<PathBuf>,
    /// Where bytes come from.
    pub(crate) source: Box<dyn Source>,
    /// The built-in modules and those of the program around.
    pub(crate) modules: Modules,
}

impl Setup {
    pub(crate) fn from_options(options: &Options) -> Setup {
        let prefix = options.prefix.clone().map_or_else(|| PathBuf::from(PREFIX), PathBuf::from);
        let file = prefix.join(options.file.clone().map_or_else(|| PathBuf::from(CONF_PATH), PathBuf::from));
        Setup {
            file,
            prefix: absolute(prefix),
            globals: options.globals.as_ref().map(|text| text.to_string_lossy().into_owned()),
            error_log: options.error_log.clone().map(PathBuf::from),
            source: Box::new(FileSource),
            modules: Modules::default(),
        }
    }

    /// Loads the configuration; log files that are open stay open.
    pub(crate) fn load(&self, log_files: LogFiles, number: u64) -> Loaded {
        load(LoadOptions {
            file: self.file.clone(),
            prefix: self.prefix.clone(),
            globals: self.globals.clone(),
            error_log: self.error_log.clone(),
            source: &*self.source,
            modules: &self.modules,
            log_files,
            number,
        })
    }

    /// The log files that a load opened, for the next load and for USR1.
    pub(crate) fn log_files(loaded: &mut Loaded) -> LogFiles {
        std::mem::take(&mut loaded.log_files)
    }

    /// A path of the main block, relative to the prefix.
    pub(crate) fn path(&self, text: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.prefix.join(std::ffi::OsStr::from_bytes(text))
    }

    /// The error log for the time before the configuration is read; `None` is standard error.
    pub(crate) fn early_error_log(&self) -> Option<PathBuf> {
        match &self.error_log {
            Some(path) if path == Path::new("stderr") || path.as_os_str().is_empty() => None,
            Some(path) => Some(self.prefix.join(path)),
            None => Some(self.prefix.join(ERROR_LOG)),
        }
    }
}

/// The path from the root; the path itself where there is no working directory.
pub(crate) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(line: &str) -> Setup {
        let options = crate::cli::parse(line.split_whitespace().map(Into::into)).unwrap();
        Setup::from_options(&options)
    }

    #[test]
    fn relative_configuration_file_is_relative_to_the_prefix() {
        assert_eq!(setup("-p a/b -c c.conf").file, Path::new("a/b/c.conf"));
        assert_eq!(setup("-p a/b/ -c /c.conf").file, Path::new("/c.conf"));
        assert_eq!(setup("").file, conf_path());
        assert_eq!(setup("-p /x").file, Path::new("/x").join(CONF_PATH));
    }

    #[test]
    fn early_error_log_is_relative_to_the_prefix() {
        assert_eq!(setup("-p /x").early_error_log().as_deref(), Some(Path::new("/x/logs/error.log")));
        assert_eq!(setup("-p /x -e e.log").early_error_log().as_deref(), Some(Path::new("/x/e.log")));
        assert_eq!(setup("-e stderr").early_error_log(), None);
    }
}
