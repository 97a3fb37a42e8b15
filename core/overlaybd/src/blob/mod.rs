//! The bytes of one layer, wherever they are: the smallest interface that everything stacks on.

mod file;
mod heal;
mod memory;
mod proven;
mod slice;
mod sparing;
mod switch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use file::FileBlob;
pub use heal::heal;
pub use memory::MemoryBlob;
pub use proven::ProvenBlob;
pub use slice::SliceBlob;
pub use sparing::SparingBlob;
pub use switch::{OnFailure, SwitchBlob};

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::sys::File;

/// Read-only bytes of known length. Implementations are shared between threads.
pub trait Blob: Send + Sync {
    /// Path, URL (without secrets) or other name for messages.
    fn name(&self) -> &str;

    /// Length in bytes; does not change while open.
    fn len(&self) -> u64;

    /// True for a blob of length zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset` on, wholly or with an error. A range that leaves the blob is
    /// `OutOfBounds`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// As [`Blob::read_at`], for whoever keeps the bytes elsewhere: what has to be fetched is not kept here, and
    /// waits a little while others fetch what somebody is waiting for.
    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read_at(buf, offset)
    }

    /// Whether a read of this range would be answered without waiting for a network. A hint: it may
    /// be wrong by the time of the read.
    fn is_ready(&self, _offset: u64, _len: u64) -> bool {
        true
    }

    /// Has the bytes of this range ready for a read to come: fetches what is missing and can be kept, but
    /// decodes and returns nothing. Returns the bytes fetched; none for a blob that is local, or that keeps
    /// nothing. What others fetch just now is not waited for.
    ///
    /// Errors: those of fetching; `OutOfBounds`.
    fn prefetch(&self, _offset: u64, _len: u64) -> Result<u64> {
        Ok(0)
    }

    /// The local file that holds these bytes, and where in it they begin, if there is one: whoever
    /// copies them can let the kernel do it.
    fn as_file(&self) -> Option<(&Arc<dyn File>, u64)> {
        None
    }

    /// Says that the bytes of this range proved wrong. True if the blob dropped its copy, so that
    /// reading again may give other bytes; false (local files) if reading again is of no use.
    fn distrust(&self, _offset: u64, _len: u64) -> Result<bool> {
        Ok(false)
    }
}

/// Checks that `len` bytes from `offset` on lie inside a blob, for use by implementations.
pub fn check_range(blob: &dyn Blob, offset: u64, len: usize) -> Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= blob.len() => Ok(()),
        _ => {
            let what = format!("{len} bytes asked beyond the end at {}", blob.len());
            Err(Error::new(Kind::OutOfBounds, what).in_file(blob.name()).at(offset))
        }
    }
}
