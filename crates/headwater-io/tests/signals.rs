//! Signals through the event loop. One test only: signals belong to the whole process.
//!
//! The test harness has threads of its own that do not block signals, so the signal is sent to the thread that waits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed step fails the test

mod common;

use common::run;
use headwater_io::{Sig, Signals, block_all_for_workers};

#[test]
fn next_returns_the_signals_sent_to_this_thread() {
    block_all_for_workers().unwrap();
    run(async {
        let mut signals = Signals::new(&[Sig::Hup, Sig::Usr1]).unwrap();
        raise(Sig::Hup);
        assert_eq!(signals.next().await, Sig::Hup);
        raise(Sig::Usr1);
        raise(Sig::Usr1);
        assert_eq!(signals.try_next().await.unwrap(), Sig::Usr1);
    });
    headwater_io::signals::unblock_all().unwrap();
    assert_eq!(Sig::from_raw(Sig::Quit.raw()), Some(Sig::Quit));
}

fn raise(signal: Sig) {
    // SAFETY: the signal is blocked in this thread, so sending it runs no handler.
    let rc = unsafe { libc::pthread_kill(libc::pthread_self(), signal.raw()) };
    assert_eq!(rc, 0);
}
