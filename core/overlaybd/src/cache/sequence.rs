//! Sequential readers: what they will want next is asked for in advance, but only read when they want it.
//!
//! The answer to a request that asks for more than its reader waits for is parked, unread: the kernel's
//! buffers fill, the peer waits, and the reader's next miss goes on where the last one stopped. That saves a
//! request for each miss, takes no thread, and wastes little if the reader turns elsewhere.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::fetch::Stream;

/// Most bytes asked for in advance: a request each 64 MiB costs next to nothing, and ends within its deadline
/// on a line of 20 Mbit/s and more.
const MAX_AHEAD_BYTES: u64 = 64 << 20;
/// Answers parked at a time, in one cache: each holds a connection, and what the kernel buffers for it.
const MAX_PARKED: usize = 8;

/// Where a blob's reader has got to.
pub(super) struct Sequence {
    /// Where the last fetch ended.
    next: AtomicU64,
    /// How much was asked for in advance at that time.
    ahead: AtomicU64,
}

impl Default for Sequence {
    fn default() -> Self {
        Sequence { next: AtomicU64::new(u64::MAX), ahead: AtomicU64::new(0) }
    }
}

impl Sequence {
    /// Takes note of a fetch; how much to ask for beyond it: nothing, unless it goes on where the last one ended,
    /// then twice as much each time.
    pub fn ahead(&self, offset: u64, len: u64) -> u64 {
        // Two readers at once may confuse this; then it guesses wrong, no more.
        let sequential = self.next.swap(offset + len, Ordering::Relaxed) == offset;
        let before = self.ahead.load(Ordering::Relaxed);
        let ahead = if sequential { (2 * before).clamp(len, MAX_AHEAD_BYTES) } else { 0 };
        self.ahead.store(ahead, Ordering::Relaxed);
        ahead
    }
}

/// The parked answers of a cache, oldest first.
#[derive(Default)]
pub(super) struct Parked {
    streams: Mutex<Vec<(usize, Stream)>>,
    ids: AtomicUsize,
}

impl Parked {
    /// A name for a blob's answers, never given twice.
    pub fn new_id(&self) -> usize {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The answer that goes on at `offset`.
    pub fn take(&self, id: usize, offset: u64) -> Option<Stream> {
        let mut streams = self.streams.lock();
        let at = streams.iter().position(|(owner, stream)| *owner == id && stream.at() == offset)?;
        Some(streams.remove(at).1)
    }

    /// Parks an answer; if there are too many, the oldest has waited in vain.
    pub fn put(&self, id: usize, stream: Stream) {
        let mut streams = self.streams.lock();
        streams.push((id, stream));
        let oldest = (streams.len() > MAX_PARKED).then(|| streams.remove(0));
        // Closing a connection takes time; the lock need not.
        drop(streams);
        drop(oldest);
    }

    /// Drops all answers of a blob.
    pub fn forget(&self, id: usize) {
        let mine: Vec<_> = self.streams.lock().extract_if(.., |(owner, _)| *owner == id).collect();
        drop(mine);
    }
}
