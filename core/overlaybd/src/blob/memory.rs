//! A blob in memory, for tests and for small things that arrive whole.

use super::{check_range, Blob};
use crate::error::Result;

/// Bytes in memory with a name.
pub struct MemoryBlob {
    name: String,
    bytes: Vec<u8>,
}

impl MemoryBlob {
    /// Takes the bytes as they are.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        MemoryBlob { name: name.into(), bytes }
    }
}

impl Blob for MemoryBlob {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}
