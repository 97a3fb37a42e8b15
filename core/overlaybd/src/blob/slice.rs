//! A part of another blob, such as the payload of a tar.

use std::sync::Arc;

use super::{check_range, Blob};
use crate::error::{Error, Kind, Result};
use crate::sys::File;

/// `len` bytes of `inner` from `start` on.
pub struct SliceBlob {
    inner: Arc<dyn Blob>,
    start: u64,
    len: u64,
}

impl SliceBlob {
    /// Errors: `OutOfBounds` if the part does not lie inside `inner`.
    pub fn new(inner: Arc<dyn Blob>, start: u64, len: u64) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > inner.len()) {
            let what = format!("{len} bytes from {start} on do not fit in {} bytes", inner.len());
            return Err(Error::new(Kind::OutOfBounds, what).in_file(inner.name()).at(start));
        }
        Ok(SliceBlob { inner, start, len })
    }
}

impl Blob for SliceBlob {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        self.inner.read_at(buf, self.start + offset)
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.inner.is_ready(self.start.saturating_add(offset), len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        check_range(self, offset, len as usize)?;
        self.inner.prefetch(self.start + offset, len)
    }

    fn as_file(&self) -> Option<(&Arc<dyn File>, u64)> {
        let (file, offset) = self.inner.as_file()?;
        Some((file, offset + self.start))
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.inner.distrust(self.start.saturating_add(offset), len)
    }
}
