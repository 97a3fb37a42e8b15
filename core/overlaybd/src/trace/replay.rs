//! Fetching in advance: a few threads that fill the caches of an image's layers while the image is in use.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

use super::format::Record;
use super::list::list;
use super::plan::{plan, Piece};
use crate::blob::Blob;
use crate::error::Result;
use crate::limits::{MAX_LIST_NOTES, MAX_PREFETCH_QUEUE, MAX_PREFETCH_THREADS};
use crate::lsmt::Stack;

/// Time for which [`Prefetch::stop`] waits for fetches under way. What takes longer ends by itself.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// How to fetch.
#[derive(Clone, Copy, Debug)]
pub struct PrefetchOptions {
    /// Fetches at a time, at most [`MAX_PREFETCH_THREADS`].
    pub workers: usize,
    /// Bytes after which no fetch is begun: more would push out of the cache what was fetched first.
    pub max_bytes: u64,
}

/// What has come of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefetchStats {
    /// Pieces that are in the cache now, or were there before.
    pub pieces: u64,
    /// Bytes fetched.
    pub fetched_bytes: u64,
    /// Pieces that could not be fetched.
    pub failed: u64,
    /// Why the first of those could not.
    pub first_error: Option<String>,
    /// Records or lines that say nothing about this image.
    pub skipped: u64,
    /// The first lines of those.
    pub notes: Vec<String>,
    /// Nothing more will come.
    pub done: bool,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    closed: bool,
    /// Threads that have not ended.
    running: usize,
}

struct Shared {
    /// The layers, bottom first.
    layers: Vec<Arc<dyn Blob>>,
    options: PrefetchOptions,
    queue: Mutex<Queue>,
    /// A piece came, or none will come.
    piece: Condvar,
    /// A full queue has room.
    room: Condvar,
    /// A thread has ended.
    ended: Condvar,
    stop: AtomicBool,
    pieces: AtomicU64,
    fetched: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    first_error: Mutex<Option<String>>,
    notes: Mutex<Vec<String>>,
}

/// A run of fetches in advance. Stops when dropped.
pub struct Prefetch {
    shared: Arc<Shared>,
}

impl Prefetch {
    /// Fetches what the records of a trace say, for the layers of `lowers`.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn trace(lowers: &Arc<Stack>, records: Vec<Record>, options: PrefetchOptions) -> Result<Prefetch> {
        let run = Prefetch::new(lowers, options);
        run.spawn("obd-replay", move |shared| {
            let lens: Vec<u64> = shared.layers.iter().map(|layer| layer.len()).collect();
            let (pieces, outside) = plan(&records, &lens);
            drop(records);
            shared.skipped.fetch_add(outside as u64, Ordering::Relaxed);
            pieces.into_iter().all(|piece| shared.feed(piece));
            shared.close();
        })?;
        run.start_workers()?;
        Ok(run)
    }

    /// Fetches the files that a list of paths names, in the file system that `lowers` hold.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn list(lowers: &Arc<Stack>, text: Vec<u8>, options: PrefetchOptions) -> Result<Prefetch> {
        let run = Prefetch::new(lowers, options);
        let stack = Arc::clone(lowers);
        run.spawn("obd-list", move |shared| {
            let listed = list(&stack, &text, &mut |piece| shared.feed(piece), &mut |line| shared.pass_over(line));
            if let Err(e) = listed {
                shared.pass_over(e.to_string());
            }
            shared.close();
        })?;
        run.start_workers()?;
        Ok(run)
    }

    fn new(lowers: &Arc<Stack>, options: PrefetchOptions) -> Prefetch {
        let layers = lowers.blobs().iter().rev().cloned().collect();
        Prefetch {
            shared: Arc::new(Shared {
                layers,
                options,
                queue: Mutex::default(),
                piece: Condvar::new(),
                room: Condvar::new(),
                ended: Condvar::new(),
                stop: AtomicBool::new(false),
                pieces: AtomicU64::new(0),
                fetched: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                skipped: AtomicU64::new(0),
                first_error: Mutex::default(),
                notes: Mutex::default(),
            }),
        }
    }

    fn start_workers(&self) -> Result<()> {
        (0..self.shared.options.workers.clamp(1, MAX_PREFETCH_THREADS))
            .try_for_each(|_| self.spawn("obd-prefetch", |shared| while shared.fetch_one() {}))
    }

    fn spawn(&self, name: &str, work: impl FnOnce(&Shared) + Send + 'static) -> Result<()> {
        let running = Running::new(&self.shared);
        let body = move || work(&running.0);
        let thread = crate::sync::thread::Builder::new().name(name.into()).spawn(body);
        thread.map(drop).map_err(|e| crate::Error::io("start a thread", e))
    }

    /// Counters so far.
    pub fn stats(&self) -> PrefetchStats {
        let shared = &self.shared;
        // First, so that a run that is said to be done is described completely.
        let done = shared.queue.lock().running == 0;
        PrefetchStats {
            pieces: shared.pieces.load(Ordering::Relaxed),
            fetched_bytes: shared.fetched.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            first_error: shared.first_error.lock().clone(),
            skipped: shared.skipped.load(Ordering::Relaxed),
            notes: shared.notes.lock().clone(),
            done,
        }
    }

    /// Returns when all is fetched (true), or after `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut queue = self.shared.queue.lock();
        !self.shared.ended.wait_while_for(&mut queue, |queue| queue.running > 0, limit).timed_out()
    }

    /// Begins no fetch any more, and waits for those under way, but not for long.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.close();
        self.wait(STOP_WAIT);
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.close();
    }
}

