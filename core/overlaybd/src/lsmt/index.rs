//! Indexes: which file holds a sector range. `Index` is merged and immutable, `MutableIndex` is the
//! ordered map of a writable layer.

use std::collections::BTreeMap;
use std::ops::Range;

use super::segment::Segment;

/// An immutable, searchable index: sorted by offset, without overlaps or zero-length entries.
#[derive(Clone, Debug, Default)]
pub struct Index {
    segments: Vec<Segment>,
}

impl Index {
    /// Takes entries that are sorted and do not overlap (the caller has checked them).
    pub fn from_sorted(segments: Vec<Segment>) -> Index {
        Index { segments }
    }

    /// The merged view of several layers, topmost first: gaps of a layer are filled by the next one,
    /// entries are trimmed at the edges, and the tag of each becomes the number of its layer (0 = top).
    pub fn merge(layers: &[&[Segment]]) -> Index {
        let mut map = MutableIndex::default();
        for (tag, layer) in layers.iter().enumerate().rev() {
            for segment in layer.iter().filter(|s| s.length > 0) {
                map.insert(Segment { tag: tag as u8, ..*segment });
            }
        }
        Index::from_sorted(map.iter().collect())
    }

    /// Calls `f` for each piece of the range that an entry covers, in ascending order, the first and
    /// last trimmed to the range. Sectors without a call are holes.
    pub fn lookup(&self, range: Range<u64>, mut f: impl FnMut(Segment)) {
        let first = self.segments.partition_point(|s| s.end() <= range.start);
        for segment in &self.segments[first..] {
            if segment.offset >= range.end {
                break;
            }
            f(segment.clip(range.start, range.end));
        }
    }

    /// All entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        self.segments.iter().copied()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// True if no sector is mapped.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes of memory that the index holds.
    pub fn memory_bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>()
    }
}

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
        let inside: Vec<Segment> = self.map.range(start..end).map(|(_, s)| *s).collect();
        for old in inside {
            self.map.remove(&old.offset);
            if old.end() > end {
                self.map.insert(end, old.clip(end, old.end()));
            }
        }
        self.map.insert(start, segment);
    }

    /// As [`Index::lookup`].
    pub fn lookup(&self, range: Range<u64>, mut f: impl FnMut(Segment)) {
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
