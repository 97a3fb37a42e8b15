//! Counters of a device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The counters, changed by many threads.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) kicks: AtomicU64,
    /// The ring is of no more use, or was given back.
    pub(super) ended: AtomicBool,
}

/// The counters at one moment; all but `active` and `serving` since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether commands are being taken.
    pub serving: bool,
    /// Commands that have been taken and not been completed.
    pub active: u64,
    /// Commands taken.
    pub requests: u64,
    /// Bytes that were read from the device for initiators.
    pub read_bytes: u64,
    /// Bytes that initiators wrote.
    pub written_bytes: u64,
    /// Commands that the device failed.
    pub errors: u64,
    /// Commands refused: not known, out of range, write-protected and so on.
    pub refused: u64,
    /// Times that the kernel was told of completions.
    pub kicks: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self, active: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            serving: !self.ended.load(Ordering::Relaxed),
            active,
            requests: get(&self.requests),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
            refused: get(&self.refused),
            kicks: get(&self.kicks),
        }
    }
}