impl Shared {
    /// Queues a piece, waiting for room; false if no more is wanted.
    fn feed(&self, piece: Piece) -> bool {
        let mut queue = self.queue.lock();
        self.room.wait_while(&mut queue, |queue| queue.pieces.len() >= MAX_PREFETCH_QUEUE && !queue.closed);
        if queue.closed {
            return false;
        }
        queue.pieces.push_back(piece);
        self.piece.notify_one();
        true
    }

    /// Takes note of something that says nothing about this image.
    fn pass_over(&self, line: String) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        let mut notes = self.notes.lock();
        if notes.len() < MAX_LIST_NOTES {
            notes.push(line);
        }
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.piece.notify_all();
        self.room.notify_all();
    }

    /// Takes a piece and fetches it; false if there will be none.
    fn fetch_one(&self) -> bool {
        let mut queue = self.queue.lock();
        self.piece.wait_while(&mut queue, |queue| queue.pieces.is_empty() && !queue.closed);
        let Some(piece) = queue.pieces.pop_front() else { return false };
        self.room.notify_one();
        drop(queue);
        if self.stop.load(Ordering::Relaxed) || self.fetched.load(Ordering::Relaxed) >= self.options.max_bytes {
            self.close();
            return false;
        }
        let layer = &self.layers[piece.layer as usize];
        match layer.prefetch(piece.offset, piece.len) {
            Ok(bytes) => {
                self.fetched.fetch_add(bytes, Ordering::Relaxed);
                self.pieces.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let what = || e.in_file(layer.name()).context(format!("layer {}", piece.layer + 1)).to_string();
                self.first_error.lock().get_or_insert_with(what);
            }
        }
        true
    }
}

/// A thread of a run; the run is over when all of these are gone, whatever ended them.
struct Running(Arc<Shared>);

impl Running {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.queue.lock().running += 1;
        Running(Arc::clone(shared))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.queue.lock().running -= 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::MemoryBlob;
    use crate::lsmt::testing::layer_of;
    use crate::lsmt::Layer;

    #[test]
    fn whoever_finds_pieces_waits_for_room_until_none_are_wanted() {
        let layer = Layer::open(Arc::new(MemoryBlob::new("layer", layer_of(&[1; 4096])))).unwrap();
        let options = PrefetchOptions { workers: 1, max_bytes: u64::MAX };
        // Nobody fetches yet.
        let run = Prefetch::new(&Arc::new(Stack::new(vec![layer]).unwrap()), options);
        let piece = Piece { layer: 0, offset: 0, len: 512 };
        assert!((0..MAX_PREFETCH_QUEUE).all(|_| run.shared.feed(piece)));
        let next = |run: &Prefetch| {
            let shared = Arc::clone(&run.shared);
            std::thread::spawn(move || shared.feed(piece))
        };
        let waiting = next(&run);
        assert!(run.shared.fetch_one());
        assert!(waiting.join().unwrap(), "there was room");
        let waiting = next(&run);
        run.stop();
        assert!(!waiting.join().unwrap(), "there was none");
        assert_eq!(run.shared.queue.lock().pieces.len(), MAX_PREFETCH_QUEUE);
        // What is queued is not fetched any more.
        assert!(!run.shared.fetch_one());
        assert_eq!(run.stats().pieces, 1);
    }
}
