//! Where a layer goes while it is written: strictly in order, whatever stands behind.

use std::sync::Arc;

use crate::blob::Blob;
use crate::error::{Error, Result};
use crate::sys::{write_all, File};

/// A sequential output. Wrappers (zfile, tar, a digest) are sinks on top of sinks; the outermost
/// one's `finish` finishes all.
pub trait Sink: Send {
    /// Appends `bytes`.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Copies `len` bytes of `from` at `offset` to the end of the output. A sink on a file lets the
    /// kernel do it; the others read and write.
    fn write_from(&mut self, from: &dyn Blob, offset: u64, len: u64) -> Result<()> {
        copy_through_memory(self, from, offset, len)
    }

    /// Replaces bytes written before, if the output can; false if it cannot (a stream).
    fn rewrite(&mut self, _offset: u64, _bytes: &[u8]) -> Result<bool> {
        Ok(false)
    }

    /// Bytes appended so far.
    fn position(&self) -> u64;

    /// Writes what is still held back, then finishes what lies below. Call once, at the end.
    fn finish(&mut self) -> Result<()>;
}

/// Reads and writes in pieces that stay in a processor's own cache.
fn copy_through_memory(to: &mut (impl Sink + ?Sized), from: &dyn Blob, offset: u64, len: u64) -> Result<()> {
    let mut buf = vec![0; len.min(256 << 10) as usize];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(buf.len() as u64) as usize;
        from.read_at(&mut buf[..n], offset + done)?;
        to.write(&buf[..n])?;
        done += n as u64;
    }
    Ok(())
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (**self).write(bytes)
    }

    fn write_from(&mut self, from: &dyn Blob, offset: u64, len: u64) -> Result<()> {
        (**self).write_from(from, offset, len)
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<bool> {
        (**self).rewrite(offset, bytes)
    }

    fn position(&self) -> u64 {
        (**self).position()
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

/// A sink into a file, from its start. Naming, syncing and removal after an error are its owner's.
pub struct FileSink {
    file: Arc<dyn File>,
    position: u64,
}

impl FileSink {
    /// Writes to `file` from offset 0 on.
    pub fn new(file: Arc<dyn File>) -> Self {
        FileSink { file, position: 0 }
    }
}

impl Sink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        write_all(&*self.file, bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn write_from(&mut self, from: &dyn Blob, offset: u64, len: u64) -> Result<()> {
        if let Some((file, start)) = from.as_file() {
            let fail = |e| Error::io("copy", e).in_file(self.file.path()).at(self.position);
            if file.copy_to(start + offset, len, &*self.file, self.position).map_err(fail)?.is_some() {
                self.position += len;
                return Ok(());
            }
        }
        copy_through_memory(self, from, offset, len)
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<bool> {
        write_all(&*self.file, bytes, offset)?;
        Ok(true)
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A sink into memory, for tests and small layers.
#[derive(Default)]
pub struct MemorySink {
    /// All that was written.
    pub bytes: Vec<u8>,
}

impl Sink for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<bool> {
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(true)
    }

    fn position(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
