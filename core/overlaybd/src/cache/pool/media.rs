//! One blob's lines in a pool.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use super::index::{Key, Record};
use super::{key_of, Line, Pool, NOBODY};
use crate::cache::map::Shape;
use crate::cache::media::{read_full, Media};
use crate::error::{Error, Kind, Result};
use crate::sys::write_all;

/// The slots of an open blob's lines: 4 bytes of memory for each.
pub(crate) struct PoolMedia {
    pool: Arc<Pool>,
    key: Key,
    number: u32,
    /// Names this opening of the blob: tells its unrecorded lines from those of one that is just being closed.
    opening: u32,
    shape: Shape,
    /// Slot of each line plus 1; 0 for none. Changed under the store's lock of flights, or of what is written.
    slots: Vec<AtomicU32>,
}

impl PoolMedia {
    /// Takes over the lines that the pool has of a blob, which nobody else of this process may have open.
    pub fn new(pool: Arc<Pool>, digest: &str, shape: Shape) -> Self {
        let key = key_of(digest, shape);
        let slots: Vec<_> = (0..shape.chunks()).map(|_| AtomicU32::new(0)).collect();
        let (number, opening) = {
            let mut table = pool.table.lock();
            let number = table.number(key);
            table.blobs[number as usize].1 += 1;
            table.openings += 1;
            for (slot, line) in table.lines.iter().enumerate().filter(|(_, line)| line.blob == number) {
                if let Some(place) = slots.get(line.number as usize) {
                    place.store(slot as u32 + 1, Ordering::Relaxed);
                }
            }
            (number, table.openings)
        };
        PoolMedia { pool, key, number, opening, shape, slots }
    }

    fn slot(&self, chunk: usize) -> Option<u32> {
        self.slots[chunk].load(Ordering::Acquire).checked_sub(1)
    }

    /// The last use that the pool knows of.
    pub fn newest(&self) -> u32 {
        let table = self.pool.table.lock();
        table.lines.iter().filter(|line| line.blob == self.number).map(|line| line.tick).max().unwrap_or(0)
    }

    /// Calls `each` with parts of a range that lie in one line: offset in the pool's file, and part.
    fn parts(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let line = u64::from(self.pool.line);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let n = ((line - at % line) as usize).min(len - done);
            let Some(slot) = self.slot(self.shape.chunk_of(at)) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            each(u64::from(slot) * line + at % line, done..done + n)?;
            done += n;
        }
        Ok(())
    }
}

impl Media for PoolMedia {
    fn path(&self) -> &Path {
        self.pool.file.path()
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.parts(offset, buf.len(), |at, part| read_full(&*self.pool.file, &mut buf[part], at))
    }

    fn write(&self, first: usize, bytes: &[u8]) -> Result<()> {
        let chunks = first..first + bytes.len().div_ceil(self.pool.line as usize);
        {
            let mut table = self.pool.table.lock();
            for chunk in chunks {
                if self.slot(chunk).is_none() {
                    let full = || Error::new(Kind::Limit, "no line is free").in_file(self.path());
                    let slot = table.free.pop().ok_or_else(full)?;
                    table.lines[slot as usize].number = self.opening;
                    self.slots[chunk].store(slot + 1, Ordering::Release);
                }
            }
        }
        let write =
            |at: u64, part: Range<usize>| write_all(&*self.pool.file, &bytes[part], at).map_err(io::Error::other);
        self.parts(self.shape.start(first), bytes.len(), write)
            .map_err(|e| Error::io("write line", e).in_file(self.path()))
    }

    fn record(&self, first: usize, crcs: &[u32], tick: u32) -> Result<()> {
        let mut table = self.pool.table.lock();
        for (chunk, &crc) in (first..).zip(crcs) {
            let Some(slot) = self.slot(chunk) else { continue };
            let number = chunk as u32;
            self.pool.index.record(slot as usize, &Record { key: self.key, number, crc, tick })?;
            table.lines[slot as usize] = Line { blob: self.number, number, crc, tick };
        }
        Ok(())
    }

    fn erase(&self, first: usize, end: usize) -> Result<()> {
        let mut table = self.pool.table.lock();
        for slot in (first..end).filter_map(|chunk| self.slot(chunk)) {
            if table.lines[slot as usize].blob != NOBODY {
                table.lines[slot as usize] = Line { number: self.opening, ..Line::default() };
                self.pool.index.erase(slot as usize)?;
            }
        }
        Ok(())
    }

    fn load(&self, first: usize, end: usize, each: &mut dyn FnMut(usize, u32)) {
        let table = self.pool.table.lock();
        for chunk in first..end {
            if let Some(line) = self.slot(chunk).map(|slot| table.lines[slot as usize]) {
                if line.blob == self.number {
                    each(chunk, line.crc);
                }
            }
        }
    }

    fn punch(&self, first: usize, end: usize) -> Result<()> {
        let mut table = self.pool.table.lock();
        for chunk in first..end {
            if let Some(slot) = self.slots[chunk].swap(0, Ordering::AcqRel).checked_sub(1) {
                self.pool.release(&mut table, slot)?;
            }
        }
        Ok(())
    }

    fn occupied(&self, chunk: usize) -> Result<Option<Range<usize>>> {
        let end = self.shape.chunks();
        let Some(first) = (chunk..end).find(|&c| self.slot(c).is_some()) else { return Ok(None) };
        Ok(Some(first..(first..end).find(|&c| self.slot(c).is_none()).unwrap_or(end)))
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }

    fn note_use(&self, _newest: u32, ticks: &dyn Fn(usize) -> u32) {
        let mut table = self.pool.table.lock();
        for chunk in 0..self.shape.chunks() {
            let Some(slot) = self.slot(chunk) else { continue };
            let line = &mut table.lines[slot as usize];
            if line.blob == self.number && line.tick < ticks(chunk) {
                line.tick = ticks(chunk);
                // A lost note makes the line look older than it is, nothing else.
                let _ = self.pool.index.set_tick(slot as usize, line.tick);
            }
        }
    }
}

impl Drop for PoolMedia {
    fn drop(&mut self) {
        let mut table = self.pool.table.lock();
        table.blobs[self.number as usize].1 -= 1;
        // Lines that were written but never recorded.
        for chunk in 0..self.shape.chunks() {
            if let Some(slot) = self.slot(chunk) {
                let line = &mut table.lines[slot as usize];
                if line.blob == NOBODY && line.number == self.opening {
                    line.number = 0;
                    table.free.push(slot);
                }
            }
        }
    }
}
