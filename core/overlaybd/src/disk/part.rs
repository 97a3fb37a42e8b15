//! A part of a disk, such as a partition, as a disk of its own.

use std::sync::Arc;

use super::DiskImage;
use crate::device::Extent;
use crate::error::{Error, Kind, Result};
use crate::fs::ReadAt;
use crate::limits::SECTOR;

/// `len` bytes of `disk` from `start` on.
pub struct Part {
    disk: Arc<dyn DiskImage>,
    start: u64,
    len: u64,
}

impl Part {
    /// # Errors
    /// `OutOfBounds` for what does not lie inside, or not at whole sectors.
    pub fn new(disk: Arc<dyn DiskImage>, start: u64, len: u64) -> Result<Part> {
        let inside = start.checked_add(len).is_some_and(|end| end <= disk.len());
        if !inside || len == 0 || !(start | len).is_multiple_of(SECTOR) {
            let what = format!("{len} bytes from {start} on are no part of a disk of {}", disk.len());
            return Err(Error::new(Kind::OutOfBounds, what).in_file(disk.name()));
        }
        Ok(Part { disk, start, len })
    }
}

impl ReadAt for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.len) {
            let what = format!("{} bytes beyond the end of a part of {}", buf.len(), self.len);
            return Err(Error::new(Kind::OutOfBounds, what).in_file(self.name()).at(offset));
        }
        self.disk.read_at(buf, self.start + offset)
    }
}

impl DiskImage for Part {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        let extent = self.disk.extent(self.start + offset)?;
        Ok(Extent { len: extent.len.min(self.len - offset), ..extent })
    }
}
