//! Settings of the main and events blocks. nginx's counterpart: `nginx.c`, `ngx_event.c`.

use std::path::PathBuf;
use std::time::Duration;

use headwater_conf::context::{EVENTS, MAIN};
use headwater_conf::value::{Milliseconds, Number, Offset, Text, parse_number};
use headwater_conf::{Args, Cx, Directive, DirectiveDef, Result, Value, settings};

use super::ignored::Ignored;

settings! {
    /// The main block.
    pub struct MainSettings, raw MainRaw, module "ngx_core_module" {
        /// Runs in the background.
        "daemon", MAIN, "on | off", "on" => daemon: bool = true;
        /// Runs workers. There is one process either way; `off` changes nothing that a client or operator sees but the number of workers, which is 1.
        "master_process", MAIN, "on | off", "on" => master_process: bool = true;
        /// Sets the file that holds the process's number.
        "pid", MAIN, "file", "logs/nginx.pid" => pid: Text = Text::from("logs/nginx.pid");
        /// Sets the user and group that the process changes to when it was started by root.
        "user", MAIN, "user [group]", "nobody nobody" => user: User = User { name: "nobody".into(), group: None };
        /// Sets the number of workers, which are threads.
        "worker_processes", MAIN, "number | auto", "1" => worker_processes: Workers = Workers(Some(1));
        /// Limits the number of open files.
        "worker_rlimit_nofile", MAIN, "number", "" => worker_rlimit_nofile: Number = Number(0);
        /// Limits the size of a core file.
        "worker_rlimit_core", MAIN, "size", "" => worker_rlimit_core: Offset = Offset(u64::MAX);
        /// Limits the time of a graceful stop.
        "worker_shutdown_timeout", MAIN, "time", "" => worker_shutdown_timeout: Milliseconds = Milliseconds(Duration::ZERO);
        /// Sets the working directory, where a core file goes.
        "working_directory", MAIN, "directory", "" => working_directory: Text = Text(Vec::new());
        /// Sets the priority of workers.
        "worker_priority", MAIN, "number", "0" => worker_priority: Priority = Priority(0);
        /// Keeps, sets or changes environment variables. The process keeps its whole environment here.
        "env", MAIN, "variable[=value]", "TZ" => env: headwater_conf::value::List<Text> = headwater_conf::value::List::default();
        /// Loads a module. Modules that are built in are taken; others are an error.
        "load_module", MAIN, "file", "" => load_module: headwater_conf::value::List<LoadModule> = headwater_conf::value::List::default();
        /// Has no meaning here: locks are not files.
        "lock_file", MAIN, "file", "logs/nginx.lock" => lock_file: Ignored<1, 1> = Ignored;
        /// Has no meaning here: patterns that need PCRE are compiled by its JIT where it can.
        "pcre_jit", MAIN, "on | off", "off" => pcre_jit: Ignored<1, 1> = Ignored;
        /// Has no meaning here: workers are threads that the kernel places.
        "worker_cpu_affinity", MAIN, "cpumask ... ;; auto [cpumask]", "" => worker_cpu_affinity: Ignored<1, 64> = Ignored;
        /// Has no meaning here: the clock is read when it is needed.
        "timer_resolution", MAIN, "interval", "" => timer_resolution: Ignored<1, 1> = Ignored;
        /// Has no meaning here: there are no debug points.
        "debug_points", MAIN, "abort | stop", "" => debug_points: Ignored<1, 1> = Ignored;
    }
}

settings! {
    /// The events block.
    pub struct EventSettings, raw EventRaw, module "ngx_core_module" {
        /// Limits the connections of a worker, those to back ends included.
        "worker_connections", EVENTS, "number", "512" => worker_connections: Connections = Connections(512);
        /// Has no meaning here: connections are accepted as long as there are any.
        "multi_accept", EVENTS, "on | off", "off" => multi_accept: Ignored<1, 1> = Ignored;
        /// Says how the kernel reports events; only `epoll` exists here.
        "use", EVENTS, "method", "" => method: EventMethod = EventMethod;
        /// Has no meaning here: workers never wait for a lock to accept.
        "accept_mutex", EVENTS, "on | off", "off" => accept_mutex: Ignored<1, 1> = Ignored;
        /// Has no meaning here: see `accept_mutex`.
        "accept_mutex_delay", EVENTS, "time", "500ms" => accept_mutex_delay: Ignored<1, 1> = Ignored;
        /// Has no meaning here: files are read by the worker.
        "worker_aio_requests", EVENTS, "number", "32" => worker_aio_requests: Ignored<1, 1> = Ignored;
        /// Has no meaning here: there is no debugging log for single clients.
        "debug_connection", EVENTS, "address | CIDR | unix:", "" => debug_connection: Ignored<1, 1> = Ignored;
    }
}

/// `use`; there is only `epoll`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMethod;

