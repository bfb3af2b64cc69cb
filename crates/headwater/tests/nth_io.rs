//! The N-th operation fails, for every N, in every kind of exchange.
//!
//! This program is both the test and the server under test. For each exchange and each kind of fault it lets the first, the second, the third …
//! operation of the server fail (connecting, accepting, reading, writing, `sendfile`, temp files, socket options) until none is left to
//! fail. After each the client must have the right answer, an error page, or a connection that ends visibly too early; the server must serve the next
//! request; and in the end nothing is left open. Needs the feature `fault-injection`. `CELL=text` runs some exchanges.

#![allow(clippy::expect_used, clippy::panic, reason = "what does not work fails the test")]

#[path = "nth_io/exchanges.rs"]
mod exchanges;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use exchanges::{Exchange, Verdict};
use headwater::io::fault::{self, Flavour};
use headwater_testkit::fault::backend::{Backend, Record};
use headwater_testkit::fault::client::{self, Client};
use headwater_testkit::fault::{catalogue, usage};
use headwater_testkit::server::{Mode, Server, TempDir};
use headwater_testkit::template::Template;

/// More operations than any exchange has; more are an endless loop.
const MOST: u32 = 2000;
/// What all of it may take.
const PATIENCE: Duration = Duration::from_secs(115);

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.iter().any(|arg| arg == "-p") {
        return serve(args);
    }
    // `cargo test NAME` and `--list` reach every test binary; this one has no tests of that kind.
    if args.iter().any(|arg| arg == "--list" || !arg.to_string_lossy().starts_with('-')) {
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    // A server for each exchange: most of their time is waiting.
    let filter = std::env::var("CELL").unwrap_or_default();
    let count = exchanges::all(&catalogue::all()).len();
    let walkers: Vec<_> = (0..count)
        .map(|index| {
            let filter = filter.clone();
            thread::spawn(move || Setup::start().expect("it starts").walk(index, &filter))
        })
        .collect();
    let mut wrong = Vec::new();
    for walker in walkers {
        wrong.extend(walker.join().expect("no walker panicked"));
    }
    println!("{:?}", start.elapsed());
    wrong.iter().take(40).for_each(|line| println!("{line}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The server: Headwater, and a thread that arms faults when told to.
fn serve(args: Vec<std::ffi::OsString>) -> ExitCode {
    headwater::io::block_all_for_workers().expect("signals are blocked");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let prefix = args.iter().skip_while(|arg| *arg != "-p").nth(1).expect("a prefix");
    std::fs::write(Path::new(prefix).join("control"), port.to_string()).expect("it can be written");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            while let Some(Ok(line)) = lines.next() {
                let answer = match line.split_once(' ') {
                    Some((flavour, nth)) => {
                        fault::arm(nth.parse().unwrap_or(0), flavour_of(flavour));
                        "armed"
                    }
                    None => fault::disarm().unwrap_or("none"),
                };
                let _ = writeln!(&stream, "{answer}");
            }
        }
    });
    match headwater::Builder::from_command_line(args) {
        Ok(builder) => builder.run(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn flavour_of(name: &str) -> Flavour {
    match name {
        "usual" => Flavour::Usual,
        "odd" => Flavour::Odd,
        _ => Flavour::Short,
    }
}

/// The server, its back ends, and the line to its faults.
struct Setup {
    server: Server,
    port: u16,
    control: BufReader<TcpStream>,
    exchanges: Vec<Exchange>,
    _backends: (Backend, TcpListener),
    _dir: TempDir,
}

impl Setup {
    fn start() -> io::Result<Self> {
        let scripts = Arc::new(catalogue::all());
        let backend = Backend::start("A", Arc::clone(&scripts), Arc::new(Record::default()))?;
        let fastcgi = exchanges::fastcgi()?;
        let dir = TempDir::new()?;
        std::fs::write(dir.path().join("html/file"), catalogue::pattern(200_000))?;
        std::fs::write(dir.path().join("html/main"), "the main part\n")?;
        let mut template = Template::new(dir.path());
        template.set("A", backend.port());
        template.set("FASTCGI", fastcgi.local_addr()?.port());
        let good = scripts.iter().position(|script| script.name == "good").unwrap_or_default();
        template.set("GOOD", good);
        let port = template.port("8080")?;
        let exchanges = exchanges::all(&scripts);
        let server =
            Server::start(&std::env::current_exe()?, exchanges::CONF, &mut template, port, Mode::Single)?;
        let control: u16 = server.read("control").parse().map_err(io::Error::other)?;
        let control = BufReader::new(TcpStream::connect(("127.0.0.1", control))?);
        Ok(Self { server, port, control, exchanges, _backends: (backend, fastcgi), _dir: dir })
    }

    /// Tells the server and reads its answer.
    fn tell(&mut self, line: &str) -> String {
        let mut answer = String::new();
        let told =
            writeln!(self.control.get_ref(), "{line}").and_then(|()| self.control.read_line(&mut answer));
        told.expect("the server lives");
        answer.trim().to_owned()
    }

    /// One exchange with every fault; what went wrong.
    fn walk(mut self, index: usize, filter: &str) -> Vec<String> {
        let (start, mut wrong, mut total) = (Instant::now(), Vec::new(), 0);
        let exchange = self.exchanges.swap_remove(index);
        if exchange.name.contains(filter) {
            let right = client::ask(self.port, &exchange.uri, exchange.client).expect("it answers");
            if !exchange.is_expected(&right) {
                wrong.push(format!("{} without a fault: {right:?}", exchange.name));
            }
            let idle = self.descriptors(usize::MAX);
            for flavour in ["usual", "odd", "short"] {
                let mut fired = 0;
                let mut nth = 0;
                while nth < MOST {
                    // The operations of a long transfer are all alike.
                    nth += 1 + nth / 50;
                    self.tell(&format!("{flavour} {nth}"));
                    let seen = client::ask(self.port, &exchange.uri, exchange.client);
                    let operation = self.tell("disarm");
                    if operation == "none" {
                        break;
                    }
                    fired += 1;
                    let context = format!("{} {flavour} {nth} ({operation})", exchange.name);
                    if !filter.is_empty() {
                        println!("{context}: {seen:?}");
                    }
                    match seen {
                        Err(error) => wrong.push(format!("{context}: {error}")),
                        Ok(seen) => {
                            let verdict = exchange.verdict(&seen, &right);
                            let whole = flavour == "short" && is_transfer(&operation);
                            if verdict == Verdict::Wrong || (whole && verdict != Verdict::Right) {
                                wrong.push(format!("{context}: {seen:?}"));
                            }
                        }
                    }
                    self.check_alive(&context, &mut wrong);
                    if start.elapsed() > PATIENCE || wrong.len() > 40 {
                        wrong.push(format!("{context}: not done after {:?}", start.elapsed()));
                        return wrong;
                    }
                }
                total += fired;
                let now = self.descriptors(idle);
                if now > idle {
                    wrong.push(format!("{} {flavour}: {now} descriptors, {idle} before", exchange.name));
                }
            }
        }
        println!("{}: {total} faults in {:?}", exchange.name, start.elapsed());
        wrong
    }

    /// Descriptors when at most so many are left, or when no fewer appear for a while: the back end closes an idle connection after three
    /// seconds, and that is noticed twice a second.
    fn descriptors(&self, wanted: usize) -> usize {
        let patience = Duration::from_millis(if wanted == usize::MAX { 0 } else { 6000 });
        if patience.is_zero() {
            // The pool is looked over twice a second.
            thread::sleep(Duration::from_millis(1100));
        }
        usage::settle(self.server.pid(), wanted, patience).expect("it runs")
    }

    fn check_alive(&self, context: &str, wrong: &mut Vec<String>) {
        match client::ask(self.port, "/alive", Client::Get11) {
            Ok(seen) if seen.responses.first().is_some_and(|answer| answer.head.contains(" 204 ")) => {}
            other => wrong.push(format!("{context}: the next request gets {other:?}")),
        }
    }
}

/// Whether an operation can move fewer bytes than asked for.
fn is_transfer(operation: &str) -> bool {
    ["read", "write", "sendfile"].contains(&operation)
}
