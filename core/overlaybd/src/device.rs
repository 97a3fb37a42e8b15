//! A block device as front ends see it.

mod file;
mod memory;

pub use file::FileDevice;
pub use memory::MemoryDevice;

use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// What a range of a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Stored bytes.
    Data,
    /// No layer has it: reads as zeros, takes no room.
    Hole,
    /// A layer says that it is zeros: reads as zeros and hides what lies below.
    Zero,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// A block device. Offsets and lengths are in bytes and need no alignment; methods may be called
/// from any number of threads at once. A range that leaves the device is `OutOfBounds`.
pub trait BlockDevice: Send + Sync {
    /// Bytes; may change by a resize.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Fills `buf` wholly, or fails: never wrong bytes, never zeros instead.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
    /// Writes all of `buf`, or fails.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;
    /// Makes a range read as zeros and gives back its room where possible.
    fn discard(&self, offset: u64, len: u64) -> Result<()>;
    /// Returns once all writes that were acknowledged before are durable.
    fn flush(&self) -> Result<()>;
    /// Has the system begin to make durable what was written, without waiting for it: a hint, so that a flush after
    /// many writes takes less time.
    fn start_write_back(&self) {}
    /// Runs from `offset` on, neighbours of one kind merged, covering at most `len` bytes and at
    /// least one run; at most `max` runs.
    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>>;
    /// Whether a read of this range would be answered without waiting for a network: front ends
    /// answer such reads at once and give the others to the worker pool.
    fn is_ready(&self, offset: u64, len: u64) -> bool;
    /// A request to this device waited so long for a worker of its front end.
    fn queued(&self, _waited: Duration) {}
}

/// Checks that `len` bytes from `offset` on lie inside a device, for use by implementations.
pub fn check_range(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<()> {
    let size = device.size();
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(Kind::OutOfBounds, format!("{len} bytes beyond the device's end at {size}")).at(offset)),
    }
}
