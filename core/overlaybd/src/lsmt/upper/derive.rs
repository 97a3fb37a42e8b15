//! What a sparse layer holds when it is opened: its log and the holes of its data file together.
//!
//! Upstream keeps no log. Putting the two together honours what it wrote in between:
//!
//! 1. A logged write counts. One that was never flushed counts only where the file has data, unless the
//!    log says that it is of this boot of the system: power may have gone before its bytes were there, and
//!    then the old content is the right one. (File systems that compress make holes of zeros.)
//! 2. A logged discard counts where the file has a hole. Where the file has data, something was written
//!    later without a log (or the range shares a block with data, and reads zeros all the same): data.
//! 3. Data that the log does not mention was written without a log: data.
//!
//! A file system that does not tell where holes are makes all of the file data: that is refused.
//!
//! Rule 3 is right because a block of the file either has no room, or all its sectors belong to the
//! layer: who writes to a part of a block (see `sparse`) fills in the rest.

use std::ops::Range;
use std::sync::Arc;

use super::survey::{self, Survey, Verdict};
use super::{file_len, runs, Replay};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, SPARSE};
use crate::lsmt::index::MutableIndex;
use crate::lsmt::segment::{Segment, INVALID_OFFSET};
use crate::sys::File;

/// What log and holes together say.
pub(super) struct Derived {
    pub replay: Replay,
    /// What the log does not say.
    pub unlogged: Vec<Segment>,
    /// Data, in sectors of the device, of which no mark says that it was flushed.
    pub unproven: Vec<Range<u64>>,
    /// Whether the log can be continued. Not so without one, nor with one that says what must not
    /// count later: a write that never arrived.
    pub current: bool,
}

/// A range at its own place, in as many entries as it takes.
pub(super) fn entries(range: Range<u64>, zeroed: bool) -> impl Iterator<Item = Segment> {
    let entry = move |(offset, length)| Segment { offset, length, moffset: offset + FIRST_DATA_SECTOR, zeroed, tag: 0 };
    runs(range).map(entry)
}

/// Puts log and holes together (see above); writes nothing. `boot` is that of the system, 0 if unknown.
pub(super) fn derive(data: &Arc<dyn File>, header: &Header, index: &dyn File, boot: u64) -> Result<Derived> {
    let mut extents = extents(&**data)?;
    let len = file_len(&**data)?;
    let end = (len / SECTOR).saturating_sub(FIRST_DATA_SECTOR);
    let solid = matches!(&extents[..], [all] if *all == (0..end));
    if header.virtual_size > 0 {
        // Behind the device are index and trailer, if the layer has been sealed and is written to all the same.
        let whole = 0..header.virtual_size.div_ceil(SECTOR);
        extents = overlaps(&extents, whole).collect();
    }
    let (mut map, mut unproven) = (MutableIndex::default(), Vec::new());
    let mut survey = Survey::default();
    let mut current = file_len(index)? > 0;
    if current {
        check_owner(index, header)?;
        survey = survey::survey(index, true, 0, judge)?;
        // Those of an earlier boot that had not arrived are not in a log that notes this one: see `sparse::open`.
        let certain = if boot != 0 && survey.boot == boot { survey.records } else { survey.durable };
        // Logs of old say more than the device has, where it ends within a block.
        let whole = 0..if header.virtual_size > 0 { end.min(header.virtual_size.div_ceil(SECTOR)) } else { end };
        survey::scan(index, 0..survey.records, |number, record| {
            if record.is_invalid() || record.zeroed {
                map.insert(record); // which passes over a mark
                return Ok(());
            }
            let there = if number < certain { std::slice::from_ref(&whole) } else { &extents[..] };
            if number >= survey.durable {
                unproven.extend(overlaps(&extents, record.offset..record.end()));
            }
            let mut arrived = 0;
            for part in overlaps(there, record.offset..record.end()) {
                arrived += part.end - part.start;
                entries(part, false).for_each(|segment| map.insert(segment));
            }
            current &= arrived == u64::from(record.length);
            Ok(())
        })?;
    }
    let gaps = extents.into_iter().flat_map(|extent| not_data(&map, extent));
    let unlogged: Vec<Segment> = gaps.flat_map(|gap| entries(gap, false)).collect();
    let allocated = data.allocated_bytes().map_err(|e| Error::io("allocated bytes", e).in_file(data.path()))?;
    if solid && !unlogged.is_empty() && allocated < len {
        return Err(holes_unknown(&**data));
    }
    for segment in &unlogged {
        map.insert(*segment);
    }
    Ok(Derived { replay: Replay { map, survey }, unlogged, unproven, current })
}

/// What is to be said where a file system takes holes for data, as Linux has it for those that do not know.
pub(super) fn holes_unknown(data: &dyn File) -> Error {
    let what = "the file system does not tell where files have holes, which a sparse layer needs: take another file \
                system, or a log-structured layer";
    Error::new(Kind::Unsupported, what).in_file(data.path())
}

/// Refuses an index file that is no log of this data file.
fn check_owner(index: &dyn File, header: &Header) -> Result<()> {
    let head = survey::read_header(index)?;
    if head.has(SPARSE) && head.uuid == header.uuid {
        return Ok(());
    }
    let what = format!("the index file is not the log of the sparse layer {}", header.uuid);
    Err(Error::corrupt(what).in_file(index.path()).at(0))
}

fn judge(record: &Segment) -> Verdict {
    let nothing = Segment { offset: 0, length: 0, moffset: 0, zeroed: false, tag: 0 };
    let in_place = record.moffset == record.offset + FIRST_DATA_SECTOR;
    if *record == nothing {
        Verdict::Torn
    } else if record.length > 0 && record.end() <= INVALID_OFFSET && in_place {
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
    missing(map, range, |piece| !piece.zeroed)
}

/// The parts of a range for which the map has no entry, or none that `counts`.
pub(super) fn missing(map: &MutableIndex, range: Range<u64>, counts: impl Fn(&Segment) -> bool) -> Vec<Range<u64>> {
    let (mut at, end) = (range.start, range.end);
    let mut parts = Vec::new();
    if at >= end {
        return parts;
    }
    map.lookup(range, |piece| {
        if counts(&piece) {
            parts.push(at..piece.offset);
            at = piece.end();
        }
    });
    parts.push(at..end);
    parts.retain(|part| !part.is_empty());
    parts
}
