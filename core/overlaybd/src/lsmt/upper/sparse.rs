//! Sparse writable layer: every byte at its own offset in the data file, holes where there is none.
//!
//! Format: lsmt, "Writable sparse layer". Upstream knows such a layer by its holes alone, and so
//! forgets discards and rounds writes to the blocks of the file system when it is opened again. Here
//! the index file, which upstream creates empty and never reads, holds a log of what changed the map.
//!
//! # Opening
//! The log and the data/hole map of the file are put together, so that what upstream wrote in between
//! is honoured. A *granule* is what the file system allocates at a time.
//!
//! 1. A logged write counts. One that was never flushed counts only where the file has data: power
//!    may have gone before its bytes were there, and then the old content is the right one.
//! 2. A logged discard counts where the file has a hole. Where it has data, something was written later
//!    without a log (or the range shares a block with data, and reads zeros all the same): data.
//! 3. Data in a granule that the log does not mention was written without a log: data, wholly.
//! 4. In a granule that the log mentions, unlogged sectors are data if they are not all zeros; else
//!    they are only the rest of a block.
//!
//! For 4 to hold after a crash, the first write to a part of a granule is announced in the log,
//! durably, before its bytes go into the file.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use parking_lot::RwLock;

use super::log::{self, Log, Survey, Verdict};
use super::{directory, file_len, runs, Layout, Replay, Upper, DISCARD_RECORDS};
use crate::error::{Error, Result};
use crate::limits::{MAX_GRANULE_BYTES, SECTOR};
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, HEADER, SPARSE};
use crate::lsmt::index::{coalesce, MutableIndex};
use crate::lsmt::segment::{Segment, INVALID_OFFSET};
use crate::sys::{read_exact, write_all, Disk, File, Mode};

/// Below this many records a log is never worth rewriting.
const SHORT_LOG: u64 = 4096;

/// Sectors that the file system allocates at a time.
#[derive(Clone, Copy)]
pub(super) struct Granule(u64);

impl Granule {
    fn of(data: &dyn File) -> Granule {
        Granule(data.block_bytes().clamp(BLOCK_BYTES as u64, MAX_GRANULE_BYTES) / SECTOR)
    }

    /// Number of the granule that holds a sector of the device.
    fn number(self, sector: u64) -> u64 {
        (sector + FIRST_DATA_SECTOR) / self.0
    }

    /// The sectors of the device in a granule.
    fn sectors(self, number: u64) -> Range<u64> {
        let at = |file_sector: u64| file_sector.saturating_sub(FIRST_DATA_SECTOR);
        at(number * self.0)..at((number + 1) * self.0)
    }
}

/// What log and holes together say.
pub(super) struct Derived {
    pub replay: Replay,
    /// What the log does not say.
    unlogged: Vec<Segment>,
    has_log: bool,
}

fn entry(offset: u64, length: u32, zeroed: bool) -> Segment {
    Segment { offset, length, moffset: offset + FIRST_DATA_SECTOR, zeroed, tag: 0 }
}

fn entries(range: Range<u64>, zeroed: bool) -> impl Iterator<Item = Segment> {
    runs(range).map(move |(offset, length)| entry(offset, length, zeroed))
}

/// Opens the pair for writing, and brings the log up to date.
pub(super) fn open(disk: &dyn Disk, data: Arc<dyn File>, header: Header, path: &Path) -> Result<Upper> {
    let index = disk.open(path, Mode::Write)?;
    let Derived { replay: Replay { map, survey }, unlogged, has_log } = derive(&data, &header, &*index)?;
    let log = if !has_log || survey.records > 2 * map.len() as u64 + SHORT_LOG {
        rewrite_log(disk, &*data, &header, path, &map)?
    } else {
        let log = Log::new(index, &survey)?;
        let mut state = log.lock()?;
        unlogged.chunks(DISCARD_RECORDS).try_for_each(|chunk| log.append(&mut state, chunk))?;
        drop(state);
        log
    };
    let layout = Layout::Sparse(Granule::of(&*data));
    let virtual_size = AtomicU64::new(header.virtual_size);
    Ok(Upper { data, log, map: RwLock::new(map), header, virtual_size, layout, cut_records: survey.cut })
}

