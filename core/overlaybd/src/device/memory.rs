//! A block device in memory: the model that tests compare with, and a scratch disk for tools.

use crate::sync::RwLock;

use super::{check_range, BlockDevice, Extent, ExtentKind};
use crate::error::{Error, Kind, Result};

/// Granularity of extents, in bytes.
const BLOCK: u64 = 512;

/// A device whose bytes are in memory. Starts as one hole; discards make `Zero` blocks.
pub struct MemoryDevice {
    inner: RwLock<Inner>,
    size: u64,
    read_only: bool,
}

struct Inner {
    bytes: Vec<u8>,
    /// One kind for every started block; a block with any written byte is `Data`.
    kinds: Vec<ExtentKind>,
}

impl MemoryDevice {
    /// A writable device of `size` bytes, all hole.
    ///
    /// Errors: `Limit` if memory of that size cannot be addressed.
    pub fn new(size: u64) -> Result<Self> {
        let len = usize::try_from(size)
            .ok()
            .filter(|len| *len <= isize::MAX as usize)
            .ok_or_else(|| Error::new(Kind::Limit, format!("memory device of {size} bytes")))?;
        let kinds = vec![ExtentKind::Hole; len.div_ceil(BLOCK as usize)];
        Ok(MemoryDevice { inner: RwLock::new(Inner { bytes: vec![0; len], kinds }), size, read_only: false })
    }

    /// A read-only device that holds `bytes`.
    pub fn read_only(bytes: Vec<u8>) -> Self {
        let kinds = vec![ExtentKind::Data; bytes.len().div_ceil(BLOCK as usize)];
        let size = bytes.len() as u64;
        MemoryDevice { inner: RwLock::new(Inner { bytes, kinds }), size, read_only: true }
    }

    fn writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(Kind::ReadOnly, "the device is read-only"));
        }
        Ok(())
    }
}

impl BlockDevice for MemoryDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len() as u64)?;
        let start = offset as usize;
        buf.copy_from_slice(&self.inner.read().bytes[start..start + buf.len()]);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.writable()?;
        check_range(self, offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let (start, end) = (offset as usize, offset as usize + buf.len());
        let mut inner = self.inner.write();
        inner.bytes[start..end].copy_from_slice(buf);
        inner.kinds[start / BLOCK as usize..end.div_ceil(BLOCK as usize)].fill(ExtentKind::Data);
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        check_range(self, offset, len)?;
        let (start, end) = (offset as usize, (offset + len) as usize);
        let mut inner = self.inner.write();
        inner.bytes[start..end].fill(0);
        // Only whole blocks change their kind; the last block of the device may be short.
        let first = start.div_ceil(BLOCK as usize);
        let last = if end as u64 == self.size { inner.kinds.len() } else { end / BLOCK as usize };
        if first < last {
            inner.kinds[first..last].fill(ExtentKind::Zero);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        check_range(self, offset, len)?;
        let inner = self.inner.read();
        let end = offset + len;
        let mut runs: Vec<Extent> = Vec::new();
        let max = max.max(1);
        let mut at = offset;
        while at < end {
            let block = at / BLOCK;
            let kind = inner.kinds[block as usize];
            let step = ((block + 1) * BLOCK).min(end) - at;
            let found = runs.len();
            match runs.last_mut() {
                Some(run) if run.kind == kind => run.len += step,
                _ if found == max => break,
                _ => runs.push(Extent { len: step, kind }),
            }
            at += step;
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

    #[test]
    fn extents_follow_writes_and_discards() {
        let d = MemoryDevice::new(4096 + 100).unwrap();
        d.write_at(&[1; 10], 1020).unwrap();
        d.discard(1024, 3172).unwrap();
        let kinds: Vec<_> = d.extents(0, 4196, 9).unwrap().iter().map(|e| (e.len, e.kind)).collect();
        assert_eq!(kinds, [(512, ExtentKind::Hole), (512, ExtentKind::Data), (3172, ExtentKind::Zero)]);
        let mut b = [9; 12];
        d.read_at(&mut b, 1018).unwrap();
        assert_eq!(b, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(d.extents(0, 4196, 1).unwrap().len(), 1);
    }

    #[test]
    fn refuses_what_is_outside_or_read_only() {
        let d = MemoryDevice::read_only(vec![7; 10]);
        assert_eq!(d.read_at(&mut [0; 2], 9).unwrap_err().kind(), Kind::OutOfBounds);
        assert_eq!(d.read_at(&mut [0; 2], u64::MAX).unwrap_err().kind(), Kind::OutOfBounds);
        assert_eq!(d.write_at(&[1], 0).unwrap_err().kind(), Kind::ReadOnly);
        assert_eq!(d.discard(0, 1).unwrap_err().kind(), Kind::ReadOnly);
    }
}
