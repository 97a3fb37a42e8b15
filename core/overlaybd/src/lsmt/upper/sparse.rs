//! Sparse writable layer: every byte at its own offset in the data file, holes where there is none.
//!
//! Format: lsmt, "Writable sparse layer". Upstream knows such a layer by its holes alone, and so
//! forgets discards and rounds writes to the blocks of the file system when it is opened again. Here
//! the index file, which upstream creates empty and never reads, holds a log of what changed the map;
//! `derive` says how the two go together.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use parking_lot::RwLock;

use super::derive::{derive, entries, extents, not_data, overlaps, Derived, Granule};
use super::log::{self, Log, Survey};
use super::{directory, Layout, Replay, Upper, DISCARD_RECORDS};
use crate::error::{Error, Result};
use crate::limits::SECTOR;
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, HEADER, SPARSE};
use crate::lsmt::index::{coalesce, MutableIndex};
use crate::lsmt::segment::Segment;
use crate::sys::{write_all, Disk, File, Mode};

/// Below this many records a log is never worth rewriting.
const SHORT_LOG: u64 = 4096;

/// Opens the pair for writing, and brings the log up to date.
pub(super) fn open(disk: &dyn Disk, data: Arc<dyn File>, header: Header, path: &Path) -> Result<Upper> {
    let index = disk.open(path, Mode::Write)?;
    let Derived { replay: Replay { map, survey }, unlogged, announced, current } = derive(&data, &header, &*index)?;
    let needed = (map.len() + announced.len()) as u64;
    let log = if !current || survey.records > 2 * needed + SHORT_LOG {
        rewrite_log(disk, &*data, &header, path, &announced, &map)?
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

/// Replaces the log by a new one that says the map, what has been announced, and nothing else.
fn rewrite_log(
    disk: &dyn Disk,
    data: &dyn File,
    header: &Header,
    path: &Path,
    announced: &[Segment],
    map: &MutableIndex,
) -> Result<Log> {
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
    let records = [announced, &coalesce(map.iter())].concat();
    let mut state = log.lock()?;
    records.chunks(DISCARD_RECORDS).try_for_each(|chunk| log.append(&mut state, chunk))?;
    drop(state);
    log.flush(data, true)?;
    let records = log.records();
    disk.rename(fresh, path)?;
    disk.sync_dir(directory(path))?;
    Log::new(disk.open(path, Mode::Write)?, &Survey { records, durable: records, cut: 0 })
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
