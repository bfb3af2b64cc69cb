//! `-s`: tells the running server, found by its pid file, to stop, quit, reopen or reload.
//!
//! Called for the command line. nginx's counterpart: `ngx_signal_process`, `ngx_os_signal_process`.

use std::path::Path;
use std::process::ExitCode;

use headwater_conf::diagnostic::os_error;
use headwater_http::flow::error_log::{Level, LogFiles};
use headwater_io::process;

use crate::cli::Order;
use crate::journal::{Journal, console};
use crate::setup::Setup;

/// Sends the order's signal.
pub(crate) fn send(setup: &Setup, order: Order) -> ExitCode {
    let mut journal = Journal::start(setup.early_error_log().as_deref());
    let loaded = setup.load(LogFiles::default(), 1);
    for warning in &loaded.warnings {
        journal.diagnostic(warning, &loaded.files);
    }
    let conf = match &loaded.outcome {
        Ok(conf) => conf,
        Err(error) => {
            journal.diagnostic(error, &loaded.files);
            return ExitCode::FAILURE;
        }
    };
    journal.use_log(conf.main.error_log.clone());
    journal.notice(format_args!("signal process started"));
    match signal(&setup.path(&conf.main.settings.pid), order) {
        Ok(()) => ExitCode::SUCCESS,
        Err((level, text)) => {
            journal.write(level, format_args!("{text}"));
            if level > Level::Warn {
                console(format_args!("[{}] {text}", level.as_str()));
            }
            ExitCode::FAILURE
        }
    }
}

fn signal(path: &Path, order: Order) -> Result<(), (Level, String)> {
    let bytes = std::fs::read(path).map_err(|error| {
        (Level::Error, format!("open() \"{}\" failed {}", path.display(), os_error(&error)))
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches(['\r', '\n']);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let pid = text.parse::<u32>().ok().filter(|pid| digits && *pid > 0);
    let Some(pid) = pid else {
        return Err((Level::Error, format!("invalid PID number \"{text}\" in \"{}\"", path.display())));
    };
    let signal = order.signal();
    process::kill(pid, signal)
        .map_err(|error| (Level::Alert, format!("kill({pid}, {}) failed {}", signal.raw(), os_error(&error))))
}
