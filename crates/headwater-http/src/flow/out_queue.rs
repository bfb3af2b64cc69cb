//! Bytes and file ranges on their way to a client, in order, with as few system calls as they allow.
//!
//! Owned by a client connection; filled by `flow::output`, emptied there too. nginx's counterpart: the `out` chain and `ngx_writev_chain`,
//! `ngx_linux_sendfile_chain`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use headwater_io::stream::Stream;

/// Slices from this size on are written from where they stand rather than copied behind what is queued.
const COPY_LIMIT: usize = 2048;
/// How many pieces one `writev` takes.
const VECTORS: usize = 32;
/// Files up to this length leave with the head in front of them, which saves a segment; of a longer one's many it would be one. Bytes.
const JOIN_LIMIT: u64 = 128 * 1024;
/// Capacity that an idle queue keeps, bytes.
const KEEP_CAPACITY: usize = 4096;

/// A stretch of an open file.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The file.
    pub file: Arc<File>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    File(FileRange),
}

/// Bytes and file ranges waiting to be written.
#[derive(Debug, Default)]
pub struct OutQueue {
    pieces: VecDeque<Piece>,
    tail: Vec<u8>,
    /// How much of `tail` is written already.
    tail_sent: usize,
    queued: u64,
}

impl OutQueue {
    /// Bytes waiting, file ranges included.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Appends through a function that writes into the buffer, for heads.
    pub fn append_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let before = self.tail.len();
        write(&mut self.tail);
        let grown = self.tail.len().saturating_sub(before);
        self.queued = self.queued.saturating_add(grown as u64);
        grown
    }

    /// Appends a copy.
    pub fn append(&mut self, data: &[u8]) {
        self.append_with(|tail| tail.extend_from_slice(data));
    }

    /// Appends bytes; large ones are kept without copying.
    pub fn append_bytes(&mut self, data: Bytes) {
        if data.len() < COPY_LIMIT {
            self.append(&data);
            return;
        }
        self.seal_tail();
        self.queued = self.queued.saturating_add(data.len() as u64);
        self.pieces.push_back(Piece::Bytes(data));
    }

    /// Appends a stretch of a file.
    pub fn append_file(&mut self, range: FileRange) {
        if range.len == 0 {
            return;
        }
        self.seal_tail();
        self.queued = self.queued.saturating_add(range.len);
        if let Some(Piece::File(last)) = self.pieces.back_mut()
            && Arc::ptr_eq(&last.file, &range.file)
            && last.offset.saturating_add(last.len) == range.offset
        {
            last.len = last.len.saturating_add(range.len);
            return;
        }
        self.pieces.push_back(Piece::File(range));
    }

    /// Appends a slice, writing at once what the socket takes when the slice is large: only the rest is copied. Gives the number of
    /// bytes written.
    pub fn append_or_write(&mut self, stream: &mut Stream, data: &[u8], after: &[u8]) -> io::Result<usize> {
        if data.len() < COPY_LIMIT || !self.pieces.is_empty() {
            self.append(data);
            self.append(after);
            return Ok(0);
        }
        let pending = self.tail.get(self.tail_sent..).unwrap_or_default();
        let vectors = [IoSlice::new(pending), IoSlice::new(data), IoSlice::new(after)];
        let pending_len = pending.len();
        let sent = match stream.try_write_vectored(&vectors) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < pending_len {
            self.tail_sent = self.tail_sent.saturating_add(sent);
            self.queued = self.queued.saturating_sub(sent as u64);
            self.append(data);
            self.append(after);
            return Ok(sent);
        }
        self.tail.clear();
        self.tail_sent = 0;
        self.queued = 0;
        let past = sent.saturating_sub(pending_len);
        let data_sent = past.min(data.len());
        self.append(data.get(data_sent..).unwrap_or_default());
        self.append(after.get(past.saturating_sub(data_sent)..).unwrap_or_default());
        Ok(sent)
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let mut sealed = Bytes::from(std::mem::take(&mut self.tail));
        sealed.advance(std::mem::take(&mut self.tail_sent).min(sealed.len()));
        if !sealed.is_empty() {
            self.pieces.push_back(Piece::Bytes(sealed));
        }
    }

    /// Writes at once what the socket takes, up to about `limit` bytes: a client that reads as fast as it is written to must not keep
    /// the worker from the others. Gives the number of bytes.
    pub fn write_now(&mut self, stream: &mut Stream, limit: usize) -> io::Result<u64> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut total: u64 = 0;
        while !self.is_empty() && total < limit as u64 {
            match self.poll_write(stream, &mut cx, limit) {
                Poll::Ready(Ok(sent)) => total = total.saturating_add(sent as u64),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(total)
    }

    /// Writes with one system call, at most `limit` bytes; gives the number of bytes.
    pub fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        if let Some(Piece::File(range)) = self.pieces.front_mut() {
            let count = usize::try_from(range.len).unwrap_or(usize::MAX).min(limit);
            let sent = ready!(stream.poll_sendfile(cx, &range.file, &mut range.offset, count))?;
            if sent == 0 {
                let message = "file was truncated while it was being sent";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
            }
            range.len = range.len.saturating_sub(sent as u64);
            if range.len == 0 {
                self.pieces.pop_front();
            }
            self.queued = self.queued.saturating_sub(sent as u64);
            return Poll::Ready(Ok(sent));
        }
        let sent = ready!(self.poll_write_bytes(stream, cx, limit))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_bytes(
        &self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let tail = self.tail.get(self.tail_sent..).unwrap_or_default();
        if self.pieces.is_empty() {
            return stream.poll_write(cx, tail.get(..limit.min(tail.len())).unwrap_or_default());
        }
        let mut vectors = [IoSlice::new(&[]); VECTORS];
        let mut used = 0;
        let mut left = limit;
        let mut only_bytes = true;
        for piece in &self.pieces {
            let Piece::Bytes(bytes) = piece else {
                only_bytes = false;
                break;
            };
            let Some(slot) = vectors.get_mut(used) else {
                only_bytes = false;
                break;
            };
            *slot = IoSlice::new(bytes.get(..left.min(bytes.len())).unwrap_or_default());
            left = left.saturating_sub(bytes.len());
            used = used.saturating_add(1);
            if left == 0 {
                break;
            }
        }
        if only_bytes
            && left > 0
            && !tail.is_empty()
            && let Some(slot) = vectors.get_mut(used)
        {
            *slot = IoSlice::new(tail.get(..left.min(tail.len())).unwrap_or_default());
            used = used.saturating_add(1);
        }
        let vectors = vectors.get(..used).unwrap_or_default();
        if left > 0
            && let Some(Piece::File(range)) = self.pieces.get(used)
            && range.len <= JOIN_LIMIT
        {
            return stream.poll_write_vectored_more(cx, vectors);
        }
        stream.poll_write_vectored(cx, vectors)
    }

    fn advance(&mut self, sent: usize) {
        self.queued = self.queued.saturating_sub(sent as u64);
        let mut left = sent;
        while left > 0 {
            match self.pieces.front_mut() {
                Some(Piece::Bytes(bytes)) => {
                    let step = left.min(bytes.len());
                    bytes.advance(step);
                    left = left.saturating_sub(step);
                    if bytes.is_empty() {
                        self.pieces.pop_front();
                    }
                }
                Some(Piece::File(_)) => break,
                None => {
                    self.tail_sent = self.tail_sent.saturating_add(left);
                    left = 0;
                }
            }
        }
        if self.tail_sent >= self.tail.len() {
            self.tail.clear();
            self.tail_sent = 0;
            if self.tail.capacity() > KEEP_CAPACITY {
                self.tail = Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use headwater_io::stream::StreamKind;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn write_now_stops_at_its_limit_and_keeps_the_rest_in_order() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("non-blocking");
        let mut stream = Stream::from_fd(OwnedFd::from(ours), StreamKind::Unix).expect("registered");
        let mut queue = OutQueue::default();
        queue.append(&[b'a'; 150]);
        queue.append_bytes(Bytes::from(vec![b'b'; 5000]));
        // The reactor learns that the socket is writable in its first turn.
        tokio::task::yield_now().await;
        std::future::poll_fn(|cx| stream.poll_write_ready(cx)).await.expect("writable");
        assert_eq!(queue.write_now(&mut stream, 100).expect("written"), 100);
        assert_eq!(queue.queued(), 5050);
        assert_eq!(queue.write_now(&mut stream, usize::MAX).expect("written"), 5050);
        let mut all = vec![0; 5150];
        theirs.read_exact(&mut all).expect("read");
        assert!(all[..150].iter().all(|byte| *byte == b'a') && all[150..].iter().all(|byte| *byte == b'b'));
    }
}
