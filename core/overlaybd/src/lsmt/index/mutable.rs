//! The index of a writable layer: an ordered map in which a later entry wins.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::lsmt::segment::Segment;

/// The index of a writable layer: an ordered map in which a later entry wins.
#[derive(Clone, Debug, Default)]
pub struct MutableIndex {
    map: BTreeMap<u64, Segment>,
}

impl MutableIndex {
    /// Adds an entry; it removes, trims or splits whatever it overlaps. Zero-length entries and
    /// padding are ignored.
    pub fn insert(&mut self, segment: Segment) {
        if segment.length == 0 || segment.is_invalid() {
            return;
        }
        let (start, end) = (segment.offset, segment.end());
        let before = self.map.range(..start).next_back().map(|(_, s)| *s).filter(|s| s.end() > start);
        if let Some(old) = before {
            self.map.insert(old.offset, old.clip(old.offset, start));
            if old.end() > end {
                self.map.insert(end, old.clip(end, old.end()));
            }
        }
        while let Some(old) = self.map.range(start..end).next().map(|(_, s)| *s) {
            self.map.remove(&old.offset);
            if old.end() > end {
                self.map.insert(end, old.clip(end, old.end()));
            }
        }
        self.map.insert(start, segment);
    }

    /// As [`Index::lookup`].
    pub fn lookup(&self, range: Range<u64>, mut f: impl FnMut(Segment)) {
        if range.is_empty() {
            return;
        }
        let first = self.map.range(..range.start).next_back().map_or(range.start, |(k, _)| *k);
        for segment in self.map.range(first..range.end).map(|(_, s)| *s) {
            if segment.end() > range.start {
                f(segment.clip(range.start, range.end));
            }
        }
    }

    /// All entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        self.map.values().copied()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if no sector is mapped.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}
