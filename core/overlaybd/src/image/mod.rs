//! An open image: a stack of lowers, perhaps an upper, and the block device that they make.

mod extents;
mod open;
#[cfg(test)]
mod tests;

pub use open::open;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::device::{BlockDevice, Extent};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::{Stack, Upper};
use crate::metrics::{self, Latency};
use crate::trace::Recorder;

/// Requests and bytes since the image was opened.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Reads answered.
    pub reads: AtomicU64,
    /// Bytes read.
    pub read_bytes: AtomicU64,
    /// Writes done.
    pub writes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Discards done.
    pub discards: AtomicU64,
    /// Flushes done.
    pub flushes: AtomicU64,
    /// Requests that failed.
    pub errors: AtomicU64,
}

impl Statistics {
    /// All counters by name.
    pub fn snapshot(&self) -> [(&'static str, u64); 7] {
        let counters = [
            ("reads", &self.reads),
            ("read_bytes", &self.read_bytes),
            ("writes", &self.writes),
            ("written_bytes", &self.written_bytes),
            ("discards", &self.discards),
            ("flushes", &self.flushes),
            ("errors", &self.errors),
        ];
        counters.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

/// A stack of layers as a block device.
pub struct Image {
    lowers: Option<Arc<Stack>>,
    upper: Option<Upper>,
    /// Notes what is read of the lowers, if they were opened with it.
    recorder: Arc<Recorder>,
    /// Held alone by a write that completes its first and last sector from what is there, and shared by
    /// all other changes: so none of these falls between its reading and its writing.
    partial: RwLock<()>,
    statistics: Statistics,
    latency: Latency,
}

impl Image {
    /// Puts `upper`, if any, on top of `lowers`. An upper without a size takes that of the lowers, and
    /// keeps it in its files.
    ///
    /// # Errors
    /// `Invalid` if there is neither a lower nor an upper, or if no layer says how large the device is.
    pub fn new(lowers: Option<Stack>, upper: Option<Upper>) -> Result<Image> {
        Image::with_recorder(lowers, upper, Recorder::new(0))
    }

    /// As [`Image::new`], for lowers that `recorder` has taps on.
    fn with_recorder(lowers: Option<Stack>, upper: Option<Upper>, recorder: Arc<Recorder>) -> Result<Image> {
        if lowers.is_none() && upper.is_none() {
            return Err(Error::new(Kind::Invalid, "an image needs at least one lower or an upper"));
        }
        if let (Some(lowers), Some(upper)) = (&lowers, &upper) {
            upper.inherit_size(lowers.virtual_size())?;
        }
        let image = Image {
            lowers: lowers.map(Arc::new),
            upper,
            recorder,
            partial: RwLock::new(()),
            statistics: Statistics::default(),
            latency: Latency::default(),
        };
        if image.size() == 0 {
            return Err(Error::new(Kind::Invalid, "no layer of the image says how large the device is"));
        }
        Ok(image)
    }

    /// Requests and bytes so far.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Where the time of reads went.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// The read-only layers, if there are any.
    pub fn lowers(&self) -> Option<&Arc<Stack>> {
        self.lowers.as_ref()
    }

    /// What records the first reads of the lowers, when asked to.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The writable layer, if there is one.
    pub fn upper(&self) -> Option<&Upper> {
        self.upper.as_ref()
    }

    fn writable(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or_else(|| Error::new(Kind::ReadOnly, "the image has no upper"))
    }

    fn check(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => {
                let what = format!("{len} bytes asked beyond the end of the device at {}", self.size());
                Err(Error::new(Kind::OutOfBounds, what).at(offset))
            }
        }
    }

    fn read_lowers(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.lowers {
            Some(lowers) => lowers.read_at(buf, offset),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Reads whole sectors; `offset` is in bytes.
    fn read_sectors(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.upper {
            Some(upper) => upper.read_at(buf, offset, |gap, at| self.read_lowers(gap, at)),
            None => self.read_lowers(buf, offset),
        }
    }

    /// Reads any range: the sectors at the edges by way of a bounce buffer.
    fn read_bytes(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let skip = (offset % SECTOR) as usize;
        if skip != 0 || (buf.len() as u64) < SECTOR {
            let take = buf.len().min(SECTOR as usize - skip);
            let mut edge = [0; SECTOR as usize];
            self.read_sectors(&mut edge, offset - skip as u64)?;
            buf[..take].copy_from_slice(&edge[skip..skip + take]);
            buf = &mut buf[take..];
            offset += take as u64;
        }
        let whole = buf.len() - buf.len() % SECTOR as usize;
        let (body, tail) = buf.split_at_mut(whole);
        if !body.is_empty() {
            self.read_sectors(body, offset)?;
        }
        self.read_bytes(tail, offset + whole as u64)
    }

    /// Writes any range: where it does not end at sectors' edges, the rest of those is read first.
    fn write_bytes(&self, upper: &Upper, buf: &[u8], offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        if offset.is_multiple_of(SECTOR) && (buf.len() as u64).is_multiple_of(SECTOR) {
            let _beside_others = self.partial.read();
            return upper.write_at(buf, offset, |gap, at| self.read_lowers(gap, at));
        }
        let _alone = self.partial.write();
        let start = offset - offset % SECTOR;
        let end = (offset + buf.len() as u64).next_multiple_of(SECTOR);
        let mut sectors = vec![0; (end - start) as usize];
        let last = sectors.len() - SECTOR as usize;
        self.read_sectors(&mut sectors[..SECTOR as usize], start)?;
        if last > 0 {
            self.read_sectors(&mut sectors[last..], end - SECTOR)?;
        }
        sectors[(offset - start) as usize..][..buf.len()].copy_from_slice(buf);
        upper.write_at(&sectors, start, |gap, at| self.read_lowers(gap, at))
    }

    fn discard_bytes(&self, upper: &Upper, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = offset + len;
        let (first, last) = (offset.next_multiple_of(SECTOR), end - end % SECTOR);
        if first >= last {
            return self.write_bytes(upper, &vec![0; len as usize], offset);
        }
        if first > offset {
            self.write_bytes(upper, &vec![0; (first - offset) as usize], offset)?;
        }
        if end > last {
            self.write_bytes(upper, &vec![0; (end - last) as usize], last)?;
        }
        let _beside_others = self.partial.read();
        upper.discard(first, last - first)
    }

    fn count<T>(&self, result: Result<T>, requests: &AtomicU64, bytes: Option<(&AtomicU64, usize)>) -> Result<T> {
        match &result {
            Ok(_) => {
                requests.fetch_add(1, Ordering::Relaxed);
                if let Some((counter, n)) = bytes {
                    counter.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
            Err(_) => {
                self.statistics.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }
}

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        match (&self.upper, &self.lowers) {
            (Some(upper), _) => upper.virtual_size(),
            (None, Some(lowers)) => lowers.virtual_size(),
            (None, None) => 0,
        }
    }

    fn read_only(&self) -> bool {
        self.upper.is_none()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len();
        let read = || self.check(offset, len as u64).and_then(|()| self.read_bytes(buf, offset));
        let result = metrics::read(&self.latency, read);
        self.count(result, &self.statistics.reads, Some((&self.statistics.read_bytes, len)))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let result = self
            .check(offset, buf.len() as u64)
            .and_then(|()| self.writable())
            .and_then(|upper| self.write_bytes(upper, buf, offset));
        self.count(result, &self.statistics.writes, Some((&self.statistics.written_bytes, buf.len())))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let result = self
            .check(offset, len)
            .and_then(|()| self.writable())
            .and_then(|upper| self.discard_bytes(upper, offset, len));
        self.count(result, &self.statistics.discards, None)
    }

    fn flush(&self) -> Result<()> {
        let result = self.upper.as_ref().map_or(Ok(()), Upper::flush);
        self.count(result, &self.statistics.flushes, None)
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        self.check(offset, len)?;
        Ok(extents::map(self.upper.as_ref(), self.lowers.as_deref(), offset, len, max))
    }

    fn queued(&self, waited: Duration) {
        self.latency.queue.record(waited);
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        let Some(lowers) = &self.lowers else { return true };
        let Some(upper) = &self.upper else { return lowers.is_ready(offset, len) };
        let range = offset / SECTOR..offset.saturating_add(len).div_ceil(SECTOR);
        let below =
            |gap: Range<u64>| gap.is_empty() || lowers.is_ready(gap.start * SECTOR, (gap.end - gap.start) * SECTOR);
        let (mut ready, mut at) = (true, range.start);
        upper.lookup(range.clone(), |piece| {
            ready = ready && below(at..piece.offset);
            at = piece.end();
        });
        ready && below(at..range.end)
    }
}
