//! Slow clients in front of two servers: how soon back ends are free, and how much memory that takes.
//!
//! `slow-clients PATH-OF-HEADWATER [CLIENTS [SECONDS]]`; `bench/slow-clients` builds and runs it. Each client reads 20 MB at 100 KB/s, with a buffer of
//! 32 KB, under both servers one after the other. nginx counterpart: none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_testkit::fault::crowd::{Plan, Source, run};
use headwater_testkit::oracle;
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::template::Template;

const CONF: &str = "
error_log error.log error;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    access_log off;
    server {
        listen %%PORT_8080%% sndbuf=64k backlog=2048;
        location / { proxy_pass http://127.0.0.1:%%SOURCE%%; }
    }
}
";

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let headwater = PathBuf::from(args.next().unwrap_or_else(|| "target/release/headwater".to_owned()));
    let clients = args.next().and_then(|text| text.parse().ok()).unwrap_or(500);
    let seconds = args.next().and_then(|text| text.parse().ok()).unwrap_or(30);
    let plan = Plan { clients, rate: 100_000, length: 20_000_000, limit: Duration::from_secs(seconds) };
    println!("{clients} clients, 20 MB each at 100 KB/s, for {seconds} s");
    for (name, binary) in [("nginx", oracle::nginx()?), ("headwater", headwater)] {
        show(name, &binary, plan)?;
    }
    Ok(())
}

fn show(name: &str, binary: &Path, plan: Plan) -> io::Result<()> {
    let source = Source::start(plan.length)?;
    let dir = TempDir::new()?;
    let mut template = Template::new(dir.path());
    template.set("SOURCE", source.port());
    let port = template.port("8080")?;
    let server = Server::start(binary, CONF, &mut template, port, Mode::Single)?;
    let outcome = run(port, server.pid(), &source, plan)?;
    let freed = match outcome.freed {
        Some(freed) => format!("back ends free after {:.1} s", freed.as_secs_f64()),
        None => format!("back ends not free: {} of {} responses taken", source.served(), plan.clients),
    };
    println!(
        "{name:10} {freed}; resident at most {:.1} MB; {:.1} MB read in {:.1} s, {} clients got something wrong",
        outcome.resident as f64 / 1e6,
        outcome.bytes as f64 / 1e6,
        outcome.took.as_secs_f64(),
        outcome.wrong
    );
    if outcome.wrong > 0 {
        return Err(io::Error::other(format!("{name}: {} clients got something wrong", outcome.wrong)));
    }
    Ok(())
}
