//! Counters of a device to which the kernel sends requests, by a ring (TCMU) or by queues (ublk).

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters, changed by many threads.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) turns: AtomicU64,
}

/// The counters at one moment; all but `serving` and `active` since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rings or queues that are being served.
    pub serving: u64,
    /// Requests that have been taken and not been answered.
    pub active: u64,
    /// Requests taken.
    pub requests: u64,
    /// Bytes read for users.
    pub read_bytes: u64,
    /// Bytes that users wrote.
    pub written_bytes: u64,
    /// Requests that the device failed.
    pub errors: u64,
    /// Requests refused: not known, out of range, write-protected and so on.
    pub refused: u64,
    /// Times that a thread turned to the kernel, with answers or for new requests.
    pub turns: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self, serving: u64, active: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            serving,
            active,
            requests: get(&self.requests),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
            refused: get(&self.refused),
            turns: get(&self.turns),
        }
    }
}

impl Stats {
    /// All counters by name.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("serving", self.serving),
            ("active", self.active),
            ("requests", self.requests),
            ("read_bytes", self.read_bytes),
            ("written_bytes", self.written_bytes),
            ("errors", self.errors),
            ("refused", self.refused),
            ("turns", self.turns),
        ]
    }
}
