//! Compresses batches of blocks on several threads, the caller's among them, and gives them back in order.

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

/// A run of blocks on its way through the packer; its buffers are used again and again.
#[derive(Default)]
pub struct Batch {
    /// Whole blocks, the very last one excepted.
    pub plain: Vec<u8>,
    /// What they become.
    pub packed: Packed,
}

/// Stored blocks.
#[derive(Default)]
pub struct Packed {
    bytes: Vec<u8>,
    /// Length of each.
    pub lengths: Vec<u32>,
}

impl Packed {
    /// Replaces the content with the blocks of `plain`.
    pub fn pack(&mut self, plain: &[u8], recipe: &Recipe, codecs: &mut Codecs) -> Result<()> {
        let codec = codecs.get(recipe.algorithm);
        let most = bound(recipe.block_size) + size_of::<u32>();
        let room = plain.len().div_ceil(recipe.block_size) * most;
        if self.bytes.len() < room {
            self.bytes.resize(room, 0);
        }
        self.lengths.clear();
        let mut at = 0;
        for block in plain.chunks(recipe.block_size) {
            let mut len = codec.compress(block, &mut self.bytes[at..at + most])?;
            if recipe.checksum {
                let sum = crc::raw(crc::BLOCK_START, &self.bytes[at..at + len]);
                self.bytes[at + len..][..4].copy_from_slice(&sum.to_le_bytes());
                len += size_of::<u32>();
            }
            self.lengths.push(len as u32);
            at += len;
        }
        Ok(())
    }

    /// The blocks, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.lengths.iter().map(|&len| len as usize).sum()]
    }
}

type Job = (u64, Batch);
type Done = (u64, Batch, Result<()>);

/// The threads, and the batches that are with them or wait for their turn to be written.
///
/// The caller is one of the threads: it compresses whenever the others have enough to do. So as many threads run as
/// were asked for, and with one there is no other.
pub struct Packer {
    recipe: Recipe,
    others: usize,
    started: Option<Started>,
    codecs: Codecs,
    finished: BTreeMap<u64, (Batch, Result<()>)>,
    spare: Vec<Batch>,
    submitted: u64,
    with_others: usize,
    returned: u64,
}

/// The other threads, from the first batch for them on.
struct Started {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Packer {
    /// For `threads` threads in all.
    pub fn new(threads: usize, recipe: Recipe) -> Self {
        Packer {
            recipe,
            others: threads - 1,
            started: None,
            codecs: Codecs::default(),
            finished: BTreeMap::new(),
            spare: Vec::new(),
            submitted: 0,
            with_others: 0,
            returned: 0,
        }
    }

    /// Whether another thread may soon have nothing to do: each has a batch at work and one waiting.
    pub fn wants_work(&self) -> bool {
        self.with_others < 2 * self.others
    }

    /// Gives the next batch to the other threads; `plain` is empty afterwards.
    ///
    /// Errors: `Io` if the system refuses a thread.
    pub fn hand_over(&mut self, plain: &mut Vec<u8>) -> Result<()> {
        let mut batch = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut batch.plain, plain);
        plain.clear();
        let started = match &mut self.started {
            Some(started) => started,
            none => none.insert(Started::start(self.others, self.recipe)?),
        };
        started.jobs.send((self.submitted, batch)).map_err(|_| gone())?;
        self.submitted += 1;
        self.with_others += 1;
        Ok(())
    }

    /// Compresses the next batch in this thread.
    pub fn pack_here(&mut self, plain: &[u8]) {
        let mut batch = self.spare.pop().unwrap_or_default();
        let result = batch.packed.pack(plain, &self.recipe, &mut self.codecs);
        self.finished.insert(self.submitted, (batch, result));
        self.submitted += 1;
    }

    /// The oldest batch, compressed; None if there is none or, unless it must not be waited for, not yet.
    /// Bounds memory by waiting in any case when too many are held up by the oldest.
    pub fn next(&mut self, wait: bool) -> Result<Option<Batch>> {
        let wait = wait || self.submitted - self.returned >= 4 * (self.others as u64 + 1);
        loop {
            if let Some((batch, result)) = self.finished.remove(&self.returned) {
                self.returned += 1;
                return result.map(|()| Some(batch));
            }
            let Some(started) = self.started.as_ref().filter(|_| self.with_others > 0) else {
                return Ok(None);
            };
            let done = if wait { started.done.recv().ok() } else { started.done.try_recv().ok() };
            let Some((number, batch, result)) = done else {
                return if wait { Err(gone()) } else { Ok(None) };
            };
            self.with_others -= 1;
            self.finished.insert(number, (batch, result));
        }
    }

    /// Takes back a batch whose bytes are no longer needed.
    pub fn recycle(&mut self, batch: Batch) {
        self.spare.push(batch);
    }
}

impl Started {
    fn start(threads: usize, recipe: Recipe) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (results, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let start = |n| {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            thread::Builder::new()
                .name(format!("zfile-{n}"))
                .spawn(move || work(&queue, &results, &recipe))
                .map_err(|e| Error::io("starting a compressing thread", e))
        };
        let threads = (0..threads).map(start).collect::<Result<_>>()?;
        Ok(Started { jobs, done, threads })
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        if let Some(Started { jobs, done, threads }) = self.started.take() {
            drop((jobs, done));
            for thread in threads {
                // A panic in it was turned into a failed batch.
                let _ = thread.join();
            }
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, results: &Sender<Done>, recipe: &Recipe) {
    let mut codecs = Codecs::default();
    loop {
        let job = queue.lock().recv();
        let Ok((number, mut batch)) = job else { return };
        // Whatever happens, the batch must come back: somebody waits for it.
        let packed = catch_unwind(AssertUnwindSafe(|| batch.packed.pack(&batch.plain, recipe, &mut codecs)));
        let result = packed.unwrap_or_else(|_| Err(gone()));
        if results.send((number, batch, result)).is_err() {
            return;
        }
    }
}

fn gone() -> Error {
    Error::new(Kind::Io, "a compressing thread died")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_thread_has_a_batch_at_work_and_one_waiting() {
        let recipe = Recipe { algorithm: Algorithm::Lz4, block_size: 4096, checksum: true };
        for threads in 1..4 {
            let mut packer = Packer::new(threads, recipe);
            let mut handed = 0;
            while packer.wants_work() {
                packer.hand_over(&mut vec![handed; 9000]).unwrap();
                handed += 1;
            }
            assert_eq!(usize::from(handed), 2 * (threads - 1));
            packer.pack_here(&[handed; 9000]);
            // They come back in order, and then there is need of more.
            let mut plain = Vec::new();
            while let Some(batch) = packer.next(true).unwrap() {
                assert_eq!(batch.packed.lengths.len(), 3);
                plain.extend(batch.plain.first().copied());
            }
            assert_eq!(plain, (0..handed).collect::<Vec<_>>());
            assert_eq!(packer.wants_work(), threads > 1);
        }
    }

    #[test]
    fn too_many_finished_batches_wait_for_the_oldest() {
        // Not asked to wait, but so far ahead of it that memory would grow.
        let recipe = Recipe { algorithm: Algorithm::Zstd, block_size: 65536, checksum: true };
        let mut packer = Packer::new(2, recipe);
        packer.hand_over(&mut vec![7; 1 << 20]).unwrap();
        (1..8).for_each(|_| packer.pack_here(&[7; 512]));
        assert!(packer.next(false).unwrap().is_some_and(|batch| batch.plain.len() == 1 << 20));
    }
}
