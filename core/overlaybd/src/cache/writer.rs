//! Writes what was fetched behind the readers' backs, within a bound of memory, and tends the directory.

use std::collections::VecDeque;
use std::sync::Arc;

use std::time::Duration;

use crate::sync::thread::JoinHandle;
use crate::sync::{Condvar, Mutex, OnceLock};

use super::flight::Flight;
use super::store::Store;
use super::Shared;

/// How often the directory is tended while nothing is written.
const TEND: Duration = Duration::from_secs(10);

/// A fetch whose bytes are to be kept.
pub(super) struct Job {
    pub store: Arc<Store>,
    pub flight: Arc<Flight>,
    pub bytes: Arc<Vec<u8>>,
}

impl Job {
    /// Keeps the bytes if there is room; their readers have been answered already.
    pub fn run(self) {
        let Job { store, flight, bytes } = self;
        let shared = &store.shared;
        let len = bytes.len() as u64;
        if shared.promise(&store, len) {
            let kept = store.keep(&flight, &bytes);
            shared.settle(&store, len);
            if let Err(e) = kept {
                shared.not_kept();
                shared.pause(&store, &e.to_string());
            }
        } else {
            store.land(&flight);
            shared.not_kept();
        }
        drop(flight);
        shared.buffers.put(bytes);
    }
}

/// When a job is run.
#[derive(Clone, Copy)]
pub(super) enum When {
    Soon,
    Here,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Bytes of the jobs, that which is being run and those that are expected included.
    bytes: usize,
    /// Jobs that are run where they come from, or will be.
    here: usize,
    closed: bool,
}

#[derive(Default)]
struct State {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// The thread that writes, started with the first blob.
pub(super) struct Writer {
    shared: Arc<Shared>,
    limit: usize,
    state: Arc<State>,
    thread: OnceLock<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Lets `limit` bytes wait.
    pub fn new(shared: Arc<Shared>, limit: usize) -> Self {
        Writer { shared, limit, state: Arc::default(), thread: OnceLock::new() }
    }

    /// Starts the thread; false if there is none: then everything is written at once.
    pub fn start(&self) -> bool {
        self.limit > 0 && self.thread.get_or_init(|| start(&self.shared, &self.state)).is_some()
    }

    /// Expects a job of `len` bytes, for which `flush` waits from now on: who is told that the bytes are here may call
    /// it before [`Writer::run`] is. Returns whether the job is to be run soon, by the thread; here if it must be
    /// `here`, or if too much is waiting.
    pub fn expect(&self, len: usize, here: bool) -> When {
        let started = !here && self.limit >= len && self.start();
        let mut queue = self.state.queue.lock();
        if started && queue.bytes + len <= self.limit {
            queue.bytes += len;
            When::Soon
        } else {
            queue.here += 1;
            When::Here
        }
    }

    /// Has the expected job run, when it was said to be.
    pub fn run(&self, job: Job, when: When) {
        match when {
            When::Soon => self.state.queue.lock().jobs.push_back(job),
            When::Here => {
                job.run();
                self.state.queue.lock().here -= 1;
            }
        }
        self.state.changed.notify_all();
    }

    /// Returns when all jobs expected before have been run.
    pub fn flush(&self) {
        let mut queue = self.state.queue.lock();
        self.state.changed.wait_while(&mut queue, |queue| queue.bytes > 0 || queue.here > 0);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.state.queue.lock().closed = true;
        self.state.changed.notify_all();
        if let Some(Some(thread)) = self.thread.take() {
            // It runs what is waiting first. A panic in it has been reported already.
            let _ = thread.join();
        }
    }
}

/// None if the system gives no thread.
fn start(shared: &Arc<Shared>, state: &Arc<State>) -> Option<JoinHandle<()>> {
    let (shared, state) = (Arc::clone(shared), Arc::clone(state));
    crate::sync::thread::Builder::new().name("obd-cache".into()).spawn(move || work(&shared, &state)).ok()
}

fn work(shared: &Arc<Shared>, state: &State) {
    shared.tend();
    loop {
        let mut queue = state.queue.lock();
        let idle = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let late = state.changed.wait_while_for(&mut queue, idle, TEND).timed_out();
        let Some(job) = queue.jobs.pop_front() else {
            if queue.closed {
                return;
            }
            drop(queue);
            if late {
                shared.tend();
            }
            continue;
        };
        drop(queue);
        let len = job.bytes.len();
        job.run();
        state.queue.lock().bytes -= len;
        state.changed.notify_all();
    }
}
