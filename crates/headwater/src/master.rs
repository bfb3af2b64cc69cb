//! The life of the server: start, signals, end.
//!
//! The master is the main thread. It loads and binds, starts the workers and then waits for signals and for workers that end; it
//! serves nothing itself. nginx's counterpart: `main`, `ngx_init_cycle`, `ngx_master_process_cycle`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use headwater_conf::diagnostic::os_error;
use headwater_http::config::Conf;
use headwater_http::config::main::MainSettings;
use headwater_http::flow::error_log::LogFiles;
use headwater_io::{Sig, Signals, process};

use crate::identity::{Identity, apply_limits};
use crate::journal::Journal;
use crate::setup::{Setup, absolute};
use crate::sockets::Sockets;
use crate::workers::{End, Start, Workers};

/// How long a fast stop waits for workers before the process ends with them.
const PATIENCE: Duration = Duration::from_secs(1);

/// The signals the master waits for.
const SIGNALS: [Sig; 7] = [Sig::Hup, Sig::Int, Sig::Term, Sig::Quit, Sig::Usr1, Sig::Usr2, Sig::Winch];

/// What the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Serving.
    Running,
    /// Finishing requests (QUIT).
    Quitting,
    /// Ending at once (TERM, INT).
    Stopping,
}

/// The server as its main thread sees it.
pub(crate) struct Master {
    pub(crate) setup: Setup,
    pub(crate) journal: Journal,
    pub(crate) conf: Arc<Conf>,
    pub(crate) log_files: LogFiles,
    pub(crate) sockets: Sockets,
    pub(crate) identity: Identity,
    pub(crate) workers: Workers,
    pub(crate) pid_file: PathBuf,
    daemon: bool,
    stage: Stage,
}

/// Starts the server and returns when it has ended. `foreground`: never becomes a daemon, whatever the configuration says.
pub(crate) fn run(setup: Setup, foreground: bool) -> ExitCode {
    let Some(mut master) = Master::prepare(setup) else { return ExitCode::FAILURE };
    match master.enter(foreground) {
        Ok(()) => {}
        Err(error) => {
            master.journal.emerg(format_args!("{error}"));
            return ExitCode::FAILURE;
        }
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            master.journal.emerg(format_args!("epoll_create() failed {}", os_error(&error)));
            return ExitCode::from(2);
        }
    };
    let code = runtime.block_on(master.serve());
    master.end();
    code
}

/// Sets the variables that `env NAME=value` gives; the others stay as they are.
fn set_environment(settings: &MainSettings) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    for entry in settings.env.iter() {
        let Some(at) = entry.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = entry.split_at(at);
        if !name.is_empty() && !entry.contains(&0) {
            let value = value.get(1..).unwrap_or_default();
            process::set_env(std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value))?;
        }
    }
    Ok(())
}

impl Master {
    /// Everything that can fail before the process goes to the background; failures are logged.
    fn prepare(setup: Setup) -> Option<Master> {
        let mut journal = Journal::start(setup.early_error_log().as_deref());
        let mut loaded = setup.load(LogFiles::default(), 1);
        let log_files = Setup::log_files(&mut loaded);
        for warning in &loaded.warnings {
            journal.diagnostic(warning, &loaded.files);
        }
        let conf = match loaded.outcome {
            Ok(conf) => conf,
            Err(error) => {
                journal.diagnostic(&error, &loaded.files);
                return None;
            }
        };
        journal.use_log(conf.main.error_log.clone());
        let identity =
            Identity::of(&conf).inspect_err(|error| journal.emerg(format_args!("{error}"))).ok()?;
        identity.prepare_dirs(&conf).inspect_err(|error| journal.emerg(format_args!("{error}"))).ok()?;
        journal.notice(format_args!("using the \"epoll\" event method"));
        let sockets = Sockets::default().open(&conf, worker_count(&conf), &journal).ok()?;
        conf.activate();
        let pid_file = setup.path(&conf.main.settings.pid);
        Some(Master {
            setup,
            journal,
            conf,
            log_files,
            sockets,
            identity,
            workers: Workers::new(),
            pid_file,
            daemon: false,
            stage: Stage::Running,
        })
    }

