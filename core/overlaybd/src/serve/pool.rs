//! A bounded pool of threads for the requests that may have to wait for a network or a disk.
//!
//! Threads start on demand, up to a maximum, and end after a while without work. The queue is
//! bounded too: a submitter waits for room, which makes a front end stop reading requests.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};

type Job = Box<dyn FnOnce() + Send>;

/// Hears how long a job waited for a thread.
type Waited = Box<dyn Fn(Duration) + Send + Sync>;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// A pool. Dropping it lets queued jobs run and then ends the threads.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    max_threads: usize,
    max_queue: usize,
    waited: Waited,
    state: Mutex<State>,
    /// Signalled when a job is queued and when the pool closes.
    work: Condvar,
    /// Signalled when a job leaves the queue, and when a thread ends.
    room: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Option<Instant>, Job)>,
    threads: usize,
    /// Threads that wait for a job, or were just started and will.
    idle: usize,
    closed: bool,
}

impl Pool {
    /// A pool of at most `max_threads` threads (named `name`) and `max_queue` waiting jobs, both at
    /// least 1. No thread is started yet. `waited` is told how long each job that was given to
    /// [`Pool::submit`] waited, for room in the queue and for a thread.
    pub fn new(
        name: &str,
        max_threads: usize,
        max_queue: usize,
        waited: impl Fn(Duration) + Send + Sync + 'static,
    ) -> Self {
        Pool {
            shared: Arc::new(Shared {
                name: name.to_string(),
                max_threads: max_threads.max(1),
                max_queue: max_queue.max(1),
                waited: Box::new(waited),
                state: Mutex::default(),
                work: Condvar::new(),
                room: Condvar::new(),
            }),
        }
    }

    /// Queues a job; waits while the queue is full. Must not be called by a job of this pool.
    ///
    /// A job that panics is dropped, its thread goes on. Errors: `Interrupted` once closed; `Io` if
    /// no thread could be started and none is running.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let (shared, since) = (&self.shared, Instant::now());
        let mut state = shared.state.lock();
        while state.queue.len() >= shared.max_queue && !state.closed {
            shared.room.wait(&mut state);
        }
        if state.closed {
            return Err(Error::new(Kind::Interrupted, "the worker pool is closed"));
        }
        if state.queue.len() >= state.idle && state.threads < shared.max_threads {
            if let Err(e) = Shared::start_thread(shared, &mut state) {
                // Those that run will get to it, unless there is none.
                if state.threads == 0 {
                    return Err(e);
                }
            }
        }
        state.queue.push_back((Some(since), Box::new(job)));
        shared.work.notify_one();
        Ok(())
    }

    /// Gives a job to a thread that would take it at once, idle or yet to be started; false, and the
    /// job is dropped, if all are busy.
    pub fn try_submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let can_start = state.threads < shared.max_threads;
        if state.closed
            || state.queue.len() >= state.idle && !(can_start && Shared::start_thread(shared, &mut state).is_ok())
        {
            return false;
        }
        state.queue.push_back((None, Box::new(job)));
        shared.work.notify_one();
        true
    }

    /// Refuses new jobs, and returns once all queued ones have run and all threads have ended. Must
    /// not be called by a job of this pool.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        self.shared.close(&mut state);
        while state.threads > 0 {
            self.shared.room.wait(&mut state);
        }
    }

    /// Threads that exist now.
    pub fn threads(&self) -> usize {
        self.shared.state.lock().threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // No waiting here: the last owner may be a job.
        let mut state = self.shared.state.lock();
        self.shared.close(&mut state);
    }
}

impl Shared {
    fn close(&self, state: &mut State) {
        state.closed = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> Result<()> {
        let shared = Arc::clone(self);
        crate::sync::thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || shared.run())
            .map_err(|e| Error::io("starting a worker thread", e))?;
        state.threads += 1;
        state.idle += 1;
        Ok(())
    }

    fn run(&self) {
        let mut state = self.state.lock();
        state.idle -= 1;
        loop {
            if let Some((since, job)) = state.queue.pop_front() {
                self.room.notify_one();
                MutexGuard::unlocked(&mut state, || {
                    if let Some(since) = since {
                        (self.waited)(since.elapsed());
                    }
                    // The job owns what it touches; its requests are answered by guards of their own.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                });
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let timed_out = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests;
