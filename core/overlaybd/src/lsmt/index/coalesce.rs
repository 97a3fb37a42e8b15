//! The merge rule for neighbouring entries: what a commit folds before it writes an index.

use crate::lsmt::segment::{Segment, MAX_LENGTH};

/// Folds neighbouring entries in one greedy pass from left to right.
///
/// Format: lsmt, "Merge rule for neighbouring entries". The result depends on the pieces that come
/// in, not only on what they cover: writers that want equal files feed equal pieces.
pub fn coalesce(segments: impl IntoIterator<Item = Segment>) -> Vec<Segment> {
    let mut merged = Vec::new();
    for segment in segments {
        push_coalesced(&mut merged, segment);
    }
    merged
}

/// Appends one entry by the rule of [`coalesce`]: it is folded into the last one where it continues it.
pub fn push_coalesced(merged: &mut Vec<Segment>, next: Segment) {
    match merged.last_mut() {
        Some(last) if continues(last, &next) => last.length += next.length,
        _ => merged.push(next),
    }
}

/// Whether one entry can say both. The sum stays below the longest length: strictly, as upstream does.
fn continues(last: &Segment, next: &Segment) -> bool {
    last.end() == next.offset
        && last.mend() == next.moffset
        && last.zeroed == next.zeroed
        && last.tag == next.tag
        && last.length + next.length < MAX_LENGTH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(offset: u64, length: u32, moffset: u64) -> Segment {
        Segment { offset, length, moffset, zeroed: false, tag: 0 }
    }

    fn zero(offset: u64, length: u32, moffset: u64) -> Segment {
        Segment { zeroed: true, ..data(offset, length, moffset) }
    }

    #[test]
    fn worked_example_of_commit() {
        let pieces = [data(0, 4, 8), data(4, 6, 12), zero(10, 4, 18)];
        assert_eq!(coalesce(pieces), [data(0, 10, 8), zero(10, 4, 18)]);
    }

    #[test]
    fn only_entries_that_continue_one_another_are_folded() {
        let apart = [
            [data(0, 8, 8), data(9, 8, 16)],
            [data(0, 8, 8), data(8, 8, 17)],
            [data(0, 8, 8), zero(8, 8, 16)],
            [zero(0, 8, 8), zero(8, 8, 16)],
            [data(0, 8, 8), Segment { tag: 1, ..data(8, 8, 16) }],
        ];
        for pair in apart {
            assert_eq!(coalesce(pair), pair);
        }
        assert_eq!(coalesce([zero(0, 8, 8), zero(8, 8, 8)]), [zero(0, 16, 8)]);
    }

    #[test]
    fn a_long_run_of_chunks_yields_entries_of_255_chunks() {
        let chunks = (0..600).map(|n| data(n * 64, 64, 8 + n * 64));
        let lengths: Vec<u32> = coalesce(chunks).iter().map(|s| s.length).collect();
        assert_eq!(lengths, [16320, 16320, 5760]);
    }

    #[test]
    fn the_longest_folded_entry_is_one_short_of_the_longest_entry() {
        assert_eq!(coalesce([data(0, 16381, 8), data(16381, 1, 16389)]), [data(0, 16382, 8)]);
        assert_eq!(coalesce([data(0, 16382, 8), data(16382, 1, 16390)]).len(), 2);
    }
}