    /// Goes to the background, writes the pid file and blocks signals, while there is one thread only.
    fn enter(&mut self, foreground: bool) -> Result<(), String> {
        let settings = self.conf.main.settings.clone();
        let failed =
            |call: &'static str| move |error: io::Error| format!("{call} failed {}", os_error(&error));
        headwater_io::block_all_for_workers().map_err(failed("sigprocmask()"))?;
        process::ignore_sigpipe().map_err(failed("sigaction(SIGPIPE)"))?;
        set_environment(&settings).map_err(failed("setenv()"))?;
        if settings.daemon && !foreground {
            process::daemonize().map_err(failed("daemon()"))?;
            self.daemon = true;
        }
        process::write_pid_file(&self.pid_file)
            .map_err(|error| format!("open() \"{}\" failed {}", self.pid_file.display(), os_error(&error)))?;
        self.journal.leave_console();
        self.redirect_stderr().map_err(failed("dup2(STDERR)"))?;
        if !settings.working_directory.is_empty() {
            let path = self.setup.path(&settings.working_directory);
            // A reload must find the file from the new directory.
            self.setup.file = absolute(std::mem::take(&mut self.setup.file));
            if let Err(error) = process::chdir(&path) {
                self.journal.alert(format_args!("chdir(\"{}\") failed {}", path.display(), os_error(&error)));
            }
        }
        self.greet();
        Ok(())
    }

    /// Sends what still goes to standard error to the error log, as nginx does.
    fn redirect_stderr(&self) -> io::Result<()> {
        match self.conf.main.error_log.file() {
            Some(file) if file.is_stderr() => Ok(()),
            Some(file) => {
                process::redirect_stderr(&std::fs::OpenOptions::new().append(true).open(file.path())?)
            }
            None if self.daemon => process::close_stderr(),
            None => Ok(()),
        }
    }

    /// The notices with which nginx starts.
    fn greet(&self) {
        let journal = &self.journal;
        journal.notice(format_args!("{}", headwater_http::SERVER_WITH_VERSION));
        journal.notice(format_args!("built with {}", crate::version::COMPILER));
        let system = rustix::system::uname();
        let (name, release) = (system.sysname().to_string_lossy(), system.release().to_string_lossy());
        journal.notice(format_args!("OS: {name} {release}"));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let show = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
        let (soft, hard) = (show(limit.current), show(limit.maximum));
        journal.notice(format_args!("getrlimit(RLIMIT_NOFILE): {soft}:{hard}"));
    }

    /// Starts the workers and waits until the server is to end.
    async fn serve(&mut self) -> ExitCode {
        let mut signals = match Signals::new(&SIGNALS) {
            Ok(signals) => signals,
            Err(error) => {
                self.journal.alert(format_args!("signalfd() failed {}", os_error(&error)));
                return ExitCode::from(2);
            }
        };
        self.journal.notice(format_args!("start worker processes"));
        apply_limits(&self.conf.main.settings, &self.journal);
        self.start_workers();
        while !self.is_over() {
            tokio::select! {
                signal = signals.try_next_from() => match signal {
                    Ok((signal, sender)) => self.on_signal(signal, sender),
                    Err(error) => {
                        self.journal.alert(format_args!("read() of signals failed {}", os_error(&error)));
                        return ExitCode::from(2);
                    }
                },
                (name, expected, end) = self.workers.next_end() => {
                    if let Some(code) = self.on_end(&name, expected, end) {
                        return code;
                    }
                }
                () = tokio::time::sleep(PATIENCE), if self.stage == Stage::Stopping => {
                    self.journal.alert(format_args!("workers did not end in time"));
                    return ExitCode::SUCCESS;
                }
            }
        }
        ExitCode::SUCCESS
    }

    fn is_over(&self) -> bool {
        self.stage != Stage::Running && self.workers.is_empty()
    }

