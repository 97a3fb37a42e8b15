//! What front ends rely on: bounds, back-pressure, no lost job.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};

use super::*;

#[test]
fn runs_every_job_with_few_threads() {
    let pool = Pool::new("t", 3, 4, |_| {});
    let done = Arc::new(AtomicUsize::new(0));
    let jobs = if cfg!(miri) { 50 } else { 500 };
    for _ in 0..jobs {
        let done = Arc::clone(&done);
        pool.submit(move || {
            done.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        assert!(pool.threads() <= 3);
    }
    pool.close();
    assert_eq!((done.load(Ordering::Relaxed), pool.threads()), (jobs, 0));
    assert_eq!(pool.submit(|| {}).unwrap_err().kind(), Kind::Interrupted);
    assert!(!pool.try_submit(|| {}));
}

#[test]
fn as_many_blocked_jobs_as_threads_run_at_once() {
    let pool = Pool::new("t", 4, 1, |_| {});
    let together = Arc::new(Barrier::new(4));
    for _ in 0..4 {
        let together = Arc::clone(&together);
        pool.submit(move || {
            together.wait();
        })
        .unwrap();
    }
    pool.close();
}

#[test]
fn a_full_queue_holds_the_submitter_up() {
    let pool = Arc::new(Pool::new("t", 1, 1, |_| {}));
    let (release, gate) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel();
    pool.submit(move || {
        started.send(()).unwrap();
        let _ = gate.recv();
    })
    .unwrap();
    has_started.recv().unwrap();
    assert!(!pool.try_submit(|| {}), "its only thread is busy");
    pool.submit(|| {}).unwrap();
    let (passed, has_passed) = mpsc::channel();
    let submitter = {
        let pool = Arc::clone(&pool);
        std::thread::spawn(move || {
            pool.submit(|| {}).unwrap();
            passed.send(()).unwrap();
        })
    };
    assert!(has_passed.recv_timeout(Duration::from_millis(20)).is_err(), "third job must wait for room");
    release.send(()).unwrap();
    has_passed.recv().unwrap();
    submitter.join().unwrap();
    pool.close();
}

#[test]
fn a_panicking_job_takes_nothing_with_it() {
    let pool = Pool::new("t", 1, 8, |_| {});
    let (sender, receiver) = mpsc::channel();
    pool.submit(|| panic!("expected by this test")).unwrap();
    pool.submit(move || sender.send(7).unwrap()).unwrap();
    assert_eq!(receiver.recv().unwrap(), 7);
    pool.close();
}
