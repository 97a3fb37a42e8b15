//! Compresses batches of blocks on several threads and gives them back in order.

use std::collections::BTreeMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::codec::{bound, Algorithm, Codecs};
use super::crc;
use crate::error::{Error, Kind, Result};

/// How a batch is compressed.
#[derive(Clone, Copy)]
pub struct Recipe {
    pub algorithm: Algorithm,
    pub block_size: usize,
    pub checksum: bool,
}

/// A run of blocks on its way; its buffers are used again and again.
#[derive(Default)]
pub struct Batch {
    /// Whole blocks, the very last one excepted.
    pub plain: Vec<u8>,
    /// Stored blocks, one after the other, in the first bytes.
    pub packed: Vec<u8>,
    /// Length of each stored block.
    pub lengths: Vec<u32>,
}

impl Batch {
    /// Compresses `plain` into `packed` and `lengths`.
    pub fn pack(&mut self, recipe: &Recipe, codecs: &mut Codecs) -> Result<()> {
        let codec = codecs.get(recipe.algorithm);
        let most = bound(recipe.block_size) + size_of::<u32>();
        let blocks = self.plain.len().div_ceil(recipe.block_size);
        if self.packed.len() < blocks * most {
            self.packed.resize(blocks * most, 0);
        }
        self.lengths.clear();
        let mut at = 0;
        for plain in self.plain.chunks(recipe.block_size) {
            let mut len = codec.compress(plain, &mut self.packed[at..at + most])?;
            if recipe.checksum {
                let sum = crc::raw(crc::BLOCK_START, &self.packed[at..at + len]);
                self.packed[at + len..][..4].copy_from_slice(&sum.to_le_bytes());
                len += size_of::<u32>();
            }
            self.lengths.push(len as u32);
            at += len;
        }
        Ok(())
    }
}

type Job = (u64, Batch);
type Done = (u64, Batch, Result<()>);

/// The threads, and the batches that are with them.
pub struct Pool {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
    early: BTreeMap<u64, (Batch, Result<()>)>,
    submitted: u64,
    returned: u64,
}

impl Pool {
    /// Starts `threads` threads. Errors: `Io` if the system refuses one.
    pub fn start(threads: usize, recipe: Recipe) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (results, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool =
            Pool { jobs: Some(jobs), done, workers: Vec::new(), early: BTreeMap::new(), submitted: 0, returned: 0 };
        for n in 0..threads {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let worker = thread::Builder::new()
                .name(format!("zfile-{n}"))
                .spawn(move || work(&queue, &results, &recipe))
                .map_err(|e| Error::io("starting a compressing thread", e))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Batches handed in and not given back: two a thread keep all threads busy.
    pub fn is_full(&self) -> bool {
        self.submitted - self.returned >= 2 * self.workers.len() as u64
    }

    /// Whether no batch is under way.
    pub fn is_empty(&self) -> bool {
        self.submitted == self.returned
    }

    /// Hands in the next batch. How many may be under way is the caller's affair.
    pub fn submit(&mut self, batch: Batch) -> Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send((self.submitted, batch)).map_err(|_| gone())?;
        self.submitted += 1;
        Ok(())
    }

    /// Waits for the oldest batch under way.
    pub fn next(&mut self) -> Result<Batch> {
        let (batch, result) = loop {
            if let Some(early) = self.early.remove(&self.returned) {
                break early;
            }
            let (number, batch, result) = self.done.recv().map_err(|_| gone())?;
            self.early.insert(number, (batch, result));
        };
        self.returned += 1;
        result.map(|()| batch)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A panic of a worker was turned into a failed batch.
            let _ = worker.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, results: &Sender<Done>, recipe: &Recipe) {
    let mut codecs = Codecs::default();
    loop {
        let job = queue.lock().recv();
        let Ok((number, mut batch)) = job else { return };
        // Whatever happens, the batch must come back: somebody waits for it.
        let result = catch_unwind(AssertUnwindSafe(|| batch.pack(recipe, &mut codecs))).unwrap_or_else(|_| Err(gone()));
        if results.send((number, batch, result)).is_err() {
            return;
        }
    }
}

fn gone() -> Error {
    Error::new(Kind::Io, "a compressing thread died")
}
