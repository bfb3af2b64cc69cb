//! Tests of `timer.rs`.

use super::*;
use std::time::Instant;

const MS: Duration = Duration::from_millis(1);

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Polls once.
async fn expired_now(timer: &Timer) -> bool {
    poll_fn(|cx| Poll::Ready(timer.poll_expired(cx).is_ready())).await
}

#[test]
fn sleep_short_takes_at_least_its_time() {
    run(async {
        let start = Instant::now();
        sleep(30 * MS).await;
        let took = start.elapsed();
        assert!(took >= 30 * MS && took < 1000 * MS, "{took:?}");
    });
}

#[test]
fn arm_later_keeps_one_entry_and_fires_at_the_new_time() {
    run(async {
        let timer = Timer::new();
        let start = Instant::now();
        timer.arm(10 * MS);
        for _ in 0..100 {
            timer.arm(60 * MS);
            assert_eq!(queue_len(), 1);
        }
        timer.expired().await;
        assert!(start.elapsed() >= 60 * MS);
        assert!(expired_now(&timer).await, "stays expired");
        timer.disarm();
        assert!(!expired_now(&timer).await);
        assert_eq!((timer.is_armed(), queue_len()), (false, 0));
    });
}

#[test]
fn arm_earlier_replaces_the_entry_and_wakes_the_driver() {
    run(async {
        let other = Timer::new();
        other.arm(3_600_000 * MS);
        tokio::task::yield_now().await;
        let timer = Timer::new();
        timer.arm(1_000_000 * MS);
        tokio::task::yield_now().await;
        timer.arm(10 * MS);
        assert_eq!(queue_len(), 2);
        let start = Instant::now();
        timer.expired().await;
        assert!(start.elapsed() < 1000 * MS);
    });
    assert_eq!(queue_len(), 0);
}

#[test]
fn drop_armed_removes_its_entry() {
    run(async {
        let timer = Timer::new();
        timer.arm(1_000_000 * MS);
        let copy = timer.clone();
        drop(timer);
        assert_eq!(queue_len(), 1);
        drop(copy);
        assert_eq!(queue_len(), 0);
    });
}

#[test]
fn disarm_before_time_never_fires() {
    run(async {
        let timer = Timer::new();
        timer.arm(5 * MS);
        timer.disarm();
        sleep(30 * MS).await;
        assert!(!expired_now(&timer).await);
        timer.arm(5 * MS);
        timer.expired().await;
    });
}

#[test]
fn with_timeout_ready_future_never_arms() {
    run(async {
        let timer = Timer::new();
        assert_eq!(with_timeout(&timer, 5 * MS, async { 7 }).await, Ok(7));
        assert_eq!(queue_len(), 0);
        let pending = with_timeout(&timer, 5 * MS, std::future::pending::<()>()).await;
        assert_eq!(pending, Err(Elapsed));
        assert!(!timer.is_armed());
        let slow = with_timeout(&timer, 5000 * MS, async {
            sleep(10 * MS).await;
            1
        });
        assert_eq!(slow.await, Ok(1));
        assert!(!timer.is_armed());
    });
}

#[test]
fn runtime_gone_with_armed_timer_next_runtime_drives_it() {
    let timer = Timer::new();
    run(async {
        timer.arm(20 * MS);
        tokio::task::yield_now().await;
    });
    run(async {
        sleep(1 * MS).await;
        timer.expired().await;
    });
}

#[test]
fn many_timers_fire_in_order() {
    run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [40u64, 10, 30, 20, 10]
            .into_iter()
            .map(|ms| {
                let order = order.clone();
                tokio::task::spawn_local(async move {
                    sleep(Duration::from_millis(ms)).await;
                    order.borrow_mut().push(ms);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [10, 10, 20, 30, 40]);
    });
}
