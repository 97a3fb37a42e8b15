//! Recording: a tap on every layer that notes what is read of it for the first time.
//!
//! The tap sits above tar and zfile, so offsets are those of the layer's plain bytes. While nothing is recorded it
//! costs one relaxed load; while recording, a read of what was read before costs a look at a few bits.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crate::sync::Mutex;

use super::format::Record;
use super::seen::Seen;
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_RECORDED, MAX_RECORD_BYTES, SECTOR};
use crate::sys::File;

/// What is recorded of one image. The reads that open it are kept from the start, so that they are part of a
/// recording whenever that begins.
pub struct Recorder {
    on: AtomicBool,
    layers: Vec<Seen>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    records: Vec<Record>,
    /// The last record of each layer, which the next read may continue.
    last: Vec<Option<usize>>,
    /// How many of the records are reads that opened the image.
    opening: usize,
    recording: bool,
    truncated: bool,
}

impl Recorder {
    /// For an image of that many layers, which is about to be opened.
    pub fn new(layers: usize) -> Arc<Self> {
        let log = Log { last: vec![None; layers], ..Log::default() };
        let layers = (0..layers).map(|_| Seen::default()).collect();
        Arc::new(Recorder { on: AtomicBool::new(true), layers, log: Mutex::new(log) })
    }

    /// `blob`, which is the content of layer `layer` (0 is the bottom one), with a tap on it.
    pub fn tap(self: &Arc<Self>, layer: usize, blob: Arc<dyn Blob>) -> Arc<dyn Blob> {
        let len = blob.len();
        Arc::new(Tap { blob, len, layer, recorder: Arc::clone(self) })
    }

    /// The image is open: what follows is recorded only when asked for.
    pub fn opened(&self) {
        let mut log = self.log.lock();
        log.opening = log.records.len();
        self.on.store(log.recording, Ordering::Relaxed);
    }

