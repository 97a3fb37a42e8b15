//! Front ends: request in, completion out.

mod buffers;
pub mod fuse;
pub mod nbd;
pub mod pool;
mod report;
#[cfg(test)]
mod test_device;

use std::panic::{catch_unwind, AssertUnwindSafe};

pub use report::Report;

use crate::error::{Error, Kind, Result};

/// Calls a device so that a panic in it is an error of this one request.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(Error::new(Kind::Io, "the device panicked")))
}
