//! Writable layer of turboOCI: metadata at its own offset in a data file without a header, and maps into a target.
//!
//! Format: lsmt, "Warp files". It is for building: the log says what the layer holds, holes of the data file say
//! nothing. So after a crash what was not flushed may read as zeros, or as what once stood there; what was flushed
//! holds.
//!
//! Tags in the log are the type of an entry plus a number, which is that of the lowers at the time; readers take the
//! smallest tag to be [`META`]. So the number of an index file that is not empty is kept, and a log never begins with
//! a map into the target: an entry of no sectors says the number first.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use crate::sync::{MutexGuard, RwLock};

use super::derive::missing;
use super::log::{Log, State};
use super::survey::{self, Verdict};
use super::{lock, runs, Layout, Replay, Upper, DISCARD_RECORDS};
use crate::blob::{Blob, FileBlob};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::index::MutableIndex;
use crate::lsmt::layer::check_end;
use crate::lsmt::segment::{Segment, MAX_MOFFSET};
use crate::lsmt::stack::sectors;
use crate::lsmt::warp::{Meta, Target, META, REMOTE};
use crate::sys::{write_all, Disk, File, Mode};

/// The largest tag of metadata: that of maps is one more.
const MAX_FIRST_TAG: u8 = u8::MAX - REMOTE;

/// What is special to such a layer.
pub(super) struct Warp {
    target: Option<Target>,
    /// The tag of metadata in the log.
    first_tag: u8,
    /// Whether a record says that tag, or will be preceded by one that does.
    numbered: AtomicBool,
}

impl Warp {
    /// Reads from the target; what failed is for the caller to place.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let no_target = || Error::new(Kind::Unsupported, "mapped to the target of the layer, which was not given");
        self.target.as_ref().ok_or_else(no_target)?.read_at(buf, offset)
    }
}

impl Upper {
    /// Opens the two files of a turboOCI layer for writing, as [`Upper::open`] does those of others. `target` is needed
    /// only to read what is mapped to it. `lowers` is the number of layers below.
    ///
    /// # Errors
    /// As [`Upper::open`]; `Corrupt` for a record of neither type.
    pub fn open_warp(
        disk: &dyn Disk,
        data: &Path,
        index: &Path,
        target: Option<Arc<dyn Blob>>,
        lowers: usize,
    ) -> Result<Upper> {
        let data = disk.open(data, Mode::Write)?;
        lock(&*data, true)?;
        refuse_header(&data)?;
        let index = disk.open(index, Mode::Write)?;
        let header = survey::read_header(&*index)?;
        let (Replay { map, survey }, first_tag) = replay(&*index)?;
        let numbered = AtomicBool::new(first_tag.is_some());
        let first_tag = first_tag.unwrap_or(lowers.min(MAX_FIRST_TAG.into()) as u8);
        let log = Log::new(index, &survey, survey.durable, 0)?;
        let virtual_size = AtomicU64::new(header.virtual_size);
        let layout = Layout::Warp(Warp { target: target.map(Target::new), first_tag, numbered });
        Ok(Upper { data, log, map: RwLock::new(map), header, virtual_size, layout, cut_records: survey.cut })
    }

    /// Whether this is a layer of turboOCI, which has maps into a target.
    pub fn is_warp(&self) -> bool {
        matches!(self.layout, Layout::Warp(_))
    }

    /// Maps a range of the device to the target: see [`RemoteMap`](crate::lsmt::RemoteMap).
    ///
    /// # Errors
    /// `OutOfBounds` for numbers that are no multiples of 512, and beyond the device; `Unsupported` if this is no
    /// layer of turboOCI; as [`Upper::write_at`].
    pub fn map_remote(&self, offset: u64, len: u64, target_offset: u64) -> Result<()> {
        let Layout::Warp(warp) = &self.layout else {
            let what = "the upper is not of turboOCI: nothing can be mapped to a target";
            return Err(Error::new(Kind::Unsupported, what).in_file(self.data.path()));
        };
        let range = self.check(offset, len)?;
        let from = sectors(target_offset, len)?;
        if from.end > MAX_MOFFSET {
            let what = format!("{len} bytes at {target_offset} of the target are beyond what an entry can say");
            return Err(Error::new(Kind::OutOfBounds, what));
        }
        let shift = |at: u64| at - range.start + from.start;
        let records: Vec<Segment> = runs(range.clone())
            .map(|(offset, length)| Segment { offset, length, moffset: shift(offset), zeroed: false, tag: REMOTE })
            .collect();
        records.chunks(DISCARD_RECORDS).try_for_each(|chunk| self.record_typed(warp, &mut self.log.lock()?, chunk))
    }

    /// Writes metadata: bytes, then what they change in the map.
    pub(super) fn write_meta(&self, warp: &Warp, buf: &[u8], offset: u64) -> Result<()> {
        let range = sectors(offset, buf.len() as u64)?;
        drop(self.log.lock()?);
        write_all(&*self.data, buf, offset)?;
        let mut state = self.log.lock()?;
        let news = missing(&self.map.read(), range, |piece| !piece.zeroed && piece.tag == META);
        let records: Vec<Segment> = news.into_iter().flat_map(|part| own(part, false)).collect();
        self.record_typed(warp, &mut state, &records)
    }

