//! Finds out which records of an index file hold.
//!
//! # Recovery
//! A crash may leave an incomplete last record, records of zeros, or records whose data never reached
//! the data file; and since a system writes pages back in any order, good records may follow. The log
//! is cut at the first such record: what remains is a state that the layer was in, and it holds all
//! that was flushed, because notes prove which records those are. A record that no crash explains,
//! and a torn one before a [`Note::Durable`], is `Corrupt`.
//!
//! That is not enough for a log-structured layer after a loss of power: where the data of a record never arrived the
//! data file may hold anything, zeros or what once stood there, and what the record hides may have been flushed. So
//! the log says under which boot of the system it was written. Under another one whatever no note proves is cut off:
//! the layer is as it was when it was flushed last. Under the same one the system has all that was written, whatever
//! became of the process.

use std::ops::Range;

use super::notes::{Note, OURS};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_RW_ENTRIES;
use crate::lsmt::header::{Header, BLOCK_BYTES, DATA, HEADER, SEALED};
use crate::lsmt::layer::decode;
use crate::lsmt::segment::{Segment, ENTRY_BYTES};
use crate::sys::{read_exact, write_all, File};

/// Records read from the file at a time.
const CHUNK_RECORDS: u64 = 1 << 16;

/// What a layer thinks of one record that is no padding.
pub(super) enum Verdict {
    /// It can be replayed.
    Good,
    /// A crash may have left it so.
    Torn,
    /// No crash explains it.
    Bad,
}

/// What a survey of an index file found.
#[derive(Default)]
pub(super) struct Survey {
    /// Leading records to replay.
    pub records: u64,
    /// Leading records that a note says are durable; at most `records`.
    pub durable: u64,
    /// Leading records whose data is durable, or that another tool took for good; at most `records`.
    pub proven: u64,
    /// Leading records that stay in the file: those to replay and, behind them, notes.
    pub kept: u64,
    /// Records that were cut off, padding not counted.
    pub cut: u64,
    /// The last boot noted, 0 if none is.
    pub boot: u64,
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

/// Where a record stands in the file, in bytes.
pub(super) fn record_at(number: u64) -> u64 {
    BLOCK_BYTES as u64 + number * ENTRY_BYTES as u64
}

/// Calls `f` with number and content of each of these records.
pub(super) fn scan(file: &dyn File, records: Range<u64>, mut f: impl FnMut(u64, Segment) -> Result<()>) -> Result<()> {
    chunks(file, records, |first, raw| decode(raw).zip(first..).try_for_each(|(record, number)| f(number, record)))
}

/// Calls `f` with the number of the first, and the bytes, of some of these records after the other.
fn chunks(file: &dyn File, records: Range<u64>, mut f: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<()> {
    let mut raw = vec![0; records.end.saturating_sub(records.start).min(CHUNK_RECORDS) as usize * ENTRY_BYTES];
    let mut next = records.start;
    while next < records.end {
        let count = (records.end - next).min(CHUNK_RECORDS);
        let chunk = &mut raw[..count as usize * ENTRY_BYTES];
        read_exact(file, chunk, record_at(next))?;
        f(next, chunk)?;
        next += count;
    }
    Ok(())
}

/// Makes padding of records that are cut off while notes behind them stay.
pub(super) fn blank(file: &dyn File, records: Range<u64>) -> Result<()> {
    chunks(file, records, |first, raw| {
        let real = |record: &&mut [u8; ENTRY_BYTES]| !Segment::from_bytes(record).is_invalid();
        raw.as_chunks_mut::<ENTRY_BYTES>()
            .0
            .iter_mut()
            .filter(real)
            .for_each(|record| *record = Segment::INVALID.to_bytes());
        write_all(file, raw, record_at(first))
    })
}

/// Finds out which records of an index file hold (see the recovery rules above). With `eager` notes,
/// which speak of the data only, a torn record before a note is no damage. `boot` is that of the system as it is now;
/// with 0 records count whoever wrote them.
pub(super) fn survey(file: &dyn File, eager: bool, boot: u64, judge: impl Fn(&Segment) -> Verdict) -> Result<Survey> {
    let total = count_records(file)?;
    let mut found = Survey::default();
    let mut first_torn = total;
    scan(file, 0..total, |number, record| {
        if let Some(note) = Note::of(&record, number) {
            match note {
                Note::Durable(records) => found.durable = found.durable.max(records),
                Note::Data(records) => found.proven = found.proven.max(records),
                Note::Boot(boot) => found.boot = boot,
            }
            if !matches!(note, Note::Boot(_)) {
                found.kept = number + 1;
            }
        }
        if record.is_invalid() {
            return Ok(());
        }
        match judge(&record) {
            Verdict::Torn => first_torn = first_torn.min(number),
            Verdict::Bad if first_torn == total => {
                let Segment { offset, length, moffset, .. } = record;
                let what =
                    format!("index record {number} (sectors {offset}+{length}, mapped to {moffset}) is not valid");
                return Err(Error::corrupt(what).in_file(file.path()).at(record_at(number)));
            }
            // Of another tool, which took all that is before it for good.
            Verdict::Good if record.tag != OURS => found.proven = number + 1,
            Verdict::Good | Verdict::Bad => {}
        }
        Ok(())
    })?;
    found.proven = found.proven.max(found.durable);
    found.records = first_torn;
    if found.records < found.durable && !eager {
        let what = format!("index record {first_torn} is damaged or its data is missing, although it was durable");
        return Err(Error::corrupt(what).in_file(file.path()).at(record_at(first_torn)));
    }
    if ![0, boot].contains(&found.boot) && boot != 0 {
        found.records = found.records.min(found.proven);
    }
    found.durable = found.durable.min(found.records);
    found.proven = found.proven.min(found.records);
    found.kept = found.kept.max(found.records);
    scan(file, found.records..total, |_, record| {
        found.cut += u64::from(!record.is_invalid());
        Ok(())
    })?;
    Ok(found)
}
