//! What a device may read as: the oracle that every answer is held against.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Moments after which no read is under way any more.
const OLD: u64 = 10_000;

/// What a sector holds: 0 for zeros, else the number of the write that made it.
pub type Content = u64;

/// The bytes of a sector.
pub fn bytes_of(content: Content, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if content != 0 {
        for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
            // Some of it compresses and some does not.
            let word_n = if n % 2 == 0 { content << 20 | sector } else { content.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
            word.copy_from_slice(&word_n.to_le_bytes());
        }
    }
    bytes
}

/// A value that a sector may have, from the moment its write began to the one in which the next was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Possible {
    content: Content,
    /// None: still.
    until: Option<u64>,
    /// Whether it may be what is left after a loss of power.
    durable: bool,
    /// Whether what took its place may have been lost in a flush that failed: later ones say nothing of that.
    doubtful: bool,
}

/// A device as it may be. Clones are the same one.
#[derive(Clone)]
pub struct Model(Arc<Mutex<Inner>>);

struct Inner {
    /// Sectors that the device has, and that it may have since somebody wanted it to grow.
    sectors: (u64, u64),
    base: BTreeMap<u64, Content>,
    changed: BTreeMap<u64, Vec<Possible>>,
    moment: u64,
    writes: u64,
}

/// A change under way.
pub struct Pending {
    first: u64,
    contents: Vec<Content>,
}

impl Model {
    /// A device of so many sectors that reads as `base`, and zeros elsewhere.
    pub fn new(sectors: u64, base: BTreeMap<u64, Content>) -> Self {
        let inner = Inner { sectors: (sectors, sectors), base, changed: BTreeMap::new(), moment: 0, writes: 1 << 32 };
        Model(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device is to have so many sectors.
    pub fn grow(&self, sectors: u64) {
        let (_, most) = &mut self.lock().sectors;
        *most = sectors.max(*most);
    }

    /// It has them, for good.
    pub fn grown(&self, sectors: u64) {
        let (least, _) = &mut self.lock().sectors;
        *least = sectors.max(*least);
    }

    /// Whether a device may have so many bytes.
    pub fn check_size(&self, bytes: u64) -> Result<(), String> {
        let (least, most) = self.lock().sectors;
        let right = bytes.is_multiple_of(SECTOR as u64) && (least..=most).contains(&(bytes / SECTOR as u64));
        right.then_some(()).ok_or_else(|| format!("the device has {bytes} bytes, not {least} to {most} sectors"))
    }

    /// A number for a new write.
    pub fn next_write(&self) -> Content {
        let mut inner = self.lock();
        inner.writes += 1;
        inner.writes
    }

    /// A change of these sectors begins.
    pub fn begin(&self, first: u64, contents: Vec<Content>) -> Pending {
        let mut inner = self.lock();
        inner.moment += 1;
        for (sector, content) in (first..).zip(&contents) {
            let possible = Possible { content: *content, until: None, durable: true, doubtful: false };
            inner.of(sector).push(possible);
        }
        Pending { first, contents }
    }

    /// It was acknowledged: nothing else is possible from now on, but for a loss of power.
    pub fn acknowledge(&self, pending: &Pending) {
        let mut inner = self.lock();
        inner.moment += 1;
        let now = inner.moment;
        for (sector, content) in (pending.first..).zip(&pending.contents) {
            let all = inner.of(sector);
            let newest = all.iter().rposition(|p| p.content == *content).unwrap_or(0);
            all.iter_mut().take(newest).for_each(|p| p.until = p.until.or(Some(now)));
        }
    }

    /// The moment, to be given to [`Model::flushed`] and [`Model::check`].
    pub fn moment(&self) -> u64 {
        self.lock().moment
    }

    /// All that was acknowledged before `begun` is durable: what it replaced cannot come back. Not so where an earlier
    /// flush failed, until something else has been written there.
    pub fn flushed(&self, begun: u64) {
        for all in self.lock().changed.values_mut() {
            let replaced = |p: &Possible| p.until.is_some_and(|until| until <= begun);
            let sure = all.iter().rposition(|p| !p.doubtful && replaced(p));
            for (n, p) in all.iter_mut().enumerate() {
                p.durable &= !(replaced(p) && sure.is_some_and(|sure| n <= sure));
            }
        }
    }

    /// A flush failed: the system may have lost what it could not write, but shows it until the power is lost.
    pub fn flush_failed(&self) {
        for all in self.lock().changed.values_mut() {
            all.iter_mut().filter(|p| p.durable && p.until.is_some()).for_each(|p| p.doubtful = true);
        }
    }

    /// Whether `bytes` may be what a read from `first` on answers that began at `begun`.
    pub fn check(&self, first: u64, bytes: &[u8], begun: u64) -> Result<(), String> {
        let mut inner = self.lock();
        for (sector, found) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            let base = inner.base.get(&sector).copied().unwrap_or(0);
            let all = inner.changed.get(&sector);
            let allowed = |p: &&Possible| p.until.is_none_or(|until| until > begun);
            let possible: Vec<Content> = match all {
                None => vec![base],
                Some(all) => all.iter().filter(allowed).map(|p| p.content).collect(),
            };
            if !possible.iter().any(|content| found == bytes_of(*content, sector)) {
                let word = u64::from_le_bytes(found[..8].try_into().unwrap_or_default());
                let history = inner.changed.remove(&sector);
                return Err(format!(
                    "sector {sector} reads as {:#x} of sector {}, possible are {possible:x?}; history {history:x?}",
                    word >> 20,
                    word & 0xfffff
                ));
            }
        }
        Ok(())
    }

    /// The power was lost: whatever may have been durable is possible now.
    pub fn lose_power(&self) {
        for all in self.lock().changed.values_mut() {
            all.retain(|p| p.durable);
            all.iter_mut().for_each(|p| (p.until, p.doubtful) = (None, false));
        }
    }

    /// The device reads as `bytes` now: nothing else is possible any more.
    pub fn settle(&self, first: u64, bytes: &[u8]) {
        let mut inner = self.lock();
        for (sector, found) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            if let Some(all) = inner.changed.get_mut(&sector) {
                all.retain(|p| found == bytes_of(p.content, sector));
                all.iter_mut().for_each(|p| (p.until, p.doubtful) = (None, false));
                all.dedup_by_key(|p| p.content);
            }
        }
    }
}

impl Inner {
    fn of(&mut self, sector: u64) -> &mut Vec<Possible> {
        let content = self.base.get(&sector).copied().unwrap_or(0);
        let first = Possible { content, until: None, durable: true, doubtful: false };
        let all = self.changed.entry(sector).or_insert_with(|| vec![first]);
        // What can neither be read nor come back is of no interest any more; slow reads may still ask for it.
        let old = self.moment.saturating_sub(OLD);
        all.retain(|p| p.durable || p.until.is_none_or(|until| until > old));
        all
    }
}
