//! Room on disk: how much is used and promised, what time it is for the LRU, and when to stop trying.

use std::sync::Arc;
use std::time::Duration;

use crate::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, OnceLock};

use super::store::Home;
use super::{count, Shared, Store};
use crate::sys::Mode;

/// Time during which nothing is stored after the disk refused to take something.
const PAUSE: Duration = Duration::from_secs(10);
/// What a file system rounds allocations up to.
const BLOCK: u64 = 4096;
/// Part of the capacity after which the directory is looked at anew, since other processes fill it too.
const RESCAN_PART: u64 = 32;
/// But not before that many bytes.
const RESCAN_BYTES: u64 = 16 << 20;
/// Once the capacity is reached, room is made until a tenth of it is free, or this much.
const MOST_SPARE_BYTES: u64 = 50 << 30;

/// Accounts of one cache directory.
#[derive(Default)]
pub(super) struct Space {
    /// Bytes that the directory takes: what the last scan found, and what was stored and freed since.
    used: AtomicI64,
    /// Bytes stored since the last scan.
    stored: AtomicU64,
    /// Bytes that are about to be written.
    promised: AtomicU64,
    /// The clock of the LRU: one step for each fetch.
    tick: AtomicU32,
    /// When storing may be tried again, in nanoseconds of the clock.
    pause_until: AtomicU64,
    /// Held while room is made, so that it is made once.
    pub making: Mutex<()>,
    /// Held while `used` is changed along with what it is the sum of, or with `promised`; and while both are read.
    pub account: Mutex<()>,
    /// Set once the directory has been looked at.
    looked: OnceLock<()>,
}

impl Space {
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed).max(0) as u64
    }

    pub fn set_used(&self, bytes: u64) {
        self.used.store(bytes as i64, Ordering::Relaxed);
        self.stored.store(0, Ordering::Relaxed);
    }

    /// Sees to it that what is used from now on counts as used after `newest`.
    pub fn raise_tick(&self, newest: u32) {
        self.tick.fetch_max(newest.saturating_add(1), Ordering::Relaxed);
    }

    pub fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    pub fn next_tick(&self) -> u32 {
        self.tick.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }
}

impl Shared {
    /// Looks at what the directory holds, the first time it is called.
    pub fn look(&self) {
        if !self.is_plain() {
            return;
        }
        self.space.looked.get_or_init(|| match self.scan() {
            Ok(found) => self.space.raise_tick(found.iter().filter_map(|blob| blob.tick).max().unwrap_or(0)),
            Err(e) => self.notice(format!("cache: {e}")),
        });
    }

    /// Called now and then: other programs fill the disk, and other processes the directory, also while this one
    /// stores nothing.
    pub fn tend(self: &Arc<Self>) {
        if !self.is_plain() {
            return;
        }
        self.look();
        let _making = self.space.making.lock();
        if self.excess(0) > 0 {
            self.make_room(|shared| shared.excess(0));
        }
    }

    /// Promises room for `bytes` of a blob, made by eviction if need be; false if they cannot be stored now.
    pub fn promise(self: &Arc<Self>, store: &Store, bytes: u64) -> bool {
        if let Home::Layer(file, pause_until) = &store.home {
            // A file that has been renamed is complete and proved: nothing is written to it any more.
            return self.is_over(pause_until) && self.disk.open(file.path(), Mode::Read).is_ok();
        }
        let space = &self.space;
        if !self.is_over(&space.pause_until) {
            return false;
        }
        if let Home::Pool(pool) = &store.home {
            return self.promise_lines(pool, bytes).unwrap_or_else(|e| {
                self.pause(store, &e.to_string());
                false
            });
        }
        self.look();
        let _making = space.making.lock();
        let bytes = bytes.next_multiple_of(BLOCK);
        let rescan = (self.options.capacity_bytes / RESCAN_PART).max(RESCAN_BYTES);
        let (mut over, mut lack) = self.shortage(bytes);
        if over + lack > 0 || space.stored.load(Ordering::Relaxed) > rescan {
            self.make_room(|shared| shared.excess(bytes));
            (over, lack) = self.shortage(bytes);
        }
        if over + lack > 0 {
            let why = if lack > 0 { "the disk is nearly full".into() } else { format!("no room for {bytes} bytes") };
            self.pause(store, &why);
            return false;
        }
        space.promised.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Bytes by which the directory would exceed its capacity with what is promised and `bytes` more, and bytes that
    /// would then be missing on the file system.
    pub fn shortage(&self, bytes: u64) -> (u64, u64) {
        let account = self.space.account.lock();
        let wanted = bytes + self.space.promised.load(Ordering::Relaxed);
        let over = (self.space.used() + wanted).saturating_sub(self.options.capacity_bytes);
        drop(account);
        // A disk that does not tell is left to refuse the write.
        let free = self.disk.free_bytes(self.directory()).unwrap_or(u64::MAX);
        (over, (self.options.min_free_bytes + wanted).saturating_sub(free))
    }

    /// Bytes to free before so many more are stored: 0 if they fit.
    fn excess(&self, bytes: u64) -> u64 {
        let (over, lack) = self.shortage(bytes);
        let spare = (self.options.capacity_bytes / 10).min(MOST_SPARE_BYTES);
        lack.max(if over > 0 { over + spare } else { 0 })
    }

    fn is_over(&self, pause_until: &AtomicU64) -> bool {
        self.clock.now().as_nanos() >= u128::from(pause_until.load(Ordering::Relaxed))
    }

    /// Takes back a promise of `bytes`, of which `store` has used what it has used.
    pub fn settle(&self, store: &Store, bytes: u64) {
        match &store.home {
            Home::Directory(_) => {}
            Home::Layer(..) => return,
            Home::Pool(pool) => return self.settle_lines(pool, bytes),
        }
        let _account = self.space.account.lock();
        self.space.promised.fetch_sub(bytes.next_multiple_of(BLOCK), Ordering::Relaxed);
        let growth = store.growth();
        self.space.used.fetch_add(growth, Ordering::Relaxed);
        self.space.stored.fetch_add(growth.max(0) as u64, Ordering::Relaxed);
    }

    /// Stores nothing for a while, in the layer directory or in all of the cache, and says why.
    pub fn pause(&self, store: &Store, why: &str) {
        let until = (self.clock.now() + PAUSE).as_nanos() as u64;
        let (place, pause_until) = match &store.home {
            Home::Layer(file, pause_until) => (file.path(), pause_until),
            _ => (self.directory(), &self.space.pause_until),
        };
        pause_until.store(until, Ordering::Relaxed);
        self.notice(format!("cache {}: {why}; nothing is kept for {} s", place.display(), PAUSE.as_secs()));
    }

    /// Counts a fetch that was served without being kept.
    pub fn not_kept(&self) {
        count(&self.stats.uncached, 1);
    }
}