impl Value for EventMethod {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        match directive.arg(0) {
            b"epoll" => Ok(Self),
            _ => Err(directive.error_at(0, format!("invalid event type \"{}\"", directive.word(0).str()))),
        }
    }
}

/// `worker_connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections(pub usize);

impl std::ops::Deref for Connections {
    type Target = usize;
    fn deref(&self) -> &usize {
        &self.0
    }
}

impl Value for Connections {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let invalid = || directive.error_at(0, format!("invalid number \"{}\"", directive.word(0).str()));
        parse_number(directive.arg(0)).map(Self).ok_or_else(invalid)
    }
}

/// Whether there was an `events` block.
#[derive(Debug, Default)]
pub struct EventsSeen {
    /// Its settings' scope.
    pub scope: Option<headwater_conf::ScopeId>,
}

/// The `events` block.
pub const DIRECTIVES: &[DirectiveDef] = &[DirectiveDef {
    name: "events",
    module: "ngx_core_module",
    contexts: MAIN,
    args: Args::exactly(0).with_block(),
    syntax: "",
    default: "",
    doc: "Holds the settings of connection processing.\n",
    set: |cx, directive| {
        if cx.state::<EventsSeen>().scope.is_some() {
            return Err(directive.duplicate());
        }
        let scope = cx.scopes.open(cx.scope);
        cx.state::<EventsSeen>().scope = Some(scope);
        cx.enter_scope(directive, EVENTS, scope)
    },
}];

/// `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The group's name; the user's own name when `None`.
    pub group: Option<String>,
}

impl Value for User {
    const ARGS: Args = Args::range(1, 2);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let name = directive.word(0).str().into_owned();
        let group = directive.args.get(1).map(|word| word.str().into_owned());
        if !headwater_io::process::is_root() {
            let message = "the \"user\" directive makes sense only if the master process runs with super-user privileges, ignored";
            cx.warn(directive, message);
            return Ok(Self { name, group });
        }
        check_user(directive, &name, group.as_deref())?;
        Ok(Self { name, group })
    }
}

fn check_user(directive: &Directive, name: &str, group: Option<&str>) -> Result<()> {
    use headwater_io::process::{group_id, user_by_name};
    if !matches!(user_by_name(name), Ok(Some(_))) {
        return Err(directive.error_at(0, format!("getpwnam(\"{name}\") failed")));
    }
    let group = group.unwrap_or(name);
    if !matches!(group_id(group), Ok(Some(_))) {
        return Err(directive.error_at(0, format!("getgrnam(\"{group}\") failed")));
    }
    Ok(())
}

/// `worker_processes`: a number, or as many as there are processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers(pub Option<usize>);

impl Value for Workers {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        match directive.arg(0) {
            b"auto" => Ok(Self(None)),
            text => match parse_number(text) {
                None => Err(directive.complain("invalid value")),
                Some(number) => Ok(Self(Some(number))),
            },
        }
    }
}

impl Workers {
    /// How many threads to start.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.unwrap_or_else(headwater_io::process::cpu_count).clamp(1, 1024)
    }
}

/// `worker_priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(pub i32);

impl Value for Priority {
    const ARGS: Args = Args::exactly(1);

    fn parse(_: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        let (sign, digits) = match directive.arg(0) {
            [b'-', rest @ ..] => (-1, rest),
            [b'+', rest @ ..] => (1, rest),
            rest => (1, rest),
        };
        let number = parse_number(digits).and_then(|n| i32::try_from(n).ok());
        number.map(|n| Self(sign * n)).ok_or_else(|| directive.complain("invalid number"))
    }
}

/// `load_module` of a module that is built in.
#[derive(Debug, Clone)]
pub struct LoadModule;

impl Value for LoadModule {
    const ARGS: Args = Args::exactly(1);

    fn parse(cx: &mut Cx<'_>, directive: &Directive) -> Result<Self> {
        if cx.state::<super::decl::HttpDecl>().scope.is_some() || cx.state::<EventsSeen>().scope.is_some() {
            return Err(directive.error("\"load_module\" directive is specified too late"));
        }
        let path = directive.word(0).str().into_owned();
        let file = path.rsplit('/').next().unwrap_or(&path);
        let name = file.strip_suffix(".so").unwrap_or(file);
        let known = crate::modules::names().any(|module| module == name);
        if known {
            return Ok(Self);
        }
        let full = cx.prefix_path(directive.arg(0));
        let message = format!(
            "dlopen() \"{}\" failed (module \"{name}\" is not built in, and modules cannot be loaded)",
            full.display()
        );
        Err(directive.error_at(0, message))
    }
}

/// The main and events blocks, resolved.
pub struct Main {
    /// The main block.
    pub settings: std::sync::Arc<MainSettings>,
    /// The events block.
    pub events: std::sync::Arc<EventSettings>,
    /// The prefix (`-p`).
    pub prefix: PathBuf,
    /// The main error log.
    pub error_log: std::sync::Arc<crate::flow::error_log::ErrorLog>,
}
