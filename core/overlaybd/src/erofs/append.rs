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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn what_is_appended_is_there_whatever_was_there_before() {
        for zeros in [0, 1, 4096, FEW_ZEROS, FEW_ZEROS + 1, FEW_ZEROS + 4096, 300_001] {
            for head in [0, 1, 4095, 4096, 5000] {
                let device = Arc::new(MemoryDevice::new(1 << 20).unwrap());
                device.write_at(&vec![0xEE; 1 << 20], 0).unwrap();
                let mut appender = Appender::new(device.clone(), 8192);
                appender.write(&vec![1; head]).unwrap();
                appender.zeros(zeros).unwrap();
                appender.write(&[2; 100]).unwrap();
                assert_eq!(appender.position(), 8192 + head as u64 + zeros + 100);
                appender.align().unwrap();
                assert_eq!(appender.position() % BLOCK, 0);
                appender.flush().unwrap();
                let mut bytes = vec![0; 1 << 20];
                device.read_at(&mut bytes, 0).unwrap();
                let end = appender.position() as usize;
                let mut expected = [vec![0xEE; 8192], vec![1; head], vec![0; zeros as usize], vec![2; 100]].concat();
                expected.resize(end, 0);
                expected.resize(1 << 20, 0xEE);
                assert!(bytes == expected, "{zeros} zeros behind {head} bytes");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_just_fits_is_not() {
        let device = Arc::new(MemoryDevice::new(1 << 20).unwrap());
        let mut appender = Appender::new(device, (1 << 20) - 8192);
        assert_eq!(appender.zeros(8193).unwrap_err().kind(), Kind::NoSpace);
        assert_eq!(appender.skip(3).unwrap_err().kind(), Kind::NoSpace);
        assert_eq!(appender.block(8192).unwrap(), 254);
        appender.skip(1).unwrap();
        assert_eq!(appender.block(4096).unwrap(), 255);
        assert_eq!(appender.block(4097).unwrap_err().kind(), Kind::NoSpace);
        appender.write(&[1; 4096]).unwrap();
        assert_eq!(appender.write(&[1]).unwrap_err().kind(), Kind::NoSpace);
    }
}
