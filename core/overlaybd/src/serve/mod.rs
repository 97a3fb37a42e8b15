//! Front ends: request in, completion out.

mod buffers;
pub mod fuse;
pub mod nbd;
pub mod pool;
mod report;
mod stats;
pub mod tcmu;
#[cfg(test)]
mod test_device;
pub mod ublk;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use pool::Pool;
pub use report::Report;

use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};

/// What writes must be whole multiples of not to be preceded by a read of what is around them: the block
/// of usual file systems, which a sparse upper fills up.
const WRITE_UNIT: u64 = 4096;

/// Calls a device so that a panic in it is an error of this one request.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(Error::new(Kind::Io, "the device panicked")))
}

/// A pool for the slow requests to one device, which hears how long they wait for a thread.
fn pool_of(device: &Arc<dyn BlockDevice>, name: &str, max_threads: usize, max_queue: usize) -> Pool {
    // Weakly, so that a thread that is just ending does not keep a device that everybody else let go.
    let device = Arc::downgrade(device);
    let queued = move |waited| device.upgrade().iter().for_each(|device| device.queued(waited));
    Pool::new(name, max_threads, max_queue, queued)
}

/// Whether a read can be answered on the spot.
fn is_ready(device: &dyn BlockDevice, offset: u64, len: u64) -> bool {
    guarded(|| Ok(device.is_ready(offset, len))).unwrap_or(false)
}

/// Whether a write can be carried out on the spot: it goes to a local file, but may have to read before.
fn write_is_quick(device: &dyn BlockDevice, offset: u64, len: u64) -> bool {
    offset.is_multiple_of(WRITE_UNIT) && len.is_multiple_of(WRITE_UNIT) || is_ready(device, offset, len)
}
