//! A connection that was upgraded, or that `CONNECT` asked for: bytes both ways until either side ends.
//!
//! Called by `engine` after a 101, or when the connection to the other end is there. nginx's counterpart: `ngx_http_upstream_process_upgraded`.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use headwater_io::scratch::with_scratch;
use headwater_io::stream::Stream;
use headwater_io::timer::{Timer, with_timeout};

use super::pool::Link;
use super::settings::UpstreamConf;
use crate::flow::error_log::Level;
use crate::flow::os_error;
use crate::flow::phases::Outcome;
use crate::request::Request;

/// One direction: what was read and not written yet, and whether its source ended.
#[derive(Default)]
struct Direction {
    waiting: Vec<u8>,
    ended: bool,
    bytes: u64,
    /// How much is read at once, bytes.
    limit: usize,
}

impl Direction {
    /// Moves what can be moved; whether anything moved.
    fn step(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        loop {
            while !self.waiting.is_empty() {
                match to.poll_write(cx, &self.waiting) {
                    Poll::Ready(sent) => {
                        let sent = sent?;
                        self.waiting.drain(..sent.min(self.waiting.len()));
                        self.bytes = self.bytes.saturating_add(sent as u64);
                        moved = true;
                    }
                    Poll::Pending => return Ok(moved),
                }
            }
            if self.ended {
                return Ok(moved);
            }
            let limit = self.limit.max(1);
            let read = with_scratch(|scratch| {
                let length = limit.min(scratch.len());
                let scratch = scratch.get_mut(..length).unwrap_or_default();
                match from.poll_read(cx, scratch) {
                    Poll::Ready(Ok(length)) => {
                        let bytes = scratch.get(..length).unwrap_or_default();
                        self.ended = bytes.is_empty();
                        let sent = match to.try_write(bytes) {
                            Ok(sent) => sent,
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                            Err(error) => return Err(error),
                        };
                        self.bytes = self.bytes.saturating_add(sent as u64);
                        self.waiting.extend_from_slice(bytes.get(sent..).unwrap_or_default());
                        Ok(true)
                    }
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Pending => Ok(false),
                }
            })?;
            if !read {
                return Ok(moved);
            }
            moved = true;
        }
    }

    fn is_over(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }
}

/// Tunnels until either side ends; `early` are bytes that came behind the back end's head, and `limit` is how many are read at once.
pub async fn run(
    r: &Request,
    conf: &UpstreamConf,
    mut link: Link,
    early: Vec<u8>,
    limit: usize,
) -> Outcome<'static> {
    if r.drained().await.is_err() {
        return Outcome::Close(499);
    }
    r.action.set("proxying upgraded connection");
    let _ = link.stream.set_nodelay(true);
    let connection = r.connection().clone();
    let mut up =
        Direction { waiting: connection.input.borrow_mut().take().into(), limit, ..Direction::default() };
    let mut down = Direction { waiting: early, limit, ..Direction::default() };
    let timer = Timer::new();
    loop {
        let time = time_limit(r, conf, &up, &down);
        let turn = poll_fn(|cx| {
            let mut client = connection.stream.borrow_mut();
            let outcome = up.step(&mut client, &mut link.stream, cx).and_then(|first| {
                let second = down.step(&mut link.stream, &mut client, cx)?;
                Ok(first || second)
            });
            match outcome {
                Ok(false) if !up.is_over() && !down.is_over() => Poll::Pending,
                Ok(_) => Poll::Ready(Ok(())),
                Err(error) => Poll::Ready(Err(error)),
            }
        });
        match with_timeout(&timer, time, turn).await {
            Ok(Ok(())) if up.is_over() || down.is_over() => break,
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                r.log(Level::Info, format_args!("connection failed {}", os_error(&error)));
                break;
            }
            Err(_) => {
                r.log(Level::Info, format_args!("upstream timed out (110: Connection timed out)"));
                break;
            }
        }
    }
    if let Some(state) = r.upstream.borrow_mut().current() {
        state.bytes_sent = state.bytes_sent.saturating_add(up.bytes);
        state.bytes_received = state.bytes_received.saturating_add(down.bytes);
    }
    let total = r.exchange.bytes_sent.get().saturating_add(down.bytes);
    r.exchange.bytes_sent.set(total);
    let status = r.headers_out.borrow().status();
    Outcome::Close(status)
}

/// How long nothing may move: the side that is slow to take what waits for it has its own limit.
fn time_limit(r: &Request, conf: &UpstreamConf, up: &Direction, down: &Direction) -> Duration {
    let mut limit = conf.read_timeout;
    if !up.waiting.is_empty() {
        limit = limit.min(conf.send_timeout);
    }
    if !down.waiting.is_empty() {
        limit = limit.min(*r.loc().core.send_timeout);
    }
    limit
}
