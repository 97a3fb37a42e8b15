//! From records to fetches: what lies close together becomes one, and each is made once, in the order of first use.

use super::format::Record;
use crate::limits::{MAX_PREFETCH_BYTES, MAX_PREFETCH_PIECES};

/// What is cut at such boundaries, so that a piece is fetched in one go.
const UNIT: u64 = MAX_PREFETCH_BYTES as u64;

/// Bytes that nobody asked for between two ranges of one piece: the cache fetches more than a range at a time anyway.
const MAX_GAP: u64 = 64 << 10;

/// A range of one layer, to be fetched in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the layer; 0 is the bottom one.
    pub layer: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes; at most a unit.
    pub len: u64,
}

/// The pieces that cover `records` in an image whose layers have `lens` bytes, and how many records lie outside of it
/// (in part too), which are those of another image, or made up.
pub fn plan(records: &[Record], lens: &[u64]) -> (Vec<Piece>, usize) {
    let (mut parts, mut outside) = (Vec::new(), 0);
    for (rank, record) in records.iter().enumerate() {
        let len = lens.get(record.layer as usize).copied().unwrap_or(0);
        let wanted = record.offset.saturating_add(record.len);
        outside += usize::from(wanted > len);
        let (mut at, end) = (record.offset, wanted.min(len));
        while at < end && parts.len() < MAX_PREFETCH_PIECES {
            let stop = ((at / UNIT + 1) * UNIT).min(end);
            parts.push((Piece { layer: record.layer, offset: at, len: stop - at }, rank));
            at = stop;
        }
    }
    parts.sort_unstable_by_key(|(piece, _)| (piece.layer, piece.offset));
    let mut merged: Vec<(Piece, usize)> = Vec::new();
    for (part, rank) in parts {
        match merged.last_mut() {
            Some((piece, first)) if joins(piece, &part) => {
                piece.len = piece.len.max(part.offset + part.len - piece.offset);
                *first = rank.min(*first);
            }
            _ => merged.push((part, rank)),
        }
    }
    merged.sort_by_key(|(_, rank)| *rank);
    (merged.into_iter().map(|(piece, _)| piece).collect(), outside)
}

/// Whether `next`, which begins no earlier, is fetched together with `piece`.
fn joins(piece: &Piece, next: &Piece) -> bool {
    piece.layer == next.layer
        && piece.offset / UNIT == next.offset / UNIT
        && next.offset <= piece.offset + piece.len + MAX_GAP
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(layer: u32, offset: u64, len: u64) -> Record {
        Record { layer, offset, len }
    }

    fn piece(layer: u32, offset: u64, len: u64) -> Piece {
        Piece { layer, offset, len }
    }

    #[test]
    fn first_use_decides_the_order_and_neighbours_go_together() {
        let records = [record(1, 900_000, 4096), record(0, 4096, 4096), record(1, 0, 10), record(1, 920_000, 300_000)];
        let (pieces, outside) = plan(&records, &[1 << 20, 4 << 20]);
        let unit = UNIT;
        let expected = [
            piece(1, 900_000, unit - 900_000),
            piece(0, 4096, 4096),
            piece(1, 0, 10),
            piece(1, unit, 920_000 + 300_000 - unit),
        ];
        assert_eq!((pieces, outside), (expected.to_vec(), 0));
    }

    #[test]
    fn what_lies_outside_is_cut_off() {
        let records = [record(0, 50, 100), record(1, 0, 1), record(0, 100, 1), record(0, u64::MAX, u64::MAX)];
        assert_eq!(plan(&records, &[100]), (vec![piece(0, 50, 50)], 4));
        let (pieces, outside) = plan(&[record(0, 0, u64::MAX)], &[u64::MAX]);
        assert_eq!((pieces.len(), outside), (MAX_PREFETCH_PIECES, 0));
    }

    proptest! {
        #[test]
        fn every_byte_asked_for_is_in_one_piece(
            raw in prop::collection::vec((0u32..3, 0u64..5 << 20, 1u64..2 << 20), 0..40),
        ) {
            let lens = [4 << 20, 3 << 20];
            let records: Vec<_> = raw.into_iter().map(|(layer, offset, len)| record(layer, offset, len)).collect();
            let (pieces, _) = plan(&records, &lens);
            let mut sorted = pieces.clone();
            sorted.sort_by_key(|p| (p.layer, p.offset));
            for pair in sorted.windows(2) {
                prop_assert!(pair[0].layer < pair[1].layer || pair[0].offset + pair[0].len <= pair[1].offset);
            }
            for p in &pieces {
                prop_assert!(p.len > 0 && p.len <= UNIT && p.offset + p.len <= lens[p.layer as usize]);
            }
            for r in &records {
                let Some(len) = lens.get(r.layer as usize) else { continue };
                let mut at = r.offset;
                while at < (r.offset + r.len).min(*len) {
                    let holds = |p: &&Piece| p.layer == r.layer && (p.offset..p.offset + p.len).contains(&at);
                    let holder = pieces.iter().find(holds);
                    prop_assert!(holder.is_some(), "{r:?} at {at}");
                    at = holder.map_or(u64::MAX, |p| p.offset + p.len);
                }
            }
        }
    }
}
