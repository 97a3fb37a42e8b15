//! A raw disk image, or a block device: holes are where its file has some.

use std::sync::Arc;

use super::DiskImage;
use crate::device::{Extent, ExtentKind};
use crate::error::{Error, Kind, Result};
use crate::fs::ReadAt;
use crate::limits::SECTOR;
use crate::sys::File;

/// The bytes of a file as a disk: what is missing of its last sector is zeros, as QEMU has it.
pub struct Raw {
    file: Arc<dyn File>,
    name: String,
    size: u64,
}

impl Raw {
    /// All of `file`.
    ///
    /// # Errors
    /// `Invalid` if it is empty; those of asking for its length.
    pub fn new(file: Arc<dyn File>) -> Result<Raw> {
        let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        if len == 0 {
            let what = format!("empty: a disk has at least {SECTOR} bytes");
            return Err(Error::new(Kind::Invalid, what).in_file(file.path()));
        }
        Self::of_size(file, len.checked_next_multiple_of(SECTOR).unwrap_or(len))
    }

    /// The first `size` bytes of `file`, and zeros from its end on.
    ///
    /// # Errors
    /// `OutOfBounds` if `size` is no multiple of 512.
    pub fn of_size(file: Arc<dyn File>, size: u64) -> Result<Raw> {
        if !size.is_multiple_of(SECTOR) {
            let what = format!("a disk of {size} bytes, which is no multiple of {SECTOR}");
            return Err(Error::new(Kind::OutOfBounds, what).in_file(file.path()));
        }
        let name = file.path().display().to_string();
        Ok(Raw { file, name, size })
    }
}

impl ReadAt for Raw {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => {
                    buf[done..].fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", e).in_file(self.file.path()).at(offset + done as u64)),
            }
        }
        Ok(())
    }
}

impl DiskImage for Raw {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self, offset: u64) -> Result<Extent> {
        let fail = |e| Error::io("find data and holes", e).in_file(self.file.path()).at(offset);
        let rest = self.size - offset;
        let start = match self.file.next_data(offset) {
            Ok(Some(start)) => start - start % SECTOR,
            Ok(None) => self.size,
            // No holes can be told there: all is data.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(Extent { len: rest, kind: ExtentKind::Data });
            }
            Err(e) => return Err(fail(e)),
        };
        if start > offset {
            return Ok(Extent { len: (start - offset).min(rest), kind: ExtentKind::Hole });
        }
        let end = self.file.next_hole(offset.max(start)).map_err(fail)?.max(offset + 1);
        let len = (end - offset).next_multiple_of(SECTOR);
        Ok(Extent { len: len.min(rest), kind: ExtentKind::Data })
    }
}
