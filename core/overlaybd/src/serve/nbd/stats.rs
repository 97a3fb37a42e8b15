//! Counters of a server.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters, changed by many threads.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) refused: AtomicU64,
    requests: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    errors: AtomicU64,
}

/// The counters at one moment; all but `active` since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that are open.
    pub active: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were closed at once because there were too many, or that failed in the handshake.
    pub refused: u64,
    /// Requests received.
    pub requests: u64,
    /// Bytes that were read from devices for clients.
    pub read_bytes: u64,
    /// Bytes that clients wrote.
    pub written_bytes: u64,
    /// Requests or parts of requests that a device failed.
    pub errors: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn requested(&self) {
        Self::add(&self.requests, 1);
    }

    pub(super) fn read(&self, bytes: u64) {
        Self::add(&self.read_bytes, bytes);
    }

    pub(super) fn written(&self, bytes: u64) {
        Self::add(&self.written_bytes, bytes);
    }

    pub(super) fn failed(&self) {
        Self::add(&self.errors, 1);
    }

    pub(super) fn get(&self, active: u64) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            active,
            connections: get(&self.connections),
            refused: get(&self.refused),
            requests: get(&self.requests),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
            errors: get(&self.errors),
        }
    }
}
