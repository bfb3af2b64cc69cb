//! HUP and USR1: a new configuration in the running process, and log files opened again.
//!
//! Called by the master. A configuration that cannot be loaded, or whose sockets cannot be bound, changes nothing. nginx's counterpart:
//! `ngx_init_cycle` with an old cycle, `ngx_reopen_files`.

use headwater_conf::diagnostic::os_error;
use headwater_http::flow::error_log::Level;
use headwater_io::process;

use crate::identity::{Identity, apply_limits};
use crate::master::{Master, worker_count};
use crate::setup::Setup;

impl Master {
    /// Loads the configuration again and goes on with it.
    pub(crate) fn reload(&mut self) {
        self.journal.notice(format_args!("reconfiguring"));
        if self.try_reload().is_some() {
            apply_limits(&self.conf.main.settings, &self.journal);
            self.start_workers();
        }
    }

    /// Everything of a reload that can fail; failures are logged.
    fn try_reload(&mut self) -> Option<()> {
        let mut loaded = self.setup.load(self.log_files.clone(), self.conf.number.saturating_add(1));
        let log_files = Setup::log_files(&mut loaded);
        for warning in &loaded.warnings {
            self.journal.diagnostic(warning, &loaded.files);
        }
        let conf = match loaded.outcome {
            Ok(conf) => conf,
            Err(error) => {
                self.journal.diagnostic(&error, &loaded.files);
                return None;
            }
        };
        let identity =
            Identity::of(&conf).inspect_err(|error| self.journal.emerg(format_args!("{error}"))).ok()?;
        identity.prepare_dirs(&conf).inspect_err(|error| self.journal.emerg(format_args!("{error}"))).ok()?;
        let sockets = self.sockets.open(&conf, worker_count(&conf), &self.journal).ok()?;
        self.move_pid_file(self.setup.path(&conf.main.settings.pid))?;
        self.journal.use_log(conf.main.error_log.clone());
        for addr in self.sockets.unix_paths_gone(&sockets) {
            self.journal.write(
                Level::Warn,
                format_args!("deleting socket {}", addr.to_string().replace("unix:", "")),
            );
        }
        self.sockets = sockets;
        conf.activate();
        self.conf = conf;
        self.identity = identity;
        self.log_files = log_files;
        self.log_files.retain_used();
        Some(())
    }

    fn move_pid_file(&mut self, path: std::path::PathBuf) -> Option<()> {
        if path == self.pid_file {
            return Some(());
        }
        if let Err(error) = process::write_pid_file(&path) {
            self.journal.emerg(format_args!("open() \"{}\" failed {}", path.display(), os_error(&error)));
            return None;
        }
        if let Err(error) = process::remove_pid_file(&self.pid_file) {
            let old = self.pid_file.display();
            self.journal.alert(format_args!("unlink() \"{old}\" failed {}", os_error(&error)));
        }
        self.pid_file = path;
        Some(())
    }

    /// Opens the log files again after they were renamed.
    pub(crate) fn reopen_logs(&mut self) {
        self.journal.notice(format_args!("reopening logs"));
        for (path, error) in self.log_files.reopen() {
            self.journal.emerg(format_args!("open() \"{}\" failed {}", path.display(), os_error(&error)));
        }
        if let Some(account) = &self.identity.account {
            self.log_files.chown(account.user.uid);
        }
    }
}