/// Replaces the log by a new one that says the map and nothing else.
fn rewrite_log(disk: &dyn Disk, data: &dyn File, header: &Header, path: &Path, map: &MutableIndex) -> Result<Log> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = Path::new(&name);
    match disk.remove(fresh) {
        Err(e) if e.kind() != crate::Kind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.open(fresh, Mode::New)?;
    let index_offset = BLOCK_BYTES as u64;
    let head = Header { flags: HEADER | SPARSE, index_offset, ..header.clone() };
    write_all(&*file, &head.to_block(), 0)?;
    let log = Log::new(file, &Survey { records: 0, durable: 0, cut: 0 })?;
    let records = coalesce(map.iter());
    let mut state = log.lock()?;
    records.chunks(DISCARD_RECORDS).try_for_each(|chunk| log.append(&mut state, chunk))?;
    drop(state);
    log.flush(data, true)?;
    let records = log.records();
    disk.rename(fresh, path)?;
    disk.sync_dir(directory(path))?;
    Log::new(disk.open(path, Mode::Write)?, &Survey { records, durable: records, cut: 0 })
}

/// Puts log and holes together (see above); writes nothing.
pub(super) fn derive(data: &Arc<dyn File>, header: &Header, index: &dyn File) -> Result<Derived> {
    let extents = extents(&**data)?;
    let granule = Granule::of(&**data);
    let mut map = MutableIndex::default();
    let mut mentioned = BTreeSet::new();
    let has_log = file_len(index)? > 0;
    let mut survey = Survey { records: 0, durable: 0, cut: 0 };
    if has_log {
        check_owner(index, header)?;
        survey = log::survey(index, true, judge)?;
        let end = (file_len(&**data)? / SECTOR).saturating_sub(FIRST_DATA_SECTOR);
        log::scan(index, survey.records, |number, record| {
            let range = record.offset..record.end();
            if record.is_invalid() {
                if record.length > 0 && !record.zeroed && record.moffset < INVALID_OFFSET {
                    mentioned.extend([granule.number(record.moffset)]);
                }
            } else if record.zeroed {
                map.insert(record);
            } else if number < survey.durable {
                entries(range.start..range.end.min(end), false).for_each(|s| map.insert(s));
            } else {
                overlaps(&extents, range).flat_map(|part| entries(part, false)).for_each(|s| map.insert(s));
            }
            Ok(())
        })?;
    }
    for segment in map.iter() {
        mentioned.extend([granule.number(segment.offset), granule.number(segment.end() - 1)]);
    }
    let mut unlogged = Vec::new();
    for extent in extents {
        for range in not_data(&map, extent) {
            unlogged_data(&**data, &map, granule, &mentioned, range, &mut unlogged)?;
        }
    }
    for segment in &unlogged {
        map.insert(*segment);
    }
    Ok(Derived { replay: Replay { map, survey }, unlogged, has_log })
}

/// Refuses an index file that is no log of this data file.
fn check_owner(index: &dyn File, header: &Header) -> Result<()> {
    let head = log::read_header(index)?;
    if head.has(SPARSE) && head.uuid == header.uuid {
        return Ok(());
    }
    let what = format!("the index file is not the log of the sparse layer {}", header.uuid);
    Err(Error::corrupt(what).in_file(index.path()).at(0))
}

fn judge(record: &Segment) -> Verdict {
    let nothing = Segment { offset: 0, length: 0, moffset: 0, zeroed: false, tag: 0 };
    if *record == nothing {
        Verdict::Torn
    } else if record.length > 0 && record.end() < INVALID_OFFSET && record.moffset == record.offset + FIRST_DATA_SECTOR
    {
        Verdict::Good
    } else {
        Verdict::Bad
    }
}

/// The sectors of the device for which the file has data.
fn extents(data: &dyn File) -> Result<Vec<Range<u64>>> {
    let fail = |e| Error::io("find data and holes", e).in_file(data.path());
    let mut found = Vec::new();
    let mut at = BLOCK_BYTES as u64;
    while let Some(start) = data.next_data(at).map_err(fail)? {
        at = data.next_hole(start).map_err(fail)?;
        let (first, end) = (start / SECTOR, at / SECTOR);
        if first < end {
            found.push(first - FIRST_DATA_SECTOR..end - FIRST_DATA_SECTOR);
        }
        if at <= start {
            return Err(Error::new(crate::Kind::Io, "the file changes while it is opened").in_file(data.path()));
        }
    }
    Ok(found)
}

/// The parts of a range that lie in one of the extents.
fn overlaps(extents: &[Range<u64>], range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
    let first = extents.partition_point(|e| e.end <= range.start);
    let inside = extents[first..].iter().take_while(move |e| e.start < range.end);
    inside.map(move |e| e.start.max(range.start)..e.end.min(range.end))
}

