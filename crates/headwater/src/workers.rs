//! The worker threads: starting them, telling them what to do, noticing their ends.
//!
//! Used by the master alone. nginx's counterpart: `ngx_start_worker_processes`, `ngx_signal_worker_processes`,
//! `ngx_reap_children`, `ngx_worker_process_init`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use headwater_conf::diagnostic::os_error;
use headwater_http::config::Conf;
use headwater_http::flow::error_log::{ErrorLog, Level};
use headwater_http::flow::worker::{Command, Shared, run};
use headwater_io::process;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::identity::Identity;
use crate::sockets::Sockets;

/// How a worker ended.
pub(crate) enum End {
    /// It was told to.
    Normal,
    /// It could not start or go on.
    Failed(io::Error),
    /// A bug.
    Panicked,
}

struct Worker {
    id: u64,
    /// Its place among the workers of the generation, from 0.
    index: usize,
    quitting: bool,
    commands: UnboundedSender<Command>,
    thread: JoinHandle<io::Result<()>>,
}

/// All worker threads.
pub(crate) struct Workers {
    list: Vec<Worker>,
    next_id: u64,
    shared: Arc<Shared>,
    ended: UnboundedSender<u64>,
    ends: UnboundedReceiver<u64>,
}

/// What workers are started with.
pub(crate) struct Start<'a> {
    pub(crate) conf: &'a Arc<Conf>,
    pub(crate) sockets: &'a Sockets,
    pub(crate) identity: &'a Identity,
}

/// Tells the master that a thread ended, however it does.
struct Farewell {
    id: u64,
    ended: UnboundedSender<u64>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        // Without a master there is nobody to tell.
        let _ = self.ended.send(self.id);
    }
}

impl Workers {
    pub(crate) fn new() -> Workers {
        let (ended, ends) = unbounded_channel();
        Workers { list: Vec::new(), next_id: 0, shared: Shared::new(), ended, ends }
    }

    /// Gives every worker the configuration, starts those that are missing and lets those too many finish.
    pub(crate) fn apply(
        &mut self,
        count: usize,
        start: &Start<'_>,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        for worker in self.list.iter_mut().filter(|worker| !worker.quitting) {
            if worker.index < count {
                let sockets = start.sockets.for_worker(worker.index);
                let _ = worker.commands.send(Command::Configure { conf: start.conf.clone(), sockets });
            } else {
                worker.quit(limit);
            }
        }
        for index in 0..count {
            if !self.list.iter().any(|worker| worker.index == index && !worker.quitting) {
                self.start(index, start)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, index: usize, start: &Start<'_>) -> io::Result<()> {
        let (commands, receiver) = unbounded_channel();
        let sockets = start.sockets.for_worker(index);
        let _ = commands.send(Command::Configure { conf: start.conf.clone(), sockets });
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        let farewell = Farewell { id, ended: self.ended.clone() };
        let shared = self.shared.clone();
        let identity = start.identity.clone();
        let log = start.conf.main.error_log.clone();
        let name = format!("worker {index}");
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _farewell = farewell;
            prepare(&identity, &log)?;
            run(index, receiver, shared)
        })?;
        self.list.push(Worker { id, index, quitting: false, commands, thread });
        Ok(())
    }

    /// Lets all workers finish their requests.
    pub(crate) fn quit(&mut self, limit: Option<Duration>) {
        for worker in self.list.iter_mut().filter(|worker| !worker.quitting) {
            worker.quit(limit);
        }
    }

    /// Ends all workers at once.
    pub(crate) fn stop(&mut self) {
        for worker in &mut self.list {
            worker.quitting = true;
            let _ = worker.commands.send(Command::Stop);
        }
    }

    /// Whether there is none left.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Waits for a worker to end: its name, whether it was expected to, and how.
    pub(crate) async fn next_end(&mut self) -> (String, bool, End) {
        loop {
            let Some(id) = self.ends.recv().await else { return std::future::pending().await };
            let Some(at) = self.list.iter().position(|worker| worker.id == id) else { continue };
            let worker = self.list.swap_remove(at);
            let name = worker.thread.thread().name().unwrap_or("worker").to_owned();
            let end = match worker.thread.join() {
                Ok(Ok(())) => End::Normal,
                Ok(Err(error)) => End::Failed(error),
                Err(_) => End::Panicked,
            };
            return (name, worker.quitting, end);
        }
    }
}

impl Worker {
    fn quit(&mut self, limit: Option<Duration>) {
        self.quitting = true;
        // One that ended by itself needs no telling.
        let _ = self.commands.send(Command::Quit(limit));
    }
}

/// Makes the calling thread a worker: priority, user.
fn prepare(identity: &Identity, log: &ErrorLog) -> io::Result<()> {
    if identity.priority != 0
        && let Err(error) = process::set_priority(identity.priority)
    {
        let (priority, reason) = (identity.priority, os_error(&error));
        log.write(Level::Alert, None, format_args!("setpriority({priority}) failed {reason}"));
    }
    if let Some(account) = &identity.account {
        process::set_thread_user(&account.user, account.gid, &account.groups, account.raw_sockets)
            .inspect_err(|error| {
                let (uid, reason) = (account.user.uid, os_error(error));
                log.write(Level::Emerg, None, format_args!("setuid({uid}) failed {reason}"));
            })?;
    }
    let id = rustix::thread::gettid().as_raw_nonzero();
    log.write(Level::Notice, None, format_args!("start worker process {id}"));
    Ok(())
}
