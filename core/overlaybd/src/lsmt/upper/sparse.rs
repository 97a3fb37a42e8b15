//! Sparse writable layer: every byte at its own offset in the data file, holes where there is none.
//!
//! Format: lsmt, "Writable sparse layer". Upstream knows such a layer by its holes alone, and so
//! forgets discards and rounds writes to the blocks of the file system when it is opened again. Here
//! the index file, which upstream creates empty and never reads, holds a log of what changed the map
//! (`derive` says how the two go together); and the first write to a part of a block takes the rest of
//! the block from the layers below, so that a block of the file never holds sectors of nobody.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use crate::sync::RwLock;

use super::derive::{derive, entries, extents, missing, not_data, overlaps, Derived};
use super::log::{rewrite, Log};
use super::notes::Note;
use super::survey::Survey;
use super::{directory, Below, Layout, Replay, Upper, DISCARD_RECORDS};
use crate::error::{Error, Result};
use crate::limits::{MAX_DEVICE_BYTES, MAX_GRANULE_BYTES, SECTOR};
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, HEADER, SPARSE};
use crate::lsmt::index::{coalesce, MutableIndex};
use crate::lsmt::segment::Segment;
use crate::sys::{write_all, Disk, File, Mode};

/// Below this many records a log is never worth rewriting.
const SHORT_LOG: u64 = 4096;

/// The file system's blocks, and the lock that keeps others off while one is filled in.
pub(super) struct Blocks {
    sectors: u64,
    /// Held exclusively by who fills in a block, shared by all other writes and discards.
    filling: RwLock<()>,
}

impl Blocks {
    fn of(data: &dyn File) -> Blocks {
        let sectors = data.block_bytes().clamp(BLOCK_BYTES as u64, MAX_GRANULE_BYTES) / SECTOR;
        Blocks { sectors, filling: RwLock::new(()) }
    }

    /// The size of a block.
    pub(super) fn bytes(&self) -> u64 {
        self.sectors * SECTOR
    }

    /// A range of the device's sectors, widened to whole blocks of the file.
    fn widen(&self, range: &Range<u64>) -> Range<u64> {
        let first = (range.start + FIRST_DATA_SECTOR) / self.sectors * self.sectors;
        let end = (range.end + FIRST_DATA_SECTOR).next_multiple_of(self.sectors);
        first.saturating_sub(FIRST_DATA_SECTOR)..end - FIRST_DATA_SECTOR
    }
}

/// Opens the pair for writing, and brings the log up to date.
pub(super) fn open(disk: &dyn Disk, data: Arc<dyn File>, header: Header, path: &Path) -> Result<Upper> {
    let index = disk.open(path, Mode::Write)?;
    let boot = disk.boot();
    let Derived { replay: Replay { map, survey }, unlogged, unproven, current } =
        derive(&data, &header, &*index, boot)?;
    // As the log does with its records (see there): a flush that failed may have lost their data.
    let bytes =
        |range: Range<u64>| (range.start + FIRST_DATA_SECTOR) * SECTOR..(range.end + FIRST_DATA_SECTOR) * SECTOR;
    unproven.into_iter().try_for_each(|range| rewrite(&*data, bytes(range)))?;
    let (log, noted) = if !current || survey.records > 2 * map.len() as u64 + SHORT_LOG {
        (rewrite_log(disk, &*data, &header, path, &map)?, 0)
    } else {
        let log = Log::new(index, &survey, 0, 0)?;
        if !unlogged.is_empty() {
            append(&log, &unlogged)?;
            log.flush(&*data, true)?;
        }
        (log, survey.boot)
    };
    if boot != 0 && noted != boot {
        // Without room for it the log only knows less.
        let _ = append(&log, &[Note::Boot(boot).record()]);
    }
    let layout = Layout::Sparse(Blocks::of(&*data));
    let virtual_size = AtomicU64::new(header.virtual_size);
    Ok(Upper { data, log, map: RwLock::new(map), header, virtual_size, layout, cut_records: survey.cut })
}

