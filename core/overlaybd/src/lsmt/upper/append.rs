//! Log-structured writable layer: bytes go to the end of the data file, whatever their offset.
//!
//! Format: lsmt, "Writable append-only layer".

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use crate::sync::{Mutex, RwLock};

use super::log::{rewrite, Log};
use super::survey::{self, Verdict};
use super::{file_len, runs, Layout, Replay, Upper, DISCARD_RECORDS};
use crate::error::{Error, Result};
use crate::limits::SECTOR;
use crate::lsmt::header::{Header, BLOCK_BYTES, FIRST_DATA_SECTOR, VIRTUAL_SIZE_AT};
use crate::lsmt::index::MutableIndex;
use crate::lsmt::layer::check;
use crate::lsmt::segment::Segment;
use crate::sys::{write_all, File};

/// The end of the data file.
pub(super) struct Tail(Mutex<Ends>);

/// Bytes, multiples of 512.
struct Ends {
    /// Where the next write goes: writes under way have taken what is before.
    reserved: u64,
    /// Up to where the file is known to reach.
    written: u64,
}

impl Tail {
    /// Where data ends once no write is under way.
    pub(super) fn end(&self) -> u64 {
        self.0.lock().reserved
    }
}

/// Opens the pair for writing.
pub(super) fn open(data: Arc<dyn File>, mut header: Header, index: Arc<dyn File>, boot: u64) -> Result<Upper> {
    let virtual_size = survey::read_header(&*index)?.virtual_size;
    if header.virtual_size != virtual_size {
        // Power failed while it grew. Once sealed, the layer is described by this header.
        write_all(&*data, &virtual_size.to_le_bytes(), VIRTUAL_SIZE_AT as u64)?;
        header.virtual_size = virtual_size;
    }
    let Replay { map, survey } = replay(&data, &*index, boot)?;
    let len = file_len(&*data)?;
    let end = len - len % SECTOR;
    let mut unproven = end;
    survey::scan(&*index, survey.proven..survey.records, |_, record| {
        if !record.is_invalid() && !record.zeroed && record.length > 0 {
            unproven = unproven.min(record.moffset * SECTOR);
        }
        Ok(())
    })?;
    let log = Log::new(index, &survey, survey.durable, boot)?;
    if end != len {
        data.set_len(end).map_err(|e| Error::io("cut a torn sector", e).in_file(data.path()))?;
    }
    if survey.records > survey.durable {
        // As the log does with those records: a flush that failed may have lost this, and that the file reaches so far.
        rewrite(&*data, unproven.min(end.saturating_sub(SECTOR))..end)?;
    }
    let tail = Tail(Mutex::new(Ends { reserved: end, written: end }));
    Ok(Upper {
        data,
        log,
        map: RwLock::new(map),
        header,
        virtual_size: AtomicU64::new(virtual_size),
        layout: Layout::Append(tail),
        cut_records: survey.cut,
    })
}

/// Reads the index file into a map, up to what a crash has torn or not let become durable.
pub(super) fn replay(data: &Arc<dyn File>, index: &dyn File, boot: u64) -> Result<Replay> {
    let end = file_len(&**data)? / SECTOR;
    let survey = survey::survey(index, false, boot, |record| judge(record, end))?;
    let mut map = MutableIndex::default();
    survey::scan(index, 0..survey.records, |_, record| {
        map.insert(Segment { tag: 0, ..record });
        Ok(())
    })?;
    Ok(Replay { map, survey })
}

/// A crash loses the end of the data file, or leaves zeros in the index file; it invents nothing.
fn judge(record: &Segment, end: u64) -> Verdict {
    let nothing = Segment { offset: 0, length: 0, moffset: 0, zeroed: false, tag: 0 };
    if *record == nothing {
        Verdict::Torn
    } else if record.length == 0 && record.moffset >= FIRST_DATA_SECTOR || check(&[*record], Some(end), false).is_ok() {
        Verdict::Good // one of length 0 is inert: upstream logs writes of nothing
    } else if check(&[*record], None, false).is_ok() {
        Verdict::Torn
    } else {
        Verdict::Bad
    }
}

impl Upper {
    /// Writes one piece: bytes first, then the record that makes them count.
    pub(super) fn append_piece(&self, tail: &Tail, buf: &[u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        drop(self.log.lock()?);
        let at = {
            let mut ends = tail.0.lock();
            ends.reserved += len;
            ends.reserved - len
        };
        let written = write_all(&*self.data, buf, at);
        {
            let mut ends = tail.0.lock();
            if written.is_ok() {
                ends.written = ends.written.max(at + len);
            } else if ends.reserved == at + len {
                ends.reserved = at;
            }
        }
        written?;
        let length = (len / SECTOR) as u32;
        self.record(&[Segment { offset: offset / SECTOR, length, moffset: at / SECTOR, zeroed: false, tag: 0 }])
    }

    /// Logs a range as zeros.
    pub(super) fn append_zeroed(&self, tail: &Tail, range: Range<u64>) -> Result<()> {
        let moffset = tail.0.lock().written.max(BLOCK_BYTES as u64) / SECTOR;
        let zeroed = runs(range).map(|(offset, length)| Segment { offset, length, moffset, zeroed: true, tag: 0 });
        let records: Vec<Segment> = zeroed.collect();
        records.chunks(DISCARD_RECORDS).try_for_each(|chunk| self.record(chunk))
    }
}
