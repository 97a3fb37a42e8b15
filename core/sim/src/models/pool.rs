//! The workers of front ends (`serve/pool.rs`): submitted, refused, idle and closed at the same time.
//!
//! Promised: each job that was taken runs once; the end of `close` is the end of all of them; no more threads than
//! allowed; a job that panics takes nothing with it; nobody waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Arc;
use std::time::Duration;

use overlaybd::serve::pool::Pool;
use overlaybd::sync::{point, sim, thread};

use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "pool-close", story: closed, quick: 1, deep: 2 },
    &Model { name: "pool-full", story: full, quick: 1, deep: 2 },
    &Model { name: "pool-idle", story: idle, quick: 2, deep: 3 },
    &Model { name: "pool-dropped", story: dropped, quick: 2, deep: 3 },
];

fn job(ran: &Arc<AtomicUsize>) -> impl FnOnce() + Send + 'static {
    let ran = Arc::clone(ran);
    move || {
        point();
        ran.fetch_add(1, SeqCst);
    }
}

/// Closes the pool: idle threads end at once, not when they have waited long enough for work.
fn close(pool: &Pool) {
    let begun = sim::now();
    pool.close();
    assert_eq!(sim::now(), begun, "it took time to close");
}

/// Two submit while a third closes.
fn closed() {
    let (pool, ran) = (Arc::new(Pool::new("t", 2, 1, |_| {})), Arc::new(AtomicUsize::new(0)));
    let (own, count) = (Arc::clone(&pool), Arc::clone(&ran));
    let submitter = thread::Builder::new().spawn(move || {
        let taken = usize::from(own.submit(job(&count)).is_ok());
        taken + usize::from(own.try_submit(job(&count)))
    });
    let mut taken = usize::from(pool.submit(job(&ran)).is_ok());
    assert!(pool.threads() <= 2);
    close(&pool);
    let done = ran.load(SeqCst);
    assert_eq!(pool.threads(), 0);
    taken += submitter.expect("a thread").join().expect("a submitter that ends well");
    assert_eq!((done, ran.load(SeqCst)), (taken, taken), "when it is closed all that was taken has run");
    assert!(pool.submit(|| {}).is_err() && !pool.try_submit(|| {}));
}

/// Room for one, and three want to go in; one of the jobs panics.
fn full() {
    let (pool, ran) = (Arc::new(Pool::new("t", 1, 1, |_| {})), Arc::new(AtomicUsize::new(0)));
    let (own, count) = (Arc::clone(&pool), Arc::clone(&ran));
    let submitter = thread::Builder::new().spawn(move || {
        own.submit(|| panic!("as it is meant to")).expect("room for it");
        own.submit(job(&count)).expect("room for it");
    });
    for _ in 0..2 {
        pool.submit(job(&ran)).expect("room for it");
        assert!(pool.threads() <= 1);
    }
    submitter.expect("a thread").join().expect("a submitter that ends well");
    close(&pool);
    assert_eq!(ran.load(SeqCst), 3);
}

/// A job comes at the very moment at which a thread has waited long enough for one.
fn idle() {
    let (pool, ran) = (Arc::new(Pool::new("t", 1, 2, |_| {})), Arc::new(AtomicUsize::new(0)));
    pool.submit(job(&ran)).expect("room for it");
    sim::sleep(Duration::from_secs(10));
    pool.submit(job(&ran)).expect("room for it");
    let tried = usize::from(pool.try_submit(job(&ran)));
    while ran.load(SeqCst) < 2 + tried {
        // A job that nobody will run is found by the end that never comes.
        sim::sleep(Duration::from_secs(1));
        assert!(sim::now() < Some(Duration::from_secs(100)), "a job is left over");
    }
    close(&pool);
    assert_eq!(ran.load(SeqCst), 2 + tried);
}

/// Its last owner lets go of it: what was taken runs, and the threads end.
fn dropped() {
    let (pool, ran) = (Pool::new("t", 2, 2, |_| {}), Arc::new(AtomicUsize::new(0)));
    pool.submit(job(&ran)).expect("room for it");
    pool.submit(job(&ran)).expect("room for it");
    drop(pool);
    sim::sleep(Duration::from_secs(30));
    assert_eq!(ran.load(SeqCst), 2);
}