    /// Logs a range as zeros, then gives its room back.
    pub(super) fn discard_meta(&self, warp: &Warp, range: Range<u64>) -> Result<()> {
        let mut state = self.log.lock()?;
        let news = missing(&self.map.read(), range.clone(), |piece| piece.zeroed);
        let records: Vec<Segment> = news.into_iter().flat_map(|part| own(part, true)).collect();
        for chunk in records.chunks(DISCARD_RECORDS) {
            self.record_typed(warp, &mut state, chunk)?;
        }
        drop(state);
        if range.is_empty() {
            return Ok(());
        }
        let (offset, len) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
        match self.data.punch_hole(offset, len) {
            // Without holes the room is not given back; what is left there is not read any more.
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Err(Error::io("punch a hole", e).in_file(self.data.path()).at(offset))
            }
            _ => Ok(()),
        }
    }

    /// Appends records, whose tags are types, to the log and to the map.
    fn record_typed(&self, warp: &Warp, state: &mut MutexGuard<'_, State>, records: &[Segment]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // Mapped to sector 1, which makes it one that every reader takes.
        let number = Segment { offset: 0, length: 0, moffset: 1, zeroed: false, tag: META };
        let unsaid = !warp.numbered.load(Ordering::Relaxed) && records[0].tag != META;
        let typed = unsaid.then_some(&number).into_iter().chain(records);
        let raw: Vec<_> = typed.map(|record| Segment { tag: record.tag + warp.first_tag, ..*record }).collect();
        self.log.append(state, &raw)?;
        warp.numbered.store(true, Ordering::Relaxed);
        let mut map = self.map.write();
        records.iter().for_each(|record| map.insert(*record));
        Ok(())
    }
}

/// A range of the layer's own, at its own place.
fn own(range: Range<u64>, zeroed: bool) -> impl Iterator<Item = Segment> {
    runs(range).map(move |(offset, length)| Segment { offset, length, moffset: offset, zeroed, tag: META })
}

/// Opens a pair of files of turboOCI to be committed, or merged with its target. Nothing is written: as
/// [`open_as_layer`](super::open_as_layer) does with others.
///
/// # Errors
/// As [`Upper::open_warp`].
pub fn open_as_meta(disk: &dyn Disk, data: &Path, index: &Path) -> Result<(Meta, u64)> {
    let data = disk.open(data, Mode::Read)?;
    lock(&*data, false)?;
    refuse_header(&data)?;
    let index = disk.open(index, Mode::Read)?;
    let header = survey::read_header(&*index)?;
    let (Replay { map, survey }, _) = replay(&*index)?;
    let blob: Arc<dyn Blob> = Arc::new(FileBlob::new(data)?);
    Ok((Meta::from_parts(blob, header, map.iter().collect()), survey.cut))
}

/// Reads the index file into a map with types for tags; also the tag of metadata in it, unless it says nothing.
fn replay(index: &dyn File) -> Result<(Replay, Option<u8>)> {
    let mut first_tag = None;
    survey::scan(index, 0..survey::count_records(index)?, |_, record| {
        if !record.is_invalid() && record != NOTHING {
            first_tag = Some(first_tag.map_or(record.tag, |tag: u8| tag.min(record.tag)));
        }
        Ok(())
    })?;
    let first = first_tag.unwrap_or(0);
    let survey = survey::survey(index, false, 0, |record| judge(record, first))?;
    let (mut map, mut least) = (MutableIndex::default(), None);
    survey::scan(index, 0..survey.records, |_, record| {
        if !record.is_invalid() {
            map.insert(Segment { tag: record.tag - first, ..record });
            least = Some(least.map_or(record.tag, |tag: u8| tag.min(record.tag)));
        }
        Ok(())
    })?;
    if least.is_some_and(|least| least != first) {
        // Without what is to be cut off, all maps into the target would pass for metadata.
        let what = "the torn end of the log alone says which of its records are metadata";
        return Err(Error::corrupt(what).in_file(index.path()));
    }
    Ok((Replay { map, survey }, least))
}

/// What a crash may leave in the place of a record.
const NOTHING: Segment = Segment { offset: 0, length: 0, moffset: 0, zeroed: false, tag: 0 };

fn judge(record: &Segment, first_tag: u8) -> Verdict {
    if *record == NOTHING {
        Verdict::Torn
    } else if first_tag <= MAX_FIRST_TAG && record.tag - first_tag <= REMOTE && check_end(&[*record]).is_ok() {
        Verdict::Good
    } else {
        Verdict::Bad
    }
}

/// Refuses the data file of a layer of another kind, which would be overwritten.
fn refuse_header(data: &Arc<dyn File>) -> Result<()> {
    let blob = FileBlob::new(data.clone())?;
    if crate::lsmt::info::is_lsmt(&blob)? {
        let what = "the data file of a layer that is not of turboOCI: nothing in it can be mapped to a target";
        return Err(Error::new(Kind::Invalid, what).in_file(blob.name()).at(0));
    }
    Ok(())
}
