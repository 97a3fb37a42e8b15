//! What was written of a device, in few words.

use std::ops::Range;

/// Parts that may gather before they are merged.
const MERGE: usize = 4096;

/// Parts of a device, in bytes.
#[derive(Default)]
pub(super) struct Written {
    parts: Vec<Range<u64>>,
    /// How many there were when they were last merged.
    merged: usize,
}

impl Written {
    pub fn add(&mut self, offset: u64, len: u64) {
        match self.parts.last_mut() {
            Some(last) if last.end == offset => last.end += len,
            _ => self.parts.push(offset..offset + len),
        }
        if self.parts.len() > 2 * self.merged + MERGE {
            self.merge();
        }
    }

    /// All of them, in order, none touching another.
    pub fn parts(&mut self) -> Vec<Range<u64>> {
        self.merge();
        self.parts.clone()
    }

    fn merge(&mut self) {
        self.parts.sort_unstable_by_key(|part| part.start);
        self.parts.dedup_by(|next, kept| {
            let touch = next.start <= kept.end;
            if touch {
                kept.end = kept.end.max(next.end);
            }
            touch
        });
        self.merged = self.parts.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_merged_in_order() {
        let mut written = Written::default();
        for (offset, len) in [(40, 10), (50, 5), (0, 8), (8, 2), (42, 3), (20, 1)] {
            written.add(offset, len);
        }
        assert_eq!(written.parts(), [0..10, 20..21, 40..55]);
        (0..3 * MERGE as u64).rev().for_each(|n| written.add(n * 2, 2));
        assert!(written.parts.len() <= MERGE + 4);
        assert_eq!(written.parts().len(), 1);
    }
}