    /// Begins a recording, which starts with the reads that opened the image.
    ///
    /// # Errors
    /// `Busy` if there is one already.
    pub fn start(&self) -> Result<()> {
        let mut log = self.log.lock();
        if log.recording {
            return Err(Error::new(Kind::Busy, "a trace of this image is being recorded already"));
        }
        let opening = log.opening;
        log.records.truncate(opening);
        log.truncated = false;
        log.recording = true;
        self.layers.iter().for_each(Seen::clear);
        for record in &log.records {
            if let Some(seen) = self.layers.get(record.layer as usize) {
                // The table is there already, so its length does not matter.
                seen.mark(record.offset..record.offset + record.len, 0, |_| ());
            }
        }
        log.last.fill(None);
        self.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the recording; what was recorded, in the order of the first reads' completion.
    ///
    /// # Errors
    /// `Invalid` if there is none.
    pub fn stop(&self) -> Result<Vec<Record>> {
        let mut log = self.log.lock();
        if !log.recording {
            return Err(Error::new(Kind::Invalid, "no trace of this image is being recorded"));
        }
        self.on.store(false, Ordering::Relaxed);
        log.recording = false;
        let records = log.records.clone();
        let opening = log.opening;
        log.records.truncate(opening);
        log.records.shrink_to_fit();
        Ok(records)
    }

    /// Whether a recording is under way.
    pub fn is_recording(&self) -> bool {
        self.log.lock().recording
    }

    /// What has been recorded so far, and whether something was left out for want of room.
    pub fn so_far(&self) -> (Vec<Record>, bool) {
        let log = self.log.lock();
        (log.records.clone(), log.truncated)
    }

    /// How many records there are.
    pub fn count(&self) -> usize {
        self.log.lock().records.len()
    }

    #[cold]
    fn push(&self, layer: usize, sectors: Range<u64>, len: u64) {
        let mut log = self.log.lock();
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let (mut start, end) = (sectors.start * SECTOR, (sectors.end * SECTOR).min(len));
        if let Some(last) = log.last[layer] {
            // Upstream's readers have a buffer of that size for a record, and do not check.
            let record = &mut log.records[last];
            if record.offset + record.len == start {
                let more = (end - start).min(MAX_RECORD_BYTES - record.len);
                record.len += more;
                start += more;
            }
        }
        while start < end {
            if log.records.len() >= MAX_RECORDED {
                log.truncated = true;
                self.on.store(false, Ordering::Relaxed);
                return;
            }
            let part = (end - start).min(MAX_RECORD_BYTES);
            log.last[layer] = Some(log.records.len());
            log.records.push(Record { layer: layer as u32, offset: start, len: part });
            start += part;
        }
    }
}

/// A layer whose reads are noted.
struct Tap {
    blob: Arc<dyn Blob>,
    len: u64,
    layer: usize,
    recorder: Arc<Recorder>,
}

impl Blob for Tap {
    fn name(&self) -> &str {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.blob.read_at(buf, offset)?;
        if self.recorder.on.load(Ordering::Relaxed) && !buf.is_empty() {
            let end = offset + buf.len() as u64;
            let fresh = |sectors| self.recorder.push(self.layer, sectors, self.len);
            self.recorder.layers[self.layer].mark(offset..end, self.len, fresh);
        }
        Ok(())
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.blob.is_ready(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        self.blob.prefetch(offset, len)
    }

    fn as_file(&self) -> Option<(&Arc<dyn File>, u64)> {
        self.blob.as_file()
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.blob.distrust(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::MemoryBlob;

    const LEN: usize = 3 << 20;

    fn taps() -> (Arc<Recorder>, Vec<Arc<dyn Blob>>) {
        let recorder = Recorder::new(2);
        let blob = |name: &str, len| Arc::new(MemoryBlob::new(name, vec![7; len])) as Arc<dyn Blob>;
        let taps = vec![recorder.tap(0, blob("bottom", LEN)), recorder.tap(1, blob("top", LEN + 100))];
        (recorder, taps)
    }

    fn read(blob: &Arc<dyn Blob>, offset: u64, len: usize) {
        blob.read_at(&mut vec![0; len], offset).unwrap();
    }

    fn record(layer: u32, offset: u64, len: u64) -> Record {
        Record { layer, offset, len }
    }

    #[test]
    fn a_recording_has_the_reads_of_opening_and_each_first_read_once() {
        let (recorder, taps) = taps();
        read(&taps[0], 0, 4096);
        recorder.opened();
        read(&taps[1], 0, 4096);
        recorder.start().unwrap();
        assert_eq!(recorder.start().unwrap_err().kind(), Kind::Busy);
        assert!(recorder.is_recording());
        read(&taps[1], 8192, 4096);
        read(&taps[0], 2048, 8192);
        read(&taps[1], 8192, 512);
        read(&taps[1], 700, 0);
        read(&taps[1], 12288, 512);
        assert!(taps[1].read_at(&mut [0; 512], LEN as u64).is_err(), "what failed was not read");
        read(&taps[1], LEN as u64, 100);
        let expected = [record(0, 0, 4096), record(1, 8192, 4608), record(0, 4096, 6144), record(1, LEN as u64, 100)];
        assert_eq!((recorder.so_far(), recorder.count()), ((expected.to_vec(), false), 4));
        assert_eq!(recorder.stop().unwrap(), expected);
        assert_eq!((recorder.stop().unwrap_err().kind(), recorder.is_recording()), (Kind::Invalid, false));
        read(&taps[0], 1 << 20, 512);
        recorder.start().unwrap();
        read(&taps[1], 8192, 512);
        assert_eq!(recorder.stop().unwrap(), [record(0, 0, 4096), record(1, 8192, 512)], "begins anew");
    }

    #[test]
    fn neighbours_are_one_record_up_to_what_upstream_can_take() {
        let (recorder, taps) = taps();
        recorder.opened();
        recorder.start().unwrap();
        for offset in (0..LEN as u64).step_by(4096) {
            read(&taps[0], offset, 4096);
        }
        read(&taps[1], 0, LEN);
        let mib = 1 << 20;
        let expected = [0, 1].map(|layer| [0, 1, 2].map(|i| record(layer, i * mib, mib))).concat();
        assert_eq!(recorder.stop().unwrap(), expected);
    }

    #[test]
    fn a_recording_has_a_bound() {
        let (recorder, taps) = taps();
        recorder.opened();
        recorder.start().unwrap();
        recorder.log.lock().records = vec![record(0, 0, 512); MAX_RECORDED - 1];
        read(&taps[1], 512, 512);
        read(&taps[1], 4096, 512);
        read(&taps[1], 8192, 512);
        let (records, truncated) = recorder.so_far();
        assert_eq!((records.len(), records.last(), truncated), (MAX_RECORDED, Some(&record(1, 512, 512)), true));
        assert_eq!(recorder.stop().unwrap().len(), MAX_RECORDED);
    }

    #[test]
    fn readers_beside_one_another_lose_and_repeat_nothing() {
        let (recorder, taps) = taps();
        let len = if cfg!(miri) { 32 << 10 } else { LEN };
        recorder.opened();
        recorder.start().unwrap();
        std::thread::scope(|scope| {
            for step in [512, 1024, 1536, 4096] {
                let tap = &taps[0];
                scope.spawn(move || (0..len - 4096).step_by(step).for_each(|at| read(tap, at as u64, 4096)));
            }
        });
        let mut records = recorder.stop().unwrap();
        records.sort_by_key(|r| r.offset);
        let end = records.iter().fold(0, |end, r| {
            assert_eq!(r.offset, end);
            end + r.len
        });
        assert!(end >= len as u64 - 4096);
    }
}
