//! A disk copied onto a device that has something already: what is not allocated leaves it as it is.

use super::walk::{walk, Holes, Run};
use super::DiskImage;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// What was done, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Written.
    pub written: u64,
    /// Discarded, since they are zeros.
    pub zeros: u64,
    /// Left as they were.
    pub skipped: u64,
}

/// Copies `disk` to the start of `device` and makes that durable. Progress is in bytes of the disk.
///
/// # Errors
/// `NoSpace` if it is larger than the device, before anything is written; those of the disk, the device and `progress`.
pub fn copy(disk: &dyn DiskImage, device: &dyn BlockDevice, progress: &mut Progress<'_>) -> Result<Copied> {
    if disk.len() > device.size() {
        let what = format!("a disk of {} bytes does not fit on a device of {}", disk.len(), device.size());
        return Err(Error::new(Kind::NoSpace, what).in_file(disk.name()));
    }
    let mut done = Copied::default();
    let mut each = |at: u64, run: Run<'_>| match run {
        Run::Data(bytes) => {
            done.written += bytes.len() as u64;
            device.write_at(bytes, at)
        }
        Run::Zeros(len) => {
            done.zeros += len;
            device.discard(at, len)
        }
    };
    walk(disk, Holes::Through, &mut each, progress)?;
    device.flush()?;
    done.skipped = disk.len() - done.written - done.zeros;
    Ok(done)
}
