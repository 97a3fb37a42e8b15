//! How chunks leave a store: what was used longest ago goes, a batch at a time, and nothing that is being read.

use std::sync::atomic::Ordering;

use super::count;
use super::store::{Store, ABSENT};
use crate::error::Result;

impl Store {
    /// Calls `each` with last use and size of every chunk that is there.
    pub fn ages(&self, mut each: impl FnMut(u32, u64)) {
        for chunk in 0..self.shape.chunks() {
            if self.state(chunk) != ABSENT {
                each(self.ticks[chunk].load(Ordering::Relaxed), self.shape.bytes(chunk, chunk + 1) as u64);
            }
        }
    }

    /// Takes away chunks last used at `cut` or before until `amount` bytes are gone, `batch` at a time so that
    /// readers wait briefly only. The caller holds the exclusive lock of the media. Returns the bytes of
    /// chunks taken, and whether none is left.
    ///
    /// Errors: those of the disk.
    pub fn take_away(&self, cut: u32, amount: u64, batch: usize) -> Result<(u64, bool)> {
        let chunks = self.shape.chunks();
        let old = |c: usize| self.state(c) != ABSENT && self.ticks[c].load(Ordering::Relaxed) <= cut;
        let (mut taken, mut chunk, mut left) = (self.reclaim()?, 0, false);
        while chunk < chunks {
            if taken >= amount || !old(chunk) {
                left |= self.state(chunk) != ABSENT;
                chunk += 1;
                continue;
            }
            let _flights = self.flights.lock();
            let _guard = self.guard.write();
            let first = chunk;
            while chunk < chunks && chunk - first < batch && taken < amount && old(chunk) {
                self.set(chunk, ABSENT);
                taken += self.shape.bytes(chunk, chunk + 1) as u64;
                chunk += 1;
            }
            if chunk == first {
                continue;
            }
            // The hole comes first: a record without data shows by its checksum, data without a record would
            // stay for ever.
            let punched = self.media.punch(first, chunk);
            self.erase(first, chunk);
            count(&self.shared.stats.evictions, (chunk - first) as u64);
            punched?;
        }
        Ok((taken, !left))
    }

    /// Gives back the room of bytes that no record vouches for: chunks forgotten, or written when a crash came.
    fn reclaim(&self) -> Result<u64> {
        let (mut at, mut taken) = (0, 0);
        while let Some(run) = self.media.occupied(at)? {
            at = run.end;
            for chunk in run {
                let flights = self.flights.lock();
                if self.state(chunk) == ABSENT && !flights.iter().any(|flight| flight.covers(chunk)) {
                    self.media.punch(chunk, chunk + 1)?;
                    taken += self.shape.bytes(chunk, chunk + 1) as u64;
                }
            }
        }
        Ok(taken)
    }
}