/// The parts of a range that the map does not say are data.
fn not_data(map: &MutableIndex, range: Range<u64>) -> Vec<Range<u64>> {
    let (mut at, end) = (range.start, range.end);
    let mut parts = Vec::new();
    map.lookup(range, |piece| {
        if !piece.zeroed {
            parts.push(at..piece.offset);
            at = piece.end();
        }
    });
    parts.push(at..end);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Rules 2 to 4 for a range that has data in the file and is not data in the map.
fn unlogged_data(
    data: &dyn File,
    map: &MutableIndex,
    granule: Granule,
    mentioned: &BTreeSet<u64>,
    range: Range<u64>,
    found: &mut Vec<Segment>,
) -> Result<()> {
    let mut at = range.start;
    for number in mentioned.range(granule.number(range.start)..=granule.number(range.end - 1)) {
        let shared = granule.sectors(*number);
        let shared = shared.start.max(at)..shared.end.min(range.end);
        found.extend(entries(at..shared.start, false));
        at = shared.end;
        let mut bytes = vec![0; ((shared.end - shared.start) * SECTOR) as usize];
        read_exact(data, &mut bytes, (shared.start + FIRST_DATA_SECTOR) * SECTOR)?;
        for (sector, content) in shared.zip(bytes.chunks_exact(SECTOR as usize)) {
            let mut logged = false;
            map.lookup(sector..sector + 1, |_| logged = true);
            if logged || content.iter().any(|b| *b != 0) {
                found.push(entry(sector, 1, false));
            }
        }
    }
    found.extend(entries(at..range.end, false));
    Ok(())
}

impl Upper {
    /// Writes one piece: announcement if need be, bytes, then what it changes in the map.
    pub(super) fn write_in_place(&self, granule: &Granule, buf: &[u8], offset: u64) -> Result<()> {
        let range = offset / SECTOR..(offset + buf.len() as u64) / SECTOR;
        if range.is_empty() {
            return Ok(());
        }
        drop(self.log.lock()?);
        self.announce(*granule, &range)?;
        write_all(&*self.data, buf, BLOCK_BYTES as u64 + offset)?;
        let mut state = self.log.lock()?;
        let missing = not_data(&self.map.read(), range);
        let records: Vec<Segment> = missing.into_iter().flat_map(|part| entries(part, false)).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.log.append(&mut state, &records)?;
        let mut map = self.map.write();
        records.iter().for_each(|record| map.insert(*record));
        Ok(())
    }

    /// Logs, durably, that a granule of which the map knows no data is about to get some in a part.
    fn announce(&self, granule: Granule, range: &Range<u64>) -> Result<()> {
        let ends = [granule.number(range.start), granule.number(range.end - 1)];
        let mut intents = Vec::new();
        for number in &ends[..if ends[0] == ends[1] { 1 } else { 2 }] {
            let whole = granule.sectors(*number);
            if range.start <= whole.start && whole.end <= range.end {
                continue;
            }
            let mut has_data = false;
            self.lookup(whole.clone(), |piece| has_data |= !piece.zeroed);
            if !has_data {
                intents.push(log::intent(whole.start, (whole.end - whole.start) as u32));
            }
        }
        if intents.is_empty() {
            return Ok(());
        }
        let mut state = self.log.lock()?;
        self.log.append(&mut state, &intents)?;
        drop(state);
        self.log.sync_log()
    }

    /// Logs a range as zeros, then gives its room back.
    pub(super) fn discard_in_place(&self, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.log.lock()?;
        let mut records = Vec::new();
        let mut at = range.start;
        self.lookup(range.clone(), |piece| {
            if piece.zeroed {
                records.extend(entries(at..piece.offset, true));
                at = piece.end();
            }
        });
        records.extend(entries(at..range.end, true));
        for chunk in records.chunks(DISCARD_RECORDS) {
            self.log.append(&mut state, chunk)?;
            let mut map = self.map.write();
            chunk.iter().for_each(|record| map.insert(*record));
        }
        drop(state);
        let (offset, len) = (BLOCK_BYTES as u64 + range.start * SECTOR, (range.end - range.start) * SECTOR);
        match self.data.punch_hole(offset, len) {
            Ok(()) => Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => self.write_zeros(range),
            Err(e) => Err(Error::io("punch a hole", e).in_file(self.data.path()).at(offset)),
        }
    }

    /// What a file system without holes gets instead of one.
    fn write_zeros(&self, range: Range<u64>) -> Result<()> {
        let zeros = vec![0; 1 << 20];
        for part in overlaps(&extents(&*self.data)?, range) {
            let end = (part.end + FIRST_DATA_SECTOR) * SECTOR;
            for at in ((part.start + FIRST_DATA_SECTOR) * SECTOR..end).step_by(zeros.len()) {
                write_all(&*self.data, &zeros[..(end - at).min(zeros.len() as u64) as usize], at)?;
            }
        }
        Ok(())
    }
}
