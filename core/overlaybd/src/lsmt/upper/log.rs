//! The index file of a writable layer: a header and a log of 16-byte records, appended in time order.
//!
//! Format: lsmt, "Writable append-only layer". Beyond the format there are [notes](Note), which every other reader
//! skips as padding. Those that say what is durable prove which records a crash cannot have damaged; how they are
//! read is in `survey`.
//!
//! A process may have ended after a flush that failed. The system then goes on showing what it could not write, and
//! takes it for written: the next flush, of the next process, would not try again, and a note would lie. So records
//! that no note calls durable are written again when a log is opened.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::sync::{Mutex, MutexGuard};

use super::notes::{Note, OURS};
use super::survey::{blank, record_at, Survey};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_IO_BYTES, MAX_RW_ENTRIES};
use crate::lsmt::header::VIRTUAL_SIZE_AT;
use crate::lsmt::segment::{Segment, ENTRY_BYTES};
use crate::sys::{read_exact, write_all, File};

/// An index file open for appending.
#[derive(Debug)]
pub(super) struct Log {
    file: Arc<dyn File>,
    /// The boot to note before the first record, and records under it are ours; 0 for neither.
    boot: u64,
    state: Mutex<State>,
    flushing: Mutex<()>,
}

/// What changes as records are appended. All numbers are of leading records.
#[derive(Debug)]
pub(super) struct State {
    records: u64,
    /// That are durable, with their data, and the most that a note in the file says so of.
    durable: u64,
    marked: u64,
    /// Up to the last that is no note, and those whose data a note in the file says is durable.
    written: u64,
    proven: u64,
    /// The boot that the file notes last.
    boot: u64,
    closed: Option<(Kind, String)>,
}

impl Log {
    /// Takes a surveyed file, of which so many leading records are durable themselves; what stands behind its good
    /// records is cut off. `boot` is that of the system where records of another are cut off.
    pub fn new(file: Arc<dyn File>, survey: &Survey, logged: u64, boot: u64) -> Result<Log> {
        let Survey { records, durable, proven, kept, .. } = *survey;
        blank(&*file, records..kept)?;
        let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        if len != record_at(kept) {
            file.set_len(record_at(kept)).map_err(|e| Error::io("cut a torn tail", e).in_file(file.path()))?;
        }
        if records < kept || len != record_at(kept) {
            // Else what stands in their place might be what a loss of power takes, and a note behind it stay: it would
            // prove what has just been cut off.
            file.sync_data().map_err(|e| Error::io("flush", e).in_file(file.path()))?;
        }
        rewrite(&*file, record_at(logged.min(kept))..record_at(kept))?;
        let state = State {
            records: kept,
            durable,
            marked: durable,
            written: records,
            proven,
            boot: survey.boot,
            closed: None,
        };
        Ok(Log { file, boot, state: Mutex::new(state), flushing: Mutex::new(()) })
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
        let durable = (state.durable > state.marked).then_some(Note::Durable(state.durable));
        let boot = (state.boot != self.boot && self.boot != 0).then_some(Note::Boot(self.boot));
        let notes = [durable, boot].into_iter().flatten().map(Note::record);
        // There is room for one record more, so that neither a full disk nor a full log keeps a flush from its note.
        let spare = (self.boot != 0).then_some(Segment::INVALID);
        let ours =
            records.iter().map(|record| Segment { tag: if self.boot == 0 { record.tag } else { OURS }, ..*record });
        self.extend(state, notes.chain(ours).chain(spare), spare.is_some())?;
        state.written = state.records;
        state.marked = state.durable;
        state.boot = self.boot;
        Ok(())
    }

    /// Writes records behind those there are, of which the last does not count if it is `spare`: it only has its room.
    fn extend(&self, state: &mut State, records: impl Iterator<Item = Segment>, spare: bool) -> Result<()> {
        let raw: Vec<u8> = records.flat_map(Segment::to_bytes).collect();
        let count = (raw.len() / ENTRY_BYTES) as u64;
        if state.records + count > MAX_RW_ENTRIES {
            let what = format!("the layer has {MAX_RW_ENTRIES} index records, the most it can have: commit it");
            return Err(Error::new(Kind::Limit, what).in_file(self.file.path()));
        }
        let at = record_at(state.records);
        if let Err(e) = write_all(&*self.file, &raw, at) {
            // Only tidies up: if it fails too, the next append or the next open does it.
            let _ = self.file.set_len(at);
            return Err(e);
        }
        state.records += count - u64::from(spare);
        Ok(())
    }

