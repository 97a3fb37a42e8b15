//! What a sparse layer holds when it is opened: its log and the holes of its data file together.
//!
//! Putting them together honours what upstream, which keeps no log, wrote in between:
//!
//! 1. A logged write counts. One that was never flushed counts only where the file has data: power
//!    may have gone before its bytes were there, and then the old content is the right one.
//! 2. A logged discard counts where the file has a hole. Where it has data, something was written later
//!    without a log (or the range shares a block with data, and reads zeros all the same): data.
//! 3. Data in a granule (what the file system allocates at a time) that the log does not mention was
//!    written without a log: data, wholly.
//! 4. In a granule that the log mentions, unlogged sectors are data if they are not all zeros; else
//!    they are only the rest of a block.
//!
//! For 4 to hold after a crash, the first write to a part of a granule is announced in the log,
//! durably, before its bytes go into the file.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::log::{self, Survey, Verdict};
use super::{file_len, runs, Replay};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_GRANULE_BYTES, SECTOR};
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, SPARSE};
use crate::lsmt::index::MutableIndex;
use crate::lsmt::segment::{Segment, INVALID_OFFSET};
use crate::sys::{read_exact, File};

/// Sectors that the file system allocates at a time.
#[derive(Clone, Copy)]
pub(super) struct Granule(u64);

impl Granule {
    pub fn of(data: &dyn File) -> Granule {
        Granule(data.block_bytes().clamp(BLOCK_BYTES as u64, MAX_GRANULE_BYTES) / SECTOR)
    }

    /// Number of the granule that holds a sector of the device.
    pub fn number(self, sector: u64) -> u64 {
        (sector + FIRST_DATA_SECTOR) / self.0
    }

    /// The sectors of the device in a granule.
    pub fn sectors(self, number: u64) -> Range<u64> {
        let at = |file_sector: u64| file_sector.saturating_sub(FIRST_DATA_SECTOR);
        at(number * self.0)..at((number + 1) * self.0)
    }
}

/// What log and holes together say.
pub(super) struct Derived {
    pub replay: Replay,
    /// What the log does not say.
    pub unlogged: Vec<Segment>,
    /// Announcements of granules that have got room in the file, and perhaps no more.
    pub announced: Vec<Segment>,
    /// Whether the log can be continued. Not so without one, nor with one that says what must not
    /// count later: a write that never arrived.
    pub current: bool,
}

/// The entry of sectors at their own place.
fn entry(offset: u64, length: u32, zeroed: bool) -> Segment {
    Segment { offset, length, moffset: offset + FIRST_DATA_SECTOR, zeroed, tag: 0 }
}

/// A range at its own place, in as many entries as it takes.
pub(super) fn entries(range: Range<u64>, zeroed: bool) -> impl Iterator<Item = Segment> {
    runs(range).map(move |(offset, length)| entry(offset, length, zeroed))
}

/// Puts log and holes together (see above); writes nothing.
pub(super) fn derive(data: &Arc<dyn File>, header: &Header, index: &dyn File) -> Result<Derived> {
    let extents = extents(&**data)?;
    let granule = Granule::of(&**data);
    let mut map = MutableIndex::default();
    let mut mentioned = BTreeSet::new();
    let has_log = file_len(index)? > 0;
    let mut survey = Survey { records: 0, durable: 0, cut: 0 };
    let (mut announced, mut obsolete) = (Vec::new(), false);
    if has_log {
        check_owner(index, header)?;
        survey = log::survey(index, true, judge)?;
        let whole = 0..(file_len(&**data)? / SECTOR).saturating_sub(FIRST_DATA_SECTOR);
        log::scan(index, survey.records, |number, record| {
            if let Some(range) = log::announced(&record) {
                mentioned.insert(granule.number(range.start));
                announced.extend(overlaps(&extents, range).next().map(|_| record));
            } else if record.is_invalid() || record.zeroed {
                map.insert(record); // which passes over a mark
            } else {
                let there = if number < survey.durable { std::slice::from_ref(&whole) } else { &extents[..] };
                let parts: Vec<_> = overlaps(there, record.offset..record.end()).collect();
                obsolete |= parts.iter().map(|p| p.end - p.start).sum::<u64>() < u64::from(record.length);
                parts.into_iter().flat_map(|part| entries(part, false)).for_each(|s| map.insert(s));
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
    Ok(Derived { replay: Replay { map, survey }, unlogged, announced, current: has_log && !obsolete })
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
pub(super) fn extents(data: &dyn File) -> Result<Vec<Range<u64>>> {
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
            return Err(Error::new(Kind::Io, "the file changes while it is opened").in_file(data.path()));
        }
    }
    Ok(found)
}

/// The parts of a range that lie in one of the extents.
pub(super) fn overlaps(extents: &[Range<u64>], range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
    let first = extents.partition_point(|e| e.end <= range.start);
    let inside = extents[first..].iter().take_while(move |e| e.start < range.end);
    inside.map(move |e| e.start.max(range.start)..e.end.min(range.end))
}

/// The parts of a range that the map does not say are data.
pub(super) fn not_data(map: &MutableIndex, range: Range<u64>) -> Vec<Range<u64>> {
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
