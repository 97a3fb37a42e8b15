//! What lies between libext2fs and the device: pages of metadata, and a run of file content on its way.
//!
//! A page that is written as it was is not written at all, and one of zeros takes no room, so that a layer holds only
//! what has changed.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::mapped::Mapped;
use super::written::Written;
use crate::device::{check_range, BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::limits::{MAX_EXT4_PAGES, SECTOR};
use crate::lsmt::RemoteMap;

/// Bytes of a page, and of what zeros are looked for in content.
pub(super) const PAGE: usize = 4096;
/// Content that is held back so that neighbours are written together.
const RUN: usize = 4 << 20;
/// Content after which the system is to begin writing: a disk works while we do.
const HURRY: usize = 32 << 20;
/// Pages written at a time.
const BATCH: usize = 256;

struct Page {
    bytes: Box<[u8; PAGE]>,
    dirty: bool,
    used: u64,
}

/// A device through a cache.
pub(super) struct Pages {
    device: Arc<dyn BlockDevice>,
    pages: HashMap<u64, Page>,
    clock: u64,
    /// Content that was not written yet, and where it belongs. No page holds any of it.
    run: Vec<u8>,
    run_at: u64,
    /// What was written, or mapped.
    written: Written,
    /// Bytes of content written since the system was last asked to begin.
    unhurried: usize,
    /// Where content is mapped to instead of being written, and what was.
    remote: Option<(Box<dyn RemoteMap>, Mapped)>,
    /// Why the last call of the library failed, if we know better than it does.
    pub failed: Option<Error>,
}

impl Pages {
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        let (pages, run) = (HashMap::new(), Vec::new());
        let written = Written::default();
        Pages { device, pages, clock: 0, run, run_at: 0, written, unhurried: 0, remote: None, failed: None }
    }

    /// From now on content can be mapped.
    pub fn set_remote(&mut self, remote: Box<dyn RemoteMap>) {
        self.remote = Some((remote, Mapped::default()));
    }

    /// Whether it can.
    pub fn has_remote(&self) -> bool {
        self.remote.is_some()
    }

    pub fn device(&self) -> &dyn BlockDevice {
        &*self.device
    }

    pub fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(&*self.device, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let (number, from, n) = part(offset + done as u64, buf.len() - done);
            buf[done..done + n].copy_from_slice(&self.page(number)?.bytes[from..from + n]);
            done += n;
        }
        Ok(())
    }

    /// Writes metadata.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(&*self.device, offset, bytes.len() as u64)?;
        let mut done = 0;
        while done < bytes.len() {
            let (number, from, n) = part(offset + done as u64, bytes.len() - done);
            let page = if n == PAGE { self.whole_page(number)? } else { self.page(number)? };
            let (old, new) = (&mut page.bytes[from..from + n], &bytes[done..done + n]);
            if old != new {
                old.copy_from_slice(new);
                page.dirty = true;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes zeros where there are none.
    pub fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut at = offset;
        while at < offset + len {
            let (_, _, n) = part(at, (offset + len - at).min(PAGE as u64) as usize);
            self.write(&[0; PAGE][..n], at)?;
            at += n as u64;
        }
        Ok(())
    }

    /// Writes content of a file: whole blocks, of whose place nothing else is known any more.
    pub fn content(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(&*self.device, offset, bytes.len() as u64)?;
        // Blocks of metadata that were given up and are content now. Where pages are larger than blocks, a page may
        // hold some of both: then it goes through the page.
        if !offset.is_multiple_of(PAGE as u64) || !bytes.len().is_multiple_of(PAGE) {
            return self.write(bytes, offset);
        }
        for number in offset / PAGE as u64..(offset + bytes.len() as u64) / PAGE as u64 {
            self.pages.remove(&number);
        }
        if self.run_at + self.run.len() as u64 != offset || self.run.len() + bytes.len() > RUN {
            self.write_run()?;
            self.run_at = offset;
        }
        self.run.extend_from_slice(bytes);
        Ok(())
    }

    /// Maps whole pages, of whose place nothing else is known any more, to `len` bytes of content that lie at `target`;
    /// what that leaves of the last page reads as zeros.
    pub fn map(&mut self, offset: u64, len: u64, target: u64) -> Result<()> {
        let (mapped, end) = (len.next_multiple_of(SECTOR), len.next_multiple_of(PAGE as u64));
        check_range(&*self.device, offset, end)?;
        self.write_run()?;
        let range = offset / PAGE as u64..(offset + end) / PAGE as u64;
        range.clone().for_each(|number| drop(self.pages.remove(&number)));
        if let Some((remote, known)) = &mut self.remote {
            known.add(range);
            self.written.add(offset, end);
            remote.map(offset, mapped, target)?;
        }
        let (rest, left) = (offset + mapped, end - mapped);
        if left > 0 && !reads_zero(&*self.device, rest, left)? {
            self.device.discard(rest, left)?;
        }
        Ok(())
    }

    /// What was written so far, in order; of content nothing is held back any more.
    pub fn written(&mut self) -> Result<Vec<Range<u64>>> {
        self.write_run()?;
        Ok(self.written.parts())
    }

    /// What metadata is to be written, in order.
    pub fn dirty(&self) -> Vec<Range<u64>> {
        let mut numbers: Vec<u64> =
            self.pages.iter().filter(|(_, page)| page.dirty).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| number * PAGE as u64..(number + 1) * PAGE as u64).collect()
    }

    /// Drops the metadata that lies wholly in one of these parts: it has no meaning any more.
    pub fn forget(&mut self, parts: &[Range<u64>]) {
        for part in parts {
            for number in part.start.div_ceil(PAGE as u64)..part.end / PAGE as u64 {
                self.pages.remove(&number);
            }
        }
    }

    /// Writes all that is held back.
    pub fn flush(&mut self) -> Result<()> {
        self.write_run()?;
        let mut dirty: Vec<u64> = self.pages.iter().filter(|(_, page)| page.dirty).map(|(number, _)| *number).collect();
        self.write_pages(&mut dirty)
    }

    /// A page all of which is to be written. Where content was mapped what it was is of no interest, and cannot be had
    /// perhaps: the target need not be here.
    fn whole_page(&mut self, number: u64) -> Result<&mut Page> {
        let Some((_, known)) = &mut self.remote else { return self.page(number) };
        if known.remove(number) || self.page(number).is_err() {
            self.make_room()?;
            self.pages.insert(number, Page { bytes: Box::new([0; PAGE]), dirty: true, used: 0 });
        }
        self.page(number)
    }

    fn make_room(&mut self) -> Result<()> {
        if self.pages.len() >= MAX_EXT4_PAGES {
            self.evict()?;
        }
        Ok(())
    }

    fn page(&mut self, number: u64) -> Result<&mut Page> {
        self.clock += 1;
        if !self.pages.contains_key(&number) {
            self.make_room()?;
            let offset = number * PAGE as u64;
            let run = self.run_at..self.run_at + self.run.len() as u64;
            if run.start < offset + PAGE as u64 && offset < run.end {
                self.write_run()?;
            }
            let mut bytes = Box::new([0; PAGE]);
            let len = (self.device.size() - offset).min(PAGE as u64) as usize;
            self.device.read_at(&mut bytes[..len], offset)?;
            self.pages.insert(number, Page { bytes, dirty: false, used: 0 });
        }
        let page = self.pages.get_mut(&number).ok_or_else(|| Error::corrupt("a page that vanished"))?;
        page.used = self.clock;
        Ok(page)
    }

    /// Drops the half that was not used for the longest time.
    fn evict(&mut self) -> Result<()> {
        let mut by_age: Vec<(u64, u64)> = self.pages.iter().map(|(number, page)| (page.used, *number)).collect();
        by_age.sort_unstable();
        by_age.truncate(by_age.len() / 2);
        let mut dirty: Vec<u64> =
            by_age.iter().map(|(_, number)| *number).filter(|number| self.pages[number].dirty).collect();
        self.write_run()?;
        self.write_pages(&mut dirty)?;
        for (_, number) in by_age {
            self.pages.remove(&number);
        }
        Ok(())
    }

    fn write_pages(&mut self, numbers: &mut [u64]) -> Result<()> {
        numbers.sort_unstable();
        let mut rest = &numbers[..];
        let mut bytes = Vec::new();
        while let Some(first) = rest.first() {
            let neighbours = rest.iter().zip(*first..).take(BATCH).take_while(|(number, next)| **number == *next);
            let count = neighbours.count();
            bytes.clear();
            for number in &rest[..count] {
                bytes.extend_from_slice(&*self.pages[number].bytes);
            }
            let offset = first * PAGE as u64;
            bytes.truncate((self.device.size() - offset).min(bytes.len() as u64) as usize);
            store(&*self.device, &bytes, offset)?;
            self.written.add(offset, bytes.len() as u64);
            for number in &rest[..count] {
                if let Some(page) = self.pages.get_mut(number) {
                    page.dirty = false;
                }
            }
            rest = &rest[count..];
        }
        Ok(())
    }

    fn write_run(&mut self) -> Result<()> {
        if self.run.is_empty() {
            return Ok(());
        }
        store(&*self.device, &self.run, self.run_at)?;
        self.written.add(self.run_at, self.run.len() as u64);
        self.unhurried += self.run.len();
        if self.unhurried >= HURRY {
            self.device.start_write_back();
            self.unhurried = 0;
        }
        self.run.clear();
        Ok(())
    }
}