    /// Makes the data file and the log durable, in this order. A failure closes the log for good: the
    /// system may have dropped the bytes that it could not write, and a later success would mean nothing.
    ///
    /// Between the two goes the note that the data is durable, where a loss of power would lose it otherwise. With
    /// `eager` there is one too, but one that the log can do without. A sealed layer is durable already.
    pub fn flush(&self, data: &dyn File, eager: bool) -> Result<()> {
        let _one_at_a_time = self.hold_flushes();
        if self.is_sealed() {
            return Ok(());
        }
        let records = self.lock()?.records;
        let mut synced = data.sync_data().map_err(|e| Error::io("flush", e).in_file(data.path()));
        if synced.is_ok() {
            if eager {
                self.mark_now(records);
            } else {
                // Without the note nothing is in doubt, but nothing proven either.
                self.prove(&mut *self.lock()?, records)?;
            }
            synced = self.sync_log();
        }
        let mut state = self.state.lock();
        match &synced {
            Ok(()) => state.durable = state.durable.max(records),
            Err(e) => state.closed = Some((Kind::Io, format!("an earlier flush failed, close the layer: {e}"))),
        }
        synced
    }

    /// Notes that the data of so many records is durable, if that is news.
    fn prove(&self, state: &mut State, records: u64) -> Result<()> {
        if self.boot == 0 || state.proven >= records.min(state.written) {
            return Ok(());
        }
        self.extend(state, [Note::Data(records).record()].into_iter(), false)?;
        state.proven = records;
        Ok(())
    }

    /// Notes that all data is durable.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `Limit`.
    pub fn prove_all(&self, state: &mut State) -> Result<()> {
        self.prove(state, state.records)
    }

    /// Records there are, and those of them that no loss of power can take; the same where that is not told apart.
    pub fn progress(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.written, if self.boot == 0 { state.written } else { state.proven.min(state.written) })
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

/// Writes bytes of a file again as they are, so that the next flush is sure to be about them.
pub(super) fn rewrite(file: &dyn File, bytes: Range<u64>) -> Result<()> {
    let mut buf = vec![0; (bytes.end - bytes.start).min(MAX_IO_BYTES as u64) as usize];
    for at in bytes.clone().step_by(MAX_IO_BYTES) {
        let piece = &mut buf[..(bytes.end - at).min(MAX_IO_BYTES as u64) as usize];
        read_exact(file, piece, at)?;
        write_all(file, piece, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsmt::upper::survey::count_records;
    use crate::sys::os::OsDisk;
    use crate::sys::{Disk, Mode};

    #[test]
    fn the_last_record_leaves_room_for_the_note_of_its_flush() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| OsDisk.open(&dir.path().join(name), Mode::New).unwrap();
        let (data, index) = (open("data"), open("index"));
        let full = MAX_RW_ENTRIES - 2;
        index.set_len(record_at(full)).unwrap();
        let survey = Survey { records: full, durable: full, proven: full, kept: full, boot: 7, cut: 0 };
        let log = Log::new(Arc::clone(&index), &survey, full, 7).unwrap();
        let record = Segment { offset: 0, length: 1, moffset: 8, zeroed: false, tag: 0 };
        let append = || log.append(&mut log.lock().unwrap(), &[record]);
        append().unwrap();
        assert_eq!(append().unwrap_err().kind(), Kind::Limit);
        log.flush(&*data, false).unwrap();
        assert_eq!(log.progress(), (full + 1, full + 1), "what was taken can be flushed");
        assert_eq!(append().unwrap_err().kind(), Kind::Limit);
        assert_eq!(count_records(&*index).unwrap(), MAX_RW_ENTRIES, "and the file can be opened again");
    }
}
