//! What explores must find what is there to be found: mistakes that one preemption shows, and none with none.

use std::sync::Arc;

use overlaybd::sync::{point, sim, thread, Condvar, Mutex};

/// # Panics
/// If the explorer misses a mistake, or sees one where there is none.
pub fn check() {
    for (story, says) in
        [(lost_update as fn(), "left == right"), (two_orders, "all wait for ever"), (lost_wake_up, "all wait for ever")]
    {
        let none = sim::explore(0, 1000, story);
        let one = sim::explore(1, 1000, story);
        let (outcome, decisions) = one.failure.unwrap_or_else(|| fail("a mistake was not found"));
        let again = sim::follow(1, &decisions, story);
        let failures = [outcome.failure, again.failure].map(Option::unwrap_or_default);
        if !none.complete || none.failure.is_some() || failures.iter().any(|failure| !failure.contains(says)) {
            fail(&format!("explored wrongly: {:?}, {failures:?}", none.failure));
        }
    }
    let two = sim::explore(9, 1000, || {
        let thread = thread::Builder::new().spawn(|| (0..2).for_each(|_| point())).expect("a thread");
        (0..2).for_each(|_| point());
        thread.join().expect("the thread's end");
    });
    // Two threads with three stretches each, and the end of the second seen or waited for: all orders of them.
    if !two.complete || two.runs < 6 {
        fail(&format!("{} schedules of two threads", two.runs));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("models: {why}");
    std::process::exit(3);
}

fn lost_update() {
    let counter = Arc::new(Mutex::new(0));
    let add = |counter: &Mutex<i32>| {
        let seen = *counter.lock();
        *counter.lock() = seen + 1;
    };
    let other = Arc::clone(&counter);
    let thread = thread::Builder::new().spawn(move || add(&other)).expect("a thread");
    add(&counter);
    thread.join().expect("the thread's end");
    assert_eq!(*counter.lock(), 2);
}

fn two_orders() {
    let locks = Arc::new((Mutex::new(()), Mutex::new(())));
    let other = Arc::clone(&locks);
    let thread = thread::Builder::new().spawn(move || drop((other.1.lock(), other.0.lock()))).expect("a thread");
    drop((locks.0.lock(), locks.1.lock()));
    thread.join().expect("the thread's end");
}

fn lost_wake_up() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let other = Arc::clone(&gate);
    let thread = thread::Builder::new().spawn(move || {
        *other.0.lock() = true;
        other.1.notify_all();
    });
    // Looks, lets go, and only then waits.
    let open = *gate.0.lock();
    if !open {
        gate.1.wait(&mut gate.0.lock());
    }
    thread.expect("a thread").join().expect("the thread's end");
}
