//! A blob that notes what it is asked, and answers so that each question shows in the answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{check_range, Blob};
use crate::error::{Error, Kind, Result};

/// Bytes in memory that are ready from some byte on, fetch all that they are asked to, and can be fetched anew
/// before [`Asked::FRESH`].
pub(crate) struct Asked {
    pub bytes: Vec<u8>,
    /// What was asked, with offset and length.
    pub seen: Mutex<Vec<(&'static str, u64, u64)>>,
    /// Whether fetching in advance fails.
    pub broken: AtomicBool,
    /// The first byte that is ready.
    pub ready: AtomicU64,
}

impl Asked {
    pub const FRESH: u64 = 500;

    pub fn new(bytes: Vec<u8>) -> Self {
        Asked { bytes, seen: Mutex::default(), broken: AtomicBool::new(false), ready: AtomicU64::new(700) }
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Vec<(&'static str, u64, u64)> {
        std::mem::take(&mut self.seen.lock())
    }

    fn fill(&self, what: &'static str, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        self.seen.lock().push((what, offset, buf.len() as u64));
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

impl Blob for Asked {
    fn name(&self) -> &str {
        "asked"
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.fill("read", buf, offset)
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.fill("copy", buf, offset)
    }

    fn is_ready(&self, offset: u64, _: u64) -> bool {
        offset >= self.ready.load(Ordering::Relaxed)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        check_range(self, offset, len as usize)?;
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Io, "broken"));
        }
        self.seen.lock().push(("prefetch", offset, len));
        Ok(len)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.seen.lock().push(("distrust", offset, len));
        Ok(offset < Self::FRESH)
    }
}
