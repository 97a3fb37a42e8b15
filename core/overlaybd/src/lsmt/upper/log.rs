//! The index file of a writable layer: a header and a log of 16-byte records, appended in time order.
//!
//! Format: lsmt, "Writable append-only layer". Beyond the format, and ignored by every reader of it as
//! padding is, are *marks*: records with the reserved offset and the zeroed bit, which say in their
//! moffset that so many leading records are durable. What stands before a mark can therefore not be
//! damaged by a crash: damage there is `Corrupt`.
//!
//! A process may have ended after a flush that failed. The system then goes on showing what it could not write, and
//! takes it for written: the next flush, of the next process, would not try again, and a mark would lie. So records
//! that no mark calls durable are written again when a log is opened.
//!
//! # Recovery
//! A crash may leave an incomplete last record, records of zeros, or records whose data never reached
//! the data file; and since a system writes pages back in any order, good records may follow. The log
//! is cut at the first such record: what remains is a state that the layer was in, and it holds all
//! that was flushed, because marks prove which records those are. A record that no crash explains,
//! and a torn one before a mark, is `Corrupt`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::sync::{Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_RW_ENTRIES;
use crate::lsmt::header::{Header, BLOCK_BYTES, DATA, HEADER, SEALED, VIRTUAL_SIZE_AT};
use crate::lsmt::layer::decode;
use crate::lsmt::segment::{Segment, ENTRY_BYTES};
use crate::sys::{read_exact, write_all, File};

/// Records read from the file at a time.
const CHUNK_RECORDS: u64 = 1 << 16;

/// The record that says that the first `records` records are durable.
fn mark(records: u64) -> Segment {
    Segment { zeroed: true, moffset: records, ..Segment::INVALID }
}

/// What a layer thinks of one record that is neither mark nor padding.
pub(super) enum Verdict {
    /// It can be replayed.
    Good,
    /// A crash may have left it so.
    Torn,
    /// No crash explains it.
    Bad,
}

/// What a survey of an index file found.
pub(super) struct Survey {
    /// Leading records to replay; those behind are cut.
    pub records: u64,
    /// Leading records that a mark says are durable; at most `records`.
    pub durable: u64,
    /// Complete records that stand behind those to be replayed.
    pub cut: u64,
}

/// Reads and checks the header of an index file.
pub(super) fn read_header(file: &dyn File) -> Result<Header> {
    let fail = |e: Error| e.in_file(file.path()).at(0);
    let mut block = [0; BLOCK_BYTES];
    read_exact(file, &mut block, 0)?;
    let header = Header::parse(&block).map_err(fail)?;
    if header.flags & (HEADER | DATA | SEALED) != HEADER {
        return Err(fail(Error::corrupt(format!("no header of an index file (flags {:#x})", header.flags))));
    }
    if header.index_offset != BLOCK_BYTES as u64 {
        return Err(fail(Error::corrupt(format!("index at {}, not behind the header", header.index_offset))));
    }
    Ok(header)
}

/// Complete records in an index file.
pub(super) fn count_records(file: &dyn File) -> Result<u64> {
    let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
    let records = len.saturating_sub(BLOCK_BYTES as u64) / ENTRY_BYTES as u64;
    if records > MAX_RW_ENTRIES {
        let what = format!("{records} index records; at most {MAX_RW_ENTRIES} are allowed");
        return Err(Error::new(Kind::Limit, what).in_file(file.path()));
    }
    Ok(records)
}

/// Calls `f` with number and content of each of the first `records` records.
pub(super) fn scan(file: &dyn File, records: u64, mut f: impl FnMut(u64, Segment) -> Result<()>) -> Result<()> {
    let mut raw = vec![0; records.min(CHUNK_RECORDS) as usize * ENTRY_BYTES];
    let mut number = 0;
    while number < records {
        let chunk = &mut raw[..(records - number).min(CHUNK_RECORDS) as usize * ENTRY_BYTES];
        read_exact(file, chunk, record_at(number))?;
        for record in decode(chunk) {
            f(number, record)?;
            number += 1;
        }
    }
    Ok(())
}

/// Writes records again as they are, so that the next flush is sure to be about them.
fn rewrite(file: &dyn File, records: Range<u64>) -> Result<()> {
    let mut next = records.start;
    while next < records.end {
        let count = (records.end - next).min(CHUNK_RECORDS);
        let mut raw = vec![0; count as usize * ENTRY_BYTES];
        read_exact(file, &mut raw, record_at(next))?;
        write_all(file, &raw, record_at(next))?;
        next += count;
    }
    Ok(())
}

fn record_at(number: u64) -> u64 {
    BLOCK_BYTES as u64 + number * ENTRY_BYTES as u64
}

/// Finds out which records of an index file hold (see the recovery rules above). With `eager` marks,
/// which speak of the data only, a torn record before a mark is no damage.
pub(super) fn survey(file: &dyn File, eager: bool, judge: impl Fn(&Segment) -> Verdict) -> Result<Survey> {
    let total = count_records(file)?;
    let (mut durable, mut first_torn) = (0, None);
    scan(file, total, |number, record| {
        if record.is_invalid() {
            if record.zeroed && record.moffset <= number {
                durable = durable.max(record.moffset);
            }
            return Ok(());
        }
        match judge(&record) {
            Verdict::Torn => first_torn = first_torn.or(Some(number)),
            Verdict::Bad if first_torn.is_none() => {
                let Segment { offset, length, moffset, .. } = record;
                let what =
                    format!("index record {number} (sectors {offset}+{length}, mapped to {moffset}) is not valid");
                return Err(Error::corrupt(what).in_file(file.path()).at(record_at(number)));
            }
            Verdict::Good | Verdict::Bad => {}
        }
        Ok(())
    })?;
    let records = first_torn.unwrap_or(total);
    if records < durable && !eager {
        let what = format!("index record {records} is damaged or its data is missing, although it was durable");
        return Err(Error::corrupt(what).in_file(file.path()).at(record_at(records)));
    }
    Ok(Survey { records, durable: durable.min(records), cut: total - records })
}

