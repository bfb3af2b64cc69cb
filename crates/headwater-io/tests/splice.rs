//! Bytes that travel from one socket to another through a pipe.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use common::{pair, read, run, turn, write};
use headwater_io::splice::{PIPE_SIZE, Pipe};

#[test]
fn bytes_go_through_a_pipe_in_order_and_its_end_is_seen() {
    run(async {
        let ((mut from, input), (output, mut to)) = (pair().await, pair().await);
        assert_eq!(write(&mut from, b"one two three").await, 13);
        let mut pipe = Pipe::lend().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &input, 7)).await.unwrap(), 7);
        assert_eq!(pipe.held(), 7);
        assert_eq!(poll_fn(|cx| pipe.poll_empty(cx, &output)).await.unwrap(), 7);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &input, 100)).await.unwrap(), 6);
        let mut rest = [0; 4];
        assert_eq!(pipe.read(&mut rest).unwrap(), 4);
        assert_eq!((&rest, pipe.held()), (b" thr", 2));
        assert_eq!(poll_fn(|cx| pipe.poll_empty(cx, &output)).await.unwrap(), 2);
        turn().await;
        assert_eq!(read(&mut to, 100).await, b"one twoee");
        drop(from);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &input, 100)).await.unwrap(), 0);
    });
}

#[test]
fn pipe_waits_for_either_socket() {
    run(async {
        let ((mut from, input), (output, to)) = (pair().await, pair().await);
        let mut pipe = Pipe::lend().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pipe.poll_fill(&mut cx, &input, 100).is_pending(), "nothing was sent");
        let block = vec![b'x'; PIPE_SIZE];
        // Nobody reads at the other end: at some time its buffers are full.
        let full = loop {
            if pipe.held() == 0 {
                write(&mut from, &block).await;
                poll_fn(|cx| pipe.poll_fill(cx, &input, PIPE_SIZE)).await.unwrap();
            }
            turn().await;
            match pipe.poll_empty(&mut cx, &output) {
                Poll::Pending => break pipe.held(),
                Poll::Ready(moved) => assert!(moved.unwrap() > 0),
            }
        };
        assert!(full > 0);
        drop(to);
        turn().await;
        while pipe.held() > 0 {
            if poll_fn(|cx| pipe.poll_empty(cx, &output)).await.is_err() {
                return;
            }
        }
        panic!("a socket took bytes whose peer is gone");
    });
}

#[test]
fn only_empty_pipes_are_lent_again() {
    run(async {
        let (mut from, input) = pair().await;
        write(&mut from, b"left over").await;
        let mut pipe = Pipe::lend().unwrap();
        poll_fn(|cx| pipe.poll_fill(cx, &input, 100)).await.unwrap();
        assert!(poll_fn(|cx| pipe.poll_fill(cx, &input, 100)).await.is_err(), "it is not empty");
        drop(pipe);
        write(&mut from, b"new").await;
        let mut pipe = Pipe::lend().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &input, 100)).await.unwrap(), 3);
        let mut bytes = [0; 10];
        assert_eq!(pipe.read(&mut bytes).unwrap(), 3);
        assert_eq!(&bytes[..3], b"new");
    });
}
