//! `-t` and `-T`: tests the configuration with everything that a start would open, and prints it.
//!
//! Called for the command line. nginx's counterpart: the `ngx_test_config` branches of `main` and `ngx_init_cycle`.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use headwater_conf::diagnostic::os_error;
use headwater_conf::{Diagnostic, Files};
use headwater_http::config::Conf;
use headwater_http::config::build::Loaded;
use headwater_http::flow::error_log::LogFiles;

use crate::cli::Options;
use crate::identity::Identity;
use crate::journal::{Journal, console};
use crate::setup::Setup;
use crate::sockets;

/// Runs the test.
pub(crate) fn run(setup: &Setup, options: &Options) -> ExitCode {
    let journal = Journal::start(setup.early_error_log().as_deref()).quiet(options.quiet);
    let file = setup.file.display();
    let loaded = setup.load(LogFiles::default(), 1);
    for warning in &loaded.warnings {
        journal.diagnostic(warning, &loaded.files);
    }
    if !options.quiet && syntax_is_ok(&loaded) {
        console(format_args!("the configuration file {file} syntax is ok"));
    }
    let outcome = match &loaded.outcome {
        Ok(conf) => open_all(setup, conf, &journal),
        Err(error) => {
            journal.diagnostic(error, &loaded.files);
            Err(())
        }
    };
    if outcome.is_err() {
        console(format_args!("configuration file {file} test failed"));
        return ExitCode::FAILURE;
    }
    if !options.quiet {
        console(format_args!("configuration file {file} test is successful"));
    }
    if options.dump && dump(&loaded.files, setup.globals.is_some()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// nginx finds some errors only after the file as such was found good; they have no place in it.
fn syntax_is_ok(loaded: &Loaded) -> bool {
    match &loaded.outcome {
        Ok(_) => true,
        Err(error) => error.position.is_none() && loaded.files.iter().next().is_some() && is_late(error),
    }
}

fn is_late(error: &Diagnostic) -> bool {
    ["open() \"", "no \"events\" section", "mkdir() \""].iter().any(|start| error.message.starts_with(start))
}

/// Opens the pid file and the sockets for a moment; the logs are open already.
fn open_all(setup: &Setup, conf: &Conf, journal: &Journal) -> Result<(), ()> {
    let settings = &conf.main.settings;
    Identity::of(conf).map_err(|error| journal.emerg(format_args!("{error}")))?;
    let path = setup.path(&settings.pid);
    touch(&path).map_err(|error| {
        journal.emerg(format_args!("open() \"{}\" failed {}", path.display(), os_error(&error)));
    })?;
    sockets::test(conf, journal).map_err(|_| ())
}

/// As nginx, a test makes the pid file but leaves what is in it.
fn touch(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().read(true).append(true).create(true).open(path).map(drop)
}

fn dump(files: &Files, globals: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (path, content) in files.iter().skip(usize::from(globals)) {
        writeln!(out, "# configuration file {}:", path.display())?;
        out.write_all(content)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}
