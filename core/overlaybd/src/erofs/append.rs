//! Writing behind the end of the file system: everything new comes one after the other, in long pieces.

use std::sync::Arc;

use super::format::BLOCK;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};

/// Bytes gathered before they are written.
const GATHER: usize = 1 << 20;
/// Zeros that are written as such: more are told to the device.
const FEW_ZEROS: u64 = 64 << 10;

/// Where new things go.
pub(super) struct Appender {
    device: Arc<dyn BlockDevice>,
    /// Where `bytes` belong, which were not written yet.
    at: u64,
    bytes: Vec<u8>,
}

impl Appender {
    /// Writes from `at` on.
    pub fn new(device: Arc<dyn BlockDevice>, at: u64) -> Self {
        Appender { device, at, bytes: Vec::new() }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// The block that the next byte goes to, with those from it on having room for `len` bytes.
    ///
    /// # Errors
    /// `NoSpace`.
    pub fn block(&mut self, len: u64) -> Result<u32> {
        debug_assert_eq!(self.position() % BLOCK, 0);
        self.has_room(len)?;
        u32::try_from(self.position() / BLOCK).map_err(|_| self.full(len))
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    /// `NoSpace`; those of the device.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.has_room(bytes.len() as u64)?;
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= GATHER {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes zeros.
    ///
    /// # Errors
    /// As above.
    pub fn zeros(&mut self, len: u64) -> Result<()> {
        self.has_room(len)?;
        if len <= FEW_ZEROS {
            self.bytes.resize(self.bytes.len() + len as usize, 0);
            return Ok(());
        }
        // What a device gives back are whole blocks.
        let head = self.position().wrapping_neg() % BLOCK;
        self.bytes.resize(self.bytes.len() + head as usize, 0);
        self.flush()?;
        let tail = (len - head) % BLOCK;
        self.device.discard(self.at, len - head - tail)?;
        self.at += len - head - tail;
        self.bytes.resize(tail as usize, 0);
        Ok(())
    }

    /// Leaves out whole blocks, which somebody else gives their content.
    ///
    /// # Errors
    /// As above.
    pub fn skip(&mut self, blocks: u64) -> Result<()> {
        self.has_room(blocks.saturating_mul(BLOCK))?;
        self.flush()?;
        self.at += blocks * BLOCK;
        Ok(())
    }

    /// Fills the present block with zeros.
    ///
    /// # Errors
    /// As above.
    pub fn align(&mut self) -> Result<()> {
        self.zeros(self.position().wrapping_neg() % BLOCK)
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// Those of the device.
    pub fn flush(&mut self) -> Result<()> {
        self.device.write_at(&self.bytes, self.at)?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    fn has_room(&self, len: u64) -> Result<()> {
        let end = self.position().checked_add(len).and_then(|end| end.checked_next_multiple_of(BLOCK));
        let most = self.device.size().min(u64::from(u32::MAX) * BLOCK);
        match end {
            Some(end) if end <= most => Ok(()),
            _ => Err(self.full(len)),
        }
    }

    fn full(&self, len: u64) -> Error {
        let what = format!("no room for {len} bytes on a device of {}", self.device.size());
        Error::new(Kind::NoSpace, what)
    }
}
