//! An open image: a stack of lowers, perhaps an upper, and the block device that they make.

mod aging;
mod extents;
mod interrupted;
mod layers;
mod live;
mod open;
mod places;
#[cfg(test)]
mod tests;

pub use crate::layer::Stored;
pub use aging::Aging;
pub use interrupted::finish_snapshot;
pub use live::{NewUpper, Publish, Snapshot};
pub use open::{open, open_stored, UpperFiles};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{Mutex, RwLock};

use crate::device::{BlockDevice, Extent};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::{RemoteMap, Stack, Upper};
use crate::metrics::{self, Latency};
use crate::trace::Recorder;
use layers::{Layers, Present};

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
    present: Present,
    size: AtomicU64,
    read_only: bool,
    /// Notes what is read of the lowers, if they were opened with it.
    recorder: Arc<Recorder>,
    /// Held alone by a write that completes its first and last sector from what is there, and by a snapshot that
    /// exchanges the upper; shared by all other writes and discards: so none of these falls in between.
    writes: RwLock<()>,
    /// Held by a snapshot and a resize; what is left to do of a snapshot that is taken but not finished.
    changing: Mutex<Option<Box<dyn Publish>>>,
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
        let size = match (&upper, &lowers) {
            (Some(upper), _) => upper.virtual_size(),
            (None, Some(lowers)) => lowers.virtual_size(),
            (None, None) => 0,
        };
        let read_only = upper.is_none();
        let uppers = upper.map(Arc::new).into_iter().collect();
        let image = Image {
            present: Present::new(Layers { uppers, lowers: lowers.map(Arc::new), unfinished: false }),
            size: AtomicU64::new(size),
            read_only,
            recorder,
            writes: RwLock::new(()),
            changing: Mutex::new(None),
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

    /// The read-only layers at this moment, if there are any: a snapshot adds one.
    pub fn lowers(&self) -> Option<Arc<Stack>> {
        self.present.with(|layers| layers.lowers.clone())
    }

    /// What records the first reads of the lowers, when asked to.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The layer that is written to at this moment, if there is one: a snapshot puts another in its place.
    pub fn upper(&self) -> Option<Arc<Upper>> {
        self.present.with(|layers| layers.uppers.first().cloned())
    }

    /// Maps a range of the device to the target of the upper, one of turboOCI: see [`RemoteMap`].
    ///
    /// # Errors
    /// `ReadOnly` without an upper; as [`RemoteMap::map`].
    pub fn map_remote(&self, offset: u64, len: u64, target_offset: u64) -> Result<()> {
        self.check(offset, len)?;
        let _beside_others = self.writes.read();
        self.present.with(|layers| layers.upper()?.map_remote(offset, len, target_offset))
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

    fn write_bytes(&self, buf: &[u8], offset: u64) -> Result<()> {
        if offset.is_multiple_of(SECTOR) && (buf.len() as u64).is_multiple_of(SECTOR) {
            let _beside_others = self.writes.read();
            return self.present.with(|layers| layers.write_sectors(buf, offset));
        }
        let _alone = self.writes.write();
        self.present.with(|layers| layers.write(buf, offset))
    }

    fn discard_bytes(&self, offset: u64, len: u64) -> Result<()> {
        if offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) {
            let _beside_others = self.writes.read();
            return self.present.with(|layers| layers.upper()?.discard(offset, len));
        }
        let _alone = self.writes.write();
        self.present.with(|layers| layers.discard(offset, len))
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

impl RemoteMap for &Image {
    fn map(&mut self, device_offset: u64, len: u64, target_offset: u64) -> Result<()> {
        self.map_remote(device_offset, len, target_offset)
    }
}

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len();
        let read =
            || self.check(offset, len as u64).and_then(|()| self.present.with(|layers| layers.read(buf, offset)));
        let result = metrics::read(&self.latency, read);
        self.count(result, &self.statistics.reads, Some((&self.statistics.read_bytes, len)))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let result = self.check(offset, buf.len() as u64).and_then(|()| self.write_bytes(buf, offset));
        self.count(result, &self.statistics.writes, Some((&self.statistics.written_bytes, buf.len())))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let result = self.check(offset, len).and_then(|()| self.discard_bytes(offset, len));
        self.count(result, &self.statistics.discards, None)
    }

    fn flush(&self) -> Result<()> {
        let result = self.flush_upper();
        self.count(result, &self.statistics.flushes, None)
    }

    fn start_write_back(&self) {
        if let Some(upper) = self.present.with(|layers| layers.uppers.first().cloned()) {
            upper.start_write_back();
        }
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>> {
        self.check(offset, len)?;
        Ok(self.present.with(|layers| extents::map(layers, offset, len, max)))
    }

    fn queued(&self, waited: Duration) {
        self.latency.queue.record(waited);
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.present.with(|layers| layers.is_ready(offset, len))
    }
}
