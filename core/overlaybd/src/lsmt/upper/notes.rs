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

    /// What record `number` says, if it is a note: just as it is written, and not of records behind itself.
    pub fn of(record: &Segment, number: u64) -> Option<Note> {
        let Segment { zeroed, length, moffset, .. } = *record;
        let note = match (zeroed, length, moffset) {
            (true, 0, records) if records <= number => Note::Durable(records),
            (true, 1, records) if records <= number => Note::Data(records),
            (false, 1, 1..) => Note::Boot(moffset),
            _ => return None,
        };
        (note.record() == *record).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        for note in [Note::Durable(0), Note::Durable(5), Note::Data(4), Note::Boot(1), Note::Boot(MAX_MOFFSET)] {
            assert_eq!(Note::of(&note.record(), 5), Some(note));
        }
        for note in [Note::Durable(6), Note::Data(6)] {
            assert_eq!(Note::of(&note.record(), 5), None, "{note:?} of what comes behind it");
        }
    }

    #[test]
    fn other_padding_is_no_note() {
        let boot = Note::Boot(9).record();
        let others = [
            Segment::INVALID,
            Segment { offset: 0, ..boot },
            Segment { length: 2, ..boot },
            Segment { tag: 1, ..boot },
            Segment { moffset: 0, ..boot },
            Segment { tag: OURS, ..Note::Durable(3).record() },
            Segment { length: 2, ..Note::Data(3).record() },
        ];
        for record in others {
            assert_eq!(Note::of(&record, 5), None, "{record:?}");
        }
    }
}
