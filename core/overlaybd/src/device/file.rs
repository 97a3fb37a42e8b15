//! A block device that is a plain file: a raw disk image.

use std::sync::Arc;

use super::{check_range, BlockDevice, Extent, ExtentKind};
use crate::error::{Error, Result};
use crate::sys::{read_exact, write_all, File};

/// A file as a device. Its length is taken once; it is not created and does not grow.
pub struct FileDevice {
    file: Arc<dyn File>,
    size: u64,
}

impl FileDevice {
    /// Takes a file that is open for reading and writing.
    ///
    /// # Errors
    /// Those of asking for its length.
    pub fn new(file: Arc<dyn File>) -> Result<Self> {
        let size = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        Ok(FileDevice { file, size })
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len() as u64)?;
        read_exact(&*self.file, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len() as u64)?;
        write_all(&*self.file, buf, offset)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        match self.file.punch_hole(offset, len) {
            // A file system without holes.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let zeros = vec![0; len.min(1 << 20) as usize];
                let mut done = 0;
                while done < len {
                    let n = (len - done).min(zeros.len() as u64);
                    write_all(&*self.file, &zeros[..n as usize], offset + done)?;
                    done += n;
                }
                Ok(())
            }
            other => other.map_err(|e| Error::io("punch a hole", e).in_file(self.file.path()).at(offset)),
        }
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", e).in_file(self.file.path()))
    }

    fn start_write_back(&self) {
        self.file.start_write_back();
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        check_range(self, offset, len)?;
        let end = offset + len;
        let failed = |e| Error::io("look for data", e).in_file(self.file.path()).at(offset);
        let (mut at, mut runs) = (offset, Vec::new());
        while at < end && runs.len() < max.max(1) {
            let data = self.file.next_data(at).map_err(failed)?.unwrap_or(end).min(end);
            let (next, kind) = if data > at {
                (data, ExtentKind::Hole)
            } else {
                (self.file.next_hole(at).map_err(failed)?.clamp(at + 1, end), ExtentKind::Data)
            };
            runs.push(Extent { len: next - at, kind });
            at = next;
        }
        Ok(runs)
    }

    fn is_ready(&self, _offset: u64, _len: u64) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::os::OsFile;

    #[test]
    fn holes_of_a_file_are_holes_of_the_device() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        let device = FileDevice::new(Arc::new(OsFile::new(file, "raw"))).unwrap();
        device.write_at(&[7; 65536], 65536).unwrap();
        let kinds: Vec<_> = device.extents(0, 1 << 20, 9).unwrap().iter().map(|e| (e.len, e.kind)).collect();
        assert_eq!(kinds, [(65536, ExtentKind::Hole), (65536, ExtentKind::Data), (917_504, ExtentKind::Hole)]);
        device.discard(65536, 65536).unwrap();
        let mut buf = [1; 16];
        device.read_at(&mut buf, 65536).unwrap();
        assert_eq!(buf, [0; 16]);
        assert!(device.write_at(&[0; 2], (1 << 20) - 1).is_err());
    }
}