/// Number of the page at `offset`, the place in it, and how many of `len` bytes lie in it.
fn part(offset: u64, len: usize) -> (u64, usize, usize) {
    let from = (offset % PAGE as u64) as usize;
    (offset / PAGE as u64, from, len.min(PAGE - from))
}

/// Writes `bytes`, except that zeros are not stored: nothing is done where zeros are, and other bytes are discarded.
fn store(device: &dyn BlockDevice, bytes: &[u8], offset: u64) -> Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let zeros = is_zero(&bytes[at..bytes.len().min(at + PAGE)]);
        let mut end = at;
        while end < bytes.len() && is_zero(&bytes[end..bytes.len().min(end + PAGE)]) == zeros {
            end += PAGE;
        }
        let (piece, place) = (&bytes[at..end.min(bytes.len())], offset + at as u64);
        if !zeros {
            device.write_at(piece, place)?;
        } else if !reads_zero(device, place, piece.len() as u64)? {
            device.discard(place, piece.len() as u64)?;
        }
        at = end;
    }
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    // Most blocks differ at once.
    bytes.iter().take(16).all(|b| *b == 0) && bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, b| all | b) == 0)
}

/// Whether nothing is stored there.
pub(super) fn reads_zero(device: &dyn BlockDevice, offset: u64, len: u64) -> Result<bool> {
    let mut done = 0;
    while done < len {
        let runs = device.extents(offset + done, len - done, 64)?;
        if runs.iter().any(|run| run.kind == ExtentKind::Data) {
            return Ok(false);
        }
        done += runs.iter().map(|run| run.len).sum::<u64>().max(1);
    }
    Ok(true)
}
