//! A device for tests of the front ends: it fails, panics or waits where told.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::device::{BlockDevice, Extent, MemoryDevice};
use crate::error::{Error, Result};

/// Bytes of the test device; deliberately not a multiple of 4096.
pub const SIZE: u64 = if cfg!(miri) { 128 << 10 } else { 8 << 20 } | 512;

/// A device in memory with a range that fails, one that panics and one that waits until told.
pub struct Device {
    pub memory: MemoryDevice,
    pub bad: std::ops::Range<u64>,
    pub panics: std::ops::Range<u64>,
    pub cold: std::ops::Range<u64>,
    pub gate: Gate,
    /// Flushes so far.
    pub flushes: AtomicUsize,
}

/// Holds readers up until it is opened.
#[derive(Default)]
pub struct Gate {
    /// Open, and how many wait.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            self.changed.wait(&mut state);
        }
        state.1 -= 1;
    }

    /// Lets all pass, now and later.
    pub fn open(&self) {
        self.state.lock().0 = true;
        self.changed.notify_all();
    }

    /// Returns once `n` wait.
    pub fn wait_for(&self, n: usize) {
        let mut state = self.state.lock();
        while state.1 < n {
            self.changed.wait(&mut state);
        }
    }
}

impl Device {
    /// A writable device without faults, filled with a pattern.
    pub fn new() -> Self {
        let memory = MemoryDevice::new(SIZE).unwrap();
        memory.write_at(&pattern(0, SIZE as usize), 0).unwrap();
        Device { memory, bad: 0..0, panics: 0..0, cold: 0..0, gate: Gate::default(), flushes: AtomicUsize::new(0) }
    }

    fn meet(&self, offset: u64, len: u64) -> Result<()> {
        let hits = |range: &std::ops::Range<u64>| offset < range.end && range.start < offset + len;
        if hits(&self.panics) {
            panic!("expected by this test");
        }
        if hits(&self.cold) {
            self.gate.pass();
        }
        if hits(&self.bad) {
            return Err(Error::corrupt("expected by this test").at(offset));
        }
        Ok(())
    }
}

/// What the test device holds at first: every eight bytes tell their place.
pub fn pattern(offset: u64, len: usize) -> Vec<u8> {
    let words = offset / 8..(offset + len as u64).div_ceil(8);
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 16);
    words.for_each(|word| bytes.extend_from_slice(&word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()));
    bytes.drain(..offset as usize % 8);
    bytes.truncate(len);
    bytes
}

impl BlockDevice for Device {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read_only(&self) -> bool {
        self.memory.read_only()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.meet(offset, buf.len() as u64)?;
        self.memory.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.meet(offset, buf.len() as u64)?;
        self.memory.write_at(buf, offset)
    }
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.meet(offset, len)?;
        self.memory.discard(offset, len)
    }
    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        self.memory.extents(offset, len, max)
    }
    fn is_ready(&self, offset: u64, len: u64) -> bool {
        offset >= self.cold.end || self.cold.start >= offset + len
    }
}
