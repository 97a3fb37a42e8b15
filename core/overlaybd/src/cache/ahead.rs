//! Fetches that nobody waits for yet: for sequential readers, and for whoever knows what will be wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::blob::{CachedBlob, For};
use super::fill::Fill;
use super::flight::{Abandoned, Flight};
use super::store::Step;
use crate::error::Result;
use crate::fetch::LANE;
use crate::limits::{MAX_PREFETCH_BYTES, MAX_PREFETCH_YIELD, MAX_READAHEAD_BYTES};

impl CachedBlob {
    /// Begins the fetches that a read of `offset..stop`, seen with those before it, suggests.
    pub(super) fn read_ahead(&self, offset: u64, stop: u64, hit: bool) {
        let (shape, shared) = (self.store.shape, &self.cache.shared);
        if !shared.options.readahead {
            return;
        }
        // In a small cache, what is fetched in advance must not push out what is in use.
        let room = match shared.options.capacity_bytes {
            0 => u64::MAX,
            capacity => capacity / 8,
        };
        let max = (room.min(MAX_READAHEAD_BYTES) / u64::from(shape.chunk)).max(1) as usize;
        let read = shape.chunk_of(offset)..shape.chunk_of(stop - 1) + 1;
        let Some(wanted) = self.sequence.note(read, max, hit) else { return };
        let Some(blob) = self.me.upgrade() else { return };
        let mut reserved = Reserved { blob, flights: VecDeque::new() };
        let (mut chunk, end) = (wanted.start, self.store.fetch_end(wanted.end.min(shape.chunks())));
        while chunk < end {
            chunk = match self.store.step(chunk, end, MAX_PREFETCH_BYTES, self.id, true) {
                Step::Ready(until) => until,
                Step::Verify => chunk + 1,
                Step::Join(flight) => flight.end,
                Step::Lead(flight) => {
                    let next = flight.end;
                    reserved.flights.push_back(flight);
                    next
                }
            };
        }
        if !reserved.flights.is_empty() && !self.cache.ahead.try_submit(move || reserved.run()) {
            self.sequence.fell_short(wanted.end, wanted.start);
        }
    }

    /// What [`Blob::prefetch`](crate::blob::Blob::prefetch) does, for a range inside the blob.
    pub(super) fn fetch_ahead(&self, offset: u64, len: u64) -> Result<u64> {
        let shape = self.store.shape;
        let (mut chunk, mut fetched) = (shape.chunk_of(offset), 0);
        let end = if len == 0 { chunk } else { self.store.fetch_end(shape.chunk_of(offset + len - 1) + 1) };
        while chunk < end {
            if !self.store.is_present(shape.start(chunk), 1) {
                // Before the chunk is this fetch's: who wants it meanwhile must not wait for those who go first.
                LANE.give_way(MAX_PREFETCH_YIELD);
            }
            chunk = match self.store.step(chunk, end, MAX_PREFETCH_BYTES, self.id, true) {
                Step::Ready(until) => until,
                // Its checksum is compared when it is read.
                Step::Verify => chunk + 1,
                Step::Join(flight) => flight.end,
                Step::Lead(flight) => {
                    fetched += self.lead(&flight, For::Prefetch(&mut Fill::default()))?.len() as u64;
                    flight.end
                }
            };
        }
        Ok(fetched)
    }
}

/// Fetches in advance that are still to begin. Nobody waits in vain for those that never do.
struct Reserved {
    blob: Arc<CachedBlob>,
    flights: VecDeque<Arc<Flight>>,
}

impl Reserved {
    fn run(&mut self) {
        let shape = self.blob.store.shape;
        let mut fill = Fill::default();
        while let Some(flight) = self.flights.pop_front() {
            if fill.stop <= shape.start(flight.first) {
                // One request for what lies in a row.
                let row = |end, next: &Arc<Flight>| if next.first == end { Ok(next.end) } else { Err(end) };
                let (Ok(end) | Err(end)) = self.flights.iter().try_fold(flight.end, row);
                fill = Fill { stop: shape.start(end), stream: None };
            }
            // Whoever wants these bytes tries for itself; so many failures are enough.
            if self.blob.lead(&flight, For::Prefetch(&mut fill)).is_err() {
                return;
            }
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        for flight in &self.flights {
            drop(Abandoned { store: &self.blob.store, flight, why: None });
        }
    }
}
