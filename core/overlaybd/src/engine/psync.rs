//! The plain way: `pread(2)`.

use std::io;
use std::sync::Arc;

use super::Engine;
use crate::sys::File;

/// Reads with the file's own `read_at`.
#[derive(Debug)]
pub struct Psync(pub Arc<dyn File>);

impl Engine for Psync {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn is_plain(&self) -> bool {
        true
    }
}