/// An index file open for appending.
#[derive(Debug)]
pub(super) struct Log {
    file: Arc<dyn File>,
    state: Mutex<State>,
    flushing: Mutex<()>,
}

/// What changes as records are appended.
#[derive(Debug)]
pub(super) struct State {
    records: u64,
    durable: u64,
    marked: u64,
    closed: Option<(Kind, String)>,
}

impl Log {
    /// Takes a surveyed file, of which so many leading records are durable themselves; what stands behind its good
    /// records is cut off.
    pub fn new(file: Arc<dyn File>, survey: &Survey, logged: u64) -> Result<Log> {
        let Survey { records, durable, .. } = *survey;
        let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        if len != record_at(records) {
            file.set_len(record_at(records)).map_err(|e| Error::io("cut a torn tail", e).in_file(file.path()))?;
        }
        rewrite(&*file, logged..records)?;
        let state = Mutex::new(State { records, durable, marked: durable, closed: None });
        Ok(Log { file, state, flushing: Mutex::new(()) })
    }

    /// Holds off all other appends.
    ///
    /// # Errors
    /// That which closed the log, if it is closed.
    pub fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match &state.closed {
            Some((kind, why)) => Err(Error::new(*kind, why.clone()).in_file(self.file.path())),
            None => Ok(state),
        }
    }

    /// Appends records. After an error none of them counts: the next append overwrites what may have
    /// been written of them.
    pub fn append(&self, state: &mut State, records: &[Segment]) -> Result<()> {
        let noted = state.durable > state.marked;
        let count = records.len() as u64 + u64::from(noted);
        if state.records + count > MAX_RW_ENTRIES {
            let what = format!("the layer has {MAX_RW_ENTRIES} index records, the most it can have: commit it");
            return Err(Error::new(Kind::Limit, what).in_file(self.file.path()));
        }
        let mut raw = Vec::with_capacity(count as usize * ENTRY_BYTES);
        for record in noted.then(|| mark(state.durable)).iter().chain(records) {
            raw.extend_from_slice(&record.to_bytes());
        }
        let at = record_at(state.records);
        if let Err(e) = write_all(&*self.file, &raw, at) {
            // Only tidies up: if it fails too, the next append or the next open does it.
            let _ = self.file.set_len(at);
            return Err(e);
        }
        state.records += count;
        state.marked = state.durable;
        Ok(())
    }

    /// Makes the data file and the log durable, in this order. A failure closes the log for good: the
    /// system may have dropped the bytes that it could not write, and a later success would mean nothing.
    ///
    /// With `eager` a mark is written between the two, which then speaks of the data only; without, it
    /// goes before the next record. A sealed layer is durable already.
    pub fn flush(&self, data: &dyn File, eager: bool) -> Result<()> {
        let _one_at_a_time = self.hold_flushes();
        if self.is_sealed() {
            return Ok(());
        }
        let records = self.lock()?.records;
        let synced = data.sync_data().map_err(|e| Error::io("flush", e).in_file(data.path())).and_then(|()| {
            if eager {
                self.mark_now(records);
            }
            self.sync_log()
        });
        let mut state = self.state.lock();
        match &synced {
            Ok(()) => state.durable = state.durable.max(records),
            Err(e) => state.closed = Some((Kind::Io, format!("an earlier flush failed, close the layer: {e}"))),
        }
        synced
    }

    /// Waits for the end of a flush that is under way, and holds off all others.
    pub fn hold_flushes(&self) -> MutexGuard<'_, ()> {
        self.flushing.lock()
    }

    /// Marks records as durable at once. Without room for the mark the log only knows less.
    fn mark_now(&self, records: u64) {
        let mut state = self.state.lock();
        if records <= state.durable {
            return;
        }
        state.durable = records;
        if self.append(&mut state, &[]).is_ok() && state.records == records + 1 {
            // The mark itself needs no mark.
            (state.durable, state.marked) = (state.records, state.records);
        }
    }

    /// Makes the log alone durable.
    pub fn sync_log(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("flush", e).in_file(self.file.path()))
    }

    /// Refuses all further appends and flushes with this kind and reason.
    pub fn close(&self, state: &mut State, kind: Kind, why: &str) {
        state.closed = Some((kind, why.to_string()));
    }

    /// Whether the layer has been sealed, so that nothing can change any more.
    pub fn is_sealed(&self) -> bool {
        matches!(self.state.lock().closed, Some((Kind::ReadOnly, _)))
    }

    /// The name of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Records in the file, marks included.
    pub fn records(&self) -> u64 {
        self.state.lock().records
    }

    /// Writes another virtual size into the header.
    pub fn write_virtual_size(&self, size: u64) -> Result<()> {
        write_all(&*self.file, &size.to_le_bytes(), VIRTUAL_SIZE_AT as u64)
    }
}
