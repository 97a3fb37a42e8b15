//! Notes in a log: records of ours that every other reader skips, since they have the offset of padding.
//!
//! Format: docs/formats/lsmt.md, "Writable append-only layer".

use crate::lsmt::segment::{Segment, MAX_MOFFSET};

/// The tag of records that stand under a [`Note::Boot`]. Tags mean nothing to readers, which is why this tells our
/// records from those of other tools: these write the number of layers below, which is 255 for hardly any.
pub(super) const OURS: u8 = 255;

/// What a record of padding says to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// So many leading records are durable, and the data that they map.
    Durable(u64),
    /// The data that so many leading records map is durable.
    Data(u64),
    /// What follows was written while the system was up that this number stands for.
    Boot(u64),
}

impl Note {
    /// The record that says it.
    pub fn record(self) -> Segment {
        let (zeroed, length, moffset) = match self {
            Note::Durable(records) => (true, 0, records),
            Note::Data(records) => (true, 1, records),
            Note::Boot(id) => (false, 1, id & MAX_MOFFSET),
        };
        Segment { zeroed, length, moffset, ..Segment::INVALID }
    }

    /// What record `number` says, if it is a note. One that speaks of records behind itself is none.
    pub fn of(record: &Segment, number: u64) -> Option<Note> {
        if !record.is_invalid() {
            return None;
        }
        match (record.zeroed, record.length) {
            (true, 0) => Some(Note::Durable(record.moffset)),
            (true, 1) => Some(Note::Data(record.moffset)),
            (false, 1) => return Some(Note::Boot(record.moffset)),
            _ => None,
        }
        .filter(|_| record.moffset <= number)
    }
}