fn append(log: &Log, records: &[Segment]) -> Result<()> {
    let mut state = log.lock()?;
    records.chunks(DISCARD_RECORDS).try_for_each(|chunk| log.append(&mut state, chunk))
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
    // Nothing is left of one that cannot be finished.
    make_log(disk, data, header, path, fresh, map).inspect_err(|_| drop(disk.remove(fresh)))
}

fn make_log(
    disk: &dyn Disk,
    data: &dyn File,
    header: &Header,
    path: &Path,
    fresh: &Path,
    map: &MutableIndex,
) -> Result<Log> {
    let file = disk.open(fresh, Mode::New)?;
    let head = Header { flags: HEADER | SPARSE, index_offset: BLOCK_BYTES as u64, ..header.clone() };
    write_all(&*file, &head.to_block(), 0)?;
    let log = Log::new(file, &Survey::default(), 0, 0)?;
    let in_place = |s: Segment| Segment { moffset: s.offset + FIRST_DATA_SECTOR, ..s };
    append(&log, &coalesce(map.iter().map(in_place)))?;
    log.flush(data, true)?;
    let records = log.records();
    disk.rename(fresh, path)?;
    disk.sync_dir(directory(path))?;
    let survey = Survey { records, durable: records, kept: records, ..Survey::default() };
    Log::new(disk.open(path, Mode::Write)?, &survey, records, 0)
}

impl Upper {
    /// The sectors behind the device that share a block of the data file with its end: where the block has data a
    /// sparse layer that has grown holds them too, once it is opened again. None in other layers.
    pub fn shares_behind(&self) -> Range<u64> {
        let end = self.virtual_size() / SECTOR;
        match &self.layout {
            Layout::Sparse(blocks) => end..blocks.widen(&(end.saturating_sub(1)..end)).end,
            _ => end..end,
        }
    }

    /// Writes one piece: bytes, then what they change in the map.
    pub(super) fn write_in_place(&self, blocks: &Blocks, buf: &[u8], offset: u64, below: &mut Below<'_>) -> Result<()> {
        let range = offset / SECTOR..(offset + buf.len() as u64) / SECTOR;
        if range.is_empty() {
            return Ok(());
        }
        self.write_blocks(blocks, buf, range.clone(), below).inspect_err(|_| self.give_back(blocks, range))
    }

    fn write_blocks(&self, blocks: &Blocks, buf: &[u8], range: Range<u64>, below: &mut Below<'_>) -> Result<()> {
        // The device may end within a block. What lies behind is nobody's: an entry for it would be one of a layer that
        // maps beyond its own end.
        let device_end = (self.virtual_size().min(MAX_DEVICE_BYTES) / SECTOR).max(range.end);
        let Range { start, end } = blocks.widen(&range);
        let wide = start..end.min(device_end);
        {
            let _others_may_too = blocks.filling.read();
            if wide == range || self.holds(wide.start..range.start) && self.holds(range.end..wide.end) {
                return self.store(buf, range);
            }
        }
        // The layers below do not change, so they are read before others have to wait.
        let bytes = |sectors: u64| (sectors * SECTOR) as usize;
        let mut whole = vec![0; bytes(wide.end - wide.start)];
        let (head, tail) = (bytes(range.start - wide.start), bytes(range.end - wide.start));
        if head > 0 {
            below(&mut whole[..head], wide.start * SECTOR)?;
        }
        if tail < whole.len() {
            below(&mut whole[tail..], range.end * SECTOR)?;
        }
        let _alone = blocks.filling.write();
        for edge in [wide.start..range.start, range.end..wide.end] {
            let at = bytes(edge.start - wide.start)..bytes(edge.end - wide.start);
            self.overlay(&mut whole[at], edge)?;
        }
        whole[head..tail].copy_from_slice(buf);
        self.store(&whole, wide)
    }

    /// Whether all of a range is data or zeros in this layer.
    fn holds(&self, range: Range<u64>) -> bool {
        missing(&self.map.read(), range, |_| true).is_empty()
    }

