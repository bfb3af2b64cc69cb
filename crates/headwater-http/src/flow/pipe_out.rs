//! Bytes that go to a client from a pipe, so that they never come to user space.
//!
//! Called by the upstream engine for a body that nothing has to look at. nginx has no counterpart.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker};

use headwater_io::splice::Pipe;
use headwater_io::timer::with_timeout;

use super::output::{Framing, Output, SendError, fail, too_slow};
use crate::request::{Connection, Request};

impl Request {
    /// How many bytes the rest of the body has, if they may go to the client's socket as they come: nothing waits to be written before them,
    /// and no filter, chunk, limit of rate or TLS is in the way.
    pub(crate) fn takes_pipe(&self) -> Option<u64> {
        let (Output::Client(connection), Framing::Length(left)) = (&self.output, self.framing.get()) else {
            return None;
        };
        let plain = self.family().is_none()
            && !self.header_only.get()
            && !self.post_action.get()
            && !self.has_body_filters()
            && !self.is_rate_limited()
            && !connection.stream.borrow().is_tls();
        (plain && self.queued() == 0).then_some(left)
    }

    /// Writes what the client's socket takes now; the rest stays in the pipe.
    pub(crate) fn pipe_now(&self, pipe: &mut Pipe) -> Result<(), SendError> {
        let connection = self.connection();
        let mut cx = Context::from_waker(Waker::noop());
        while pipe.held() > 0 {
            let polled = pipe.poll_empty(&mut cx, &connection.stream.borrow());
            let Poll::Ready(written) = polled else { break };
            self.piped(connection, written)?;
        }
        Ok(())
    }

    /// Writes all that the pipe holds, at the client's speed.
    pub(crate) async fn pipe_out(&self, pipe: &mut Pipe) -> Result<(), SendError> {
        let connection = self.connection();
        let limit = *self.loc().core.send_timeout;
        while pipe.held() > 0 {
            let write = poll_fn(|cx| pipe.poll_empty(cx, &connection.stream.borrow()));
            let Ok(written) = with_timeout(&connection.write_timer, limit, write).await else {
                return Err(too_slow(self, connection));
            };
            self.piped(connection, written)?;
        }
        Ok(())
    }

    /// Counts what was written.
    fn piped(&self, connection: &Connection, written: io::Result<usize>) -> Result<(), SendError> {
        let written = written.map_err(|error| {
            fail(self, connection, &error);
            SendError::Broken
        })? as u64;
        if let Framing::Length(left) = self.framing.get() {
            self.framing.set(Framing::Length(left.saturating_sub(written)));
        }
        for count in [&connection.sent, &self.exchange.bytes_sent, &self.said] {
            count.set(count.get().saturating_add(written));
        }
        Ok(())
    }
}
