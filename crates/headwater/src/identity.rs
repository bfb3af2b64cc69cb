//! What workers are to the system: user, groups, priority; and the limits of the whole process.
//!
//! Resolved by the master from each configuration. Only worker threads change their user: the master's thread keeps the rights that reloads
//! need (ports below 1024, log files, keys). nginx's counterpart: `ngx_worker_process_init`.

use headwater_conf::diagnostic::os_error;
use headwater_http::config::Conf;
use headwater_http::config::main::MainSettings;
use headwater_io::process::{self, User};

use crate::journal::Journal;

/// Whom the workers run as.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Whether they keep the right that `*_bind … transparent` needs.
    pub(crate) raw_sockets: bool,
}

/// What a worker thread takes on when it starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// `None`: whoever started the server.
    pub(crate) account: Option<Account>,
    /// `worker_priority`.
    pub(crate) priority: i32,
}

impl Identity {
    /// Looks the configuration's user up. Without the rights of root, or with `master_process off`, the user stays as it is.
    pub(crate) fn of(conf: &Conf) -> Result<Identity, String> {
        let settings = &conf.main.settings;
        let priority = settings.worker_priority.0;
        if !process::is_root() || !settings.master_process {
            return Ok(Identity { account: None, priority });
        }
        let name = settings.user.name.as_str();
        let user = match process::user_by_name(name) {
            Ok(Some(user)) => user,
            Ok(None) => return Err(format!("getpwnam(\"{name}\") failed")),
            Err(error) => return Err(format!("getpwnam(\"{name}\") failed {}", os_error(&error))),
        };
        let gid = match settings.user.group.as_deref() {
            Some(group) => match process::group_id(group) {
                Ok(Some(gid)) => gid,
                Ok(None) => return Err(format!("getgrnam(\"{group}\") failed")),
                Err(error) => return Err(format!("getgrnam(\"{group}\") failed {}", os_error(&error))),
            },
            // As nginx: the group of the same name. Systems without a group `nobody` have another for that user.
            None => process::group_id(name).ok().flatten().unwrap_or(user.gid),
        };
        let groups = process::groups_of_user(name, gid)
            .map_err(|error| format!("initgroups({name}, {gid}) failed {}", os_error(&error)))?;
        Ok(Identity { account: Some(Account { user, gid, groups, raw_sockets: conf.transparent }), priority })
    }
}

impl Identity {
    /// Makes the directories for temp files and gives them to the workers' user (nginx: `ngx_create_paths`).
    pub(crate) fn prepare_dirs(&self, conf: &Conf) -> Result<(), String> {
        let uid = self.account.as_ref().map(|account| account.user.uid);
        for path in &conf.temp_dirs {
            process::prepare_dir(path, uid)
                .map_err(|error| format!("mkdir() \"{}\" failed {}", path.display(), os_error(&error)))?;
        }
        Ok(())
    }
}

/// Applies the limits of the main block to the process; what the system refuses is logged and left.
pub(crate) fn apply_limits(settings: &MainSettings, journal: &Journal) {
    let files = settings.worker_rlimit_nofile.0;
    if files > 0
        && let Err(error) = process::set_rlimit_nofile(u64::try_from(files).unwrap_or(u64::MAX))
    {
        journal.alert(format_args!("setrlimit(RLIMIT_NOFILE, {files}) failed {}", os_error(&error)));
    }
    let core = settings.worker_rlimit_core.0;
    if core != u64::MAX
        && let Err(error) = process::set_rlimit_core(core)
    {
        journal.alert(format_args!("setrlimit(RLIMIT_CORE, {core}) failed {}", os_error(&error)));
    }
}
