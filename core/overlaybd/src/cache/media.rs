//! Where the chunks of one blob lie and what is recorded of them: in files of its own, or in lines of a pool.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::map::{Map, Shape};
use crate::audit::{self, Access};
use crate::error::{Error, Result};
use crate::sys::{write_all, File};

/// The place of a blob's chunks. Who may call what at the same time is for the store to see to.
pub(super) trait Media: Send + Sync {
    /// For messages.
    fn path(&self) -> &Path;

    /// Fills `buf` with bytes of chunks that are there.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes the chunks from `first` on, none of which is recorded.
    fn write(&self, first: usize, bytes: &[u8]) -> Result<()>;

    /// Records the chunks from `first` on as present. Their data must have been written before.
    fn record(&self, first: usize, crcs: &[u32], tick: u32) -> Result<()>;

    /// Records the chunks `first..end` as absent.
    fn erase(&self, first: usize, end: usize) -> Result<()>;

    /// Calls `each` with index and checksum of every recorded chunk in `first..end`.
    fn load(&self, first: usize, end: usize, each: &mut dyn FnMut(usize, u32));

    /// Gives back the room of the chunks `first..end`.
    fn punch(&self, first: usize, end: usize) -> Result<()>;

    /// The first run of chunks at or behind `chunk` that take room, whether recorded or not.
    fn occupied(&self, chunk: usize) -> Result<Option<Range<usize>>>;

    /// Takes back what is recorded of the blob's length, for those who open it next.
    fn forget_len(&self) {}

    /// Bytes taken on disk.
    fn allocated_bytes(&self) -> u64;

    /// Notes when chunks were last used; `newest` is the latest.
    fn note_use(&self, newest: u32, ticks: &dyn Fn(usize) -> u32);
}

/// A sparse file of the blob's own, and the map beside it.
pub(super) struct SparseMedia {
    pub file: Arc<dyn File>,
    pub map: Map,
    pub shape: Shape,
}

impl SparseMedia {
    fn fail(&self, what: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |e| Error::io(what, e).in_file(self.file.path())
    }
}

impl Media for SparseMedia {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        read_full(&*self.file, buf, offset)
    }

    fn write(&self, first: usize, bytes: &[u8]) -> Result<()> {
        let start = self.shape.start(first);
        audit::timed(Access::CacheWrite, &*self.file, start, bytes.len(), || write_all(&*self.file, bytes, start))
    }

    fn record(&self, first: usize, crcs: &[u32], _tick: u32) -> Result<()> {
        self.map.record(first, crcs)
    }

    fn erase(&self, first: usize, end: usize) -> Result<()> {
        self.map.erase(first, end)
    }

    fn load(&self, first: usize, end: usize, each: &mut dyn FnMut(usize, u32)) {
        self.map.load(first, end, each);
    }

    fn punch(&self, first: usize, end: usize) -> Result<()> {
        let start = self.shape.start(first);
        self.file.punch_hole(start, self.shape.start(end) - start).map_err(self.fail("punch hole"))
    }

    fn occupied(&self, chunk: usize) -> Result<Option<Range<usize>>> {
        let fail = self.fail("seek");
        match self.file.next_data(self.shape.start(chunk)).map_err(&fail)? {
            Some(data) if data < self.shape.len => {
                let hole = self.file.next_hole(data).map_err(&fail)?.clamp(data + 1, self.shape.len);
                Ok(Some(self.shape.chunk_of(data)..self.shape.chunk_of(hole - 1) + 1))
            }
            _ => Ok(None),
        }
    }

    fn forget_len(&self) {
        self.map.spoil();
    }

    fn allocated_bytes(&self) -> u64 {
        self.file.allocated_bytes().unwrap_or(0) + self.map.allocated_bytes()
    }

    fn note_use(&self, newest: u32, _ticks: &dyn Fn(usize) -> u32) {
        // A lost note makes the blob look older than it is, nothing else.
        let _ = self.map.set_tick(newest);
    }
}

/// Fills `buf`; a file that ends before is an error.
pub(super) fn read_full(file: &dyn File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match audit::read_file(Access::CacheRead, file, buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