    /// Puts what this layer holds of a range over what the layers below hold.
    fn overlay(&self, buf: &mut [u8], range: Range<u64>) -> Result<()> {
        let mut content = buf.to_vec();
        self.read_at(&mut content, range.start * SECTOR, |gap, at| {
            let from = (at - range.start * SECTOR) as usize;
            gap.copy_from_slice(&buf[from..from + gap.len()]);
            Ok(())
        })?;
        buf.copy_from_slice(&content);
        Ok(())
    }

    fn store(&self, buf: &[u8], range: Range<u64>) -> Result<()> {
        drop(self.log.lock()?);
        write_all(&*self.data, buf, (range.start + FIRST_DATA_SECTOR) * SECTOR)?;
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

    /// After a failed write: blocks that this layer does not hold, and sectors that it holds as zeros, must not
    /// keep the part that arrived, since on opening all that has room counts. If this fails too there is nothing
    /// left to try.
    fn give_back(&self, blocks: &Blocks, range: Range<u64>) {
        let _alone = blocks.filling.write();
        let empty = not_data(&self.map.read(), blocks.widen(&range));
        for part in empty {
            // Their blocks hold no data, but for the one in which the device ended before it grew.
            let wide = blocks.widen(&part);
            let data = not_data(&self.map.read(), wide.clone()) != [wide.clone()];
            let Range { start, end } = if data { part } else { wide };
            let _ = self.data.punch_hole((start + FIRST_DATA_SECTOR) * SECTOR, (end - start) * SECTOR);
        }
    }

    /// Logs a range as zeros, then gives its room back.
    pub(super) fn discard_in_place(&self, blocks: &Blocks, range: Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let _others_may_too = blocks.filling.read();
        let mut state = self.log.lock()?;
        let news = missing(&self.map.read(), range.clone(), |piece| piece.zeroed);
        let records: Vec<Segment> = news.into_iter().flat_map(|part| entries(part, true)).collect();
        for chunk in records.chunks(DISCARD_RECORDS) {
            self.log.append(&mut state, chunk)?;
            let mut map = self.map.write();
            chunk.iter().for_each(|record| map.insert(*record));
        }
        drop(state);
        let (offset, len) = ((range.start + FIRST_DATA_SECTOR) * SECTOR, (range.end - range.start) * SECTOR);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsmt::upper::{create, CreateOptions};
    use crate::sys::fault::FaultDisk;
    use crate::sys::os::OsDisk;

    #[test]
    fn what_is_discarded_is_zeros_also_where_files_have_no_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (data, index) = (dir.path().join("data"), dir.path().join("index"));
        let disk = FaultDisk::without_holes(Arc::new(OsDisk));
        let options = CreateOptions { size: 8 << 20, sparse: true, ..CreateOptions::default() };
        create(&disk, &data, &index, &options).unwrap();
        let mut model = vec![0; 8 << 20];
        let content: Vec<u8> = (0..5 << 20).map(|i: u32| (i / 512 % 251 + 1) as u8).collect();
        let upper = Upper::open(&disk, &data, &index).unwrap();
        let below = |part: &mut [u8], _: u64| {
            part.fill(0);
            Ok(())
        };
        upper.write_at(&content, 1 << 20, below).unwrap();
        model[1 << 20..6 << 20].copy_from_slice(&content);
        // A little, more than is written at a time, and beyond what was ever written.
        for (sector, count) in [(2051, 3), (4099, 5003), (12_000, 2000)] {
            upper.discard(sector * SECTOR, count * SECTOR).unwrap();
            model[(sector * SECTOR) as usize..][..(count * SECTOR) as usize].fill(0);
        }
        let device = |upper: &Upper| {
            let mut device = vec![0xEE; 8 << 20];
            upper.read_at(&mut device, 0, below).unwrap();
            device
        };
        assert!(device(&upper) == model);
        drop(upper);
        assert!(device(&Upper::open(&disk, &data, &index).unwrap()) == model, "opened again");
        // Upstream knows the layer by its data file alone.
        let file = std::fs::read(&data).unwrap();
        let there = &file[(FIRST_DATA_SECTOR * SECTOR) as usize..];
        assert!(there[..6 << 20] == model[..6 << 20] && there[6 << 20..].iter().all(|byte| *byte == 0));
    }
}
