//! Images of whole disks as something to copy from: raw ones, and qcow2.

mod copy;
mod format;
mod part;
mod raw;
mod root;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

pub use copy::{copy, Copied};
pub use format::{recognize, Format};
pub use part::Part;
pub use raw::Raw;
pub use root::{file_system, root, Root};
pub use walk::{walk, Holes, Run};

use crate::blob::FileBlob;
use crate::device::Extent;
use crate::error::Result;
use crate::fs::ReadAt;
use crate::qcow2::Qcow2;
use crate::sys::File;

/// A disk, a multiple of 512 bytes long, that can say where nothing is.
pub trait DiskImage: ReadAt {
    /// What it is called in messages.
    fn name(&self) -> &str;

    /// What is at `offset`, which lies inside, and for how many bytes, a multiple of 512. More of the same may follow.
    ///
    /// # Errors
    /// `Corrupt`; those of the bytes' source.
    fn extent(&self, offset: u64) -> Result<Extent>;
}

/// Opens the image in `file`, which is a regular file or a block device, and says what format it has: `format` if
/// given, else what [`recognize`] finds. `alone`: see [`Qcow2::open`].
///
/// # Errors
/// Those of [`recognize`], [`Raw::new`] and [`Qcow2::open`].
pub fn open(file: Arc<dyn File>, format: Option<Format>, alone: bool) -> Result<(Arc<dyn DiskImage>, Format)> {
    let format = format.map_or_else(|| recognize(&*file), Ok)?;
    let disk: Arc<dyn DiskImage> = match format {
        Format::Raw => Arc::new(Raw::new(file)?),
        Format::Qcow2 => Arc::new(Qcow2::open(Arc::new(FileBlob::new(file)?), alone)?),
    };
    Ok((disk, format))
}
