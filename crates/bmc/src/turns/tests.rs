#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;

use super::*;

fn limits(concurrency: usize, queue: usize) -> Limits {
    Limits { concurrency, queue, ..Limits::default() }
}

#[tokio::test]
async fn turns_are_given_on_and_given_back() {
    let turns = Turns::new(&limits(1, 2));
    let first = turns.turn(Urgency::Read, "x").await.unwrap();
    let mut second = Box::pin(turns.turn(Urgency::Read, "x"));
    let mut third = Box::pin(turns.turn(Urgency::Survey, "x"));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    let full = turns.turn(Urgency::Survey, "http://bmc").await.unwrap_err();
    assert_eq!(full.to_string(), "the BMC is busy: 2 operations wait for it already (at http://bmc)");

    // Somebody more urgent takes the place of the least urgent one.
    let mut change = Box::pin(turns.turn(Urgency::Change, "x"));
    assert!(change.as_mut().now_or_never().is_none());
    assert!(third.await.is_err());

    // One that stops waiting leaves no hole.
    drop(change);
    drop(first);
    let second = second.await.unwrap();
    drop(second);
    assert!(turns.turn(Urgency::Survey, "x").now_or_never().unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_at_a_time_than_there_are_places() {
    let turns = Arc::new(Turns::new(&limits(2, 1000)));
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let (turns, now, most) = (turns.clone(), now.clone(), most.clone());
        tasks.spawn(async move {
            let urgency = [Urgency::Survey, Urgency::Read, Urgency::Change][n % 3];
            let wait = turns.turn(urgency, "x");
            // Some lose their patience.
            let turn = if n % 7 == 0 {
                tokio::time::timeout(Duration::from_micros(50), wait).await.ok()
            } else {
                Some(wait.await)
            };
            if let Some(turn) = turn {
                let _turn = turn.unwrap();
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    let state = turns.lock();
    assert_eq!((state.line.waiting(), state.calls.len()), (0, 0));
}

#[tokio::test]
async fn reads_that_wait_together_are_one() {
    let (turns, together, reads) =
        (Turns::new(&limits(1, 8)), Together::<u32>::default(), AtomicUsize::new(0));
    let read = || {
        together.read(
            || turns.turn(Urgency::Read, "x"),
            || async {
                let n = reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(n as u32)
            },
        )
    };
    let busy = turns.turn(Urgency::Change, "x").await.unwrap();
    let (mut a, mut b) = (Box::pin(read()), Box::pin(read()));
    assert!(a.as_mut().now_or_never().is_none() && b.as_mut().now_or_never().is_none());
    drop(busy);
    // It has begun: who asks now gets a read of its own.
    assert!(a.as_mut().now_or_never().is_none());
    let c = read();
    let (a, b, c) = tokio::join!(a, b, c);
    assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (0, 0, 1));
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_its_followers_a_new_leader() {
    let (turns, together) = (Turns::new(&limits(1, 8)), Together::<u32>::default());
    let read = || together.read(|| turns.turn(Urgency::Read, "x"), || async { Ok(7) });
    let busy = turns.turn(Urgency::Change, "x").await.unwrap();
    let (mut a, mut b, mut c) = (Box::pin(read()), Box::pin(read()), Box::pin(read()));
    for one in [&mut a, &mut b, &mut c] {
        assert!(one.as_mut().now_or_never().is_none());
    }
    drop(a);
    drop(busy);
    let (b, c) = tokio::join!(b, c);
    assert_eq!((b.unwrap(), c.unwrap()), (7, 7));
}

#[tokio::test(start_paused = true)]
async fn requests_are_paced() {
    let turns = Turns::new(&Limits { request_burst: 2, requests_per_second: 4.0, ..Limits::default() });
    let start = Instant::now();
    for _ in 0..6 {
        turns.pace(false).await;
    }
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    turns.pace(true).await;
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}