    /// Gives the workers the present configuration, and starts those that are missing.
    pub(crate) fn start_workers(&mut self) {
        let start = Start { conf: &self.conf, sockets: &self.sockets, identity: &self.identity };
        let limit = shutdown_limit(&self.conf);
        if let Err(error) = self.workers.apply(worker_count(&self.conf), &start, limit) {
            self.journal.alert(format_args!("pthread_create() failed {}", os_error(&error)));
        }
    }

    fn on_signal(&mut self, signal: Sig, sender: u32) {
        let action = self.action(signal);
        let (number, name) = (signal.raw(), signal_name(signal));
        if sender == 0 {
            self.journal.notice(format_args!("signal {number} ({name}) received{action}"));
        } else {
            self.journal.notice(format_args!("signal {number} ({name}) received from {sender}{action}"));
        }
        match (signal, self.stage) {
            (Sig::Term | Sig::Int, _) => {
                self.stage = Stage::Stopping;
                self.workers.stop();
            }
            (_, Stage::Quitting | Stage::Stopping) => {}
            (Sig::Quit, Stage::Running) => {
                self.stage = Stage::Quitting;
                self.workers.quit(shutdown_limit(&self.conf));
                self.sockets = Sockets::default();
            }
            (Sig::Hup, Stage::Running) => self.reload(),
            (Sig::Usr1, Stage::Running) => self.reopen_logs(),
            (Sig::Winch, Stage::Running) if self.daemon => self.workers.quit(shutdown_limit(&self.conf)),
            (Sig::Usr2, Stage::Running) => {
                self.journal.notice(format_args!(
                    "a running server cannot be replaced by another binary: stop this one and start the other"
                ));
            }
            _ => {}
        }
    }

    /// What nginx says that it does about a signal.
    fn action(&self, signal: Sig) -> &'static str {
        match signal {
            Sig::Quit => ", shutting down",
            Sig::Term | Sig::Int => ", exiting",
            Sig::Winch if self.daemon => ", stop accepting connections",
            Sig::Hup => ", reconfiguring",
            Sig::Usr1 => ", reopening logs",
            Sig::Usr2 => ", ignoring",
            _ => "",
        }
    }

    /// Notes a worker's end; a worker that ended unasked is started again, unless it could not even start.
    fn on_end(&mut self, name: &str, expected: bool, end: End) -> Option<ExitCode> {
        match &end {
            End::Normal => self.journal.notice(format_args!("{name} ended")),
            End::Panicked => self.journal.alert(format_args!("{name} ended by a panic")),
            End::Failed(error) => {
                let reason = os_error(error);
                self.journal.alert(format_args!("{name} ended {reason} and cannot be started again"));
            }
        }
        if expected || self.stage != Stage::Running {
            return None;
        }
        if matches!(end, End::Failed(_)) {
            return self.workers.is_empty().then_some(ExitCode::from(2));
        }
        self.start_workers();
        None
    }

    /// Leaves nothing behind.
    fn end(self) {
        if let Err(error) = process::remove_pid_file(&self.pid_file) {
            let path = self.pid_file.display();
            self.journal.alert(format_args!("unlink() \"{path}\" failed {}", os_error(&error)));
        }
        // A worker that did not end in time still holds its sockets; their paths must not stay.
        self.sockets.remove_unix_paths();
        self.journal.notice(format_args!("exit"));
    }
}

/// How many workers a configuration wants.
pub(crate) fn worker_count(conf: &Conf) -> usize {
    let settings = &conf.main.settings;
    if settings.master_process { settings.worker_processes.count() } else { 1 }
}

/// `worker_shutdown_timeout`.
fn shutdown_limit(conf: &Conf) -> Option<Duration> {
    let limit = conf.main.settings.worker_shutdown_timeout.0;
    (!limit.is_zero()).then_some(limit)
}

fn signal_name(signal: Sig) -> &'static str {
    match signal {
        Sig::Hup => "SIGHUP",
        Sig::Int => "SIGINT",
        Sig::Term => "SIGTERM",
        Sig::Quit => "SIGQUIT",
        Sig::Usr1 => "SIGUSR1",
        Sig::Usr2 => "SIGUSR2",
        Sig::Winch => "SIGWINCH",
        Sig::Chld => "SIGCHLD",
        Sig::Alrm => "SIGALRM",
    }
}
