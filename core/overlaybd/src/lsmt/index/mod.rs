//! Indexes: which file holds a sector range. `Index` is merged and immutable, `MutableIndex` is the
//! ordered map of a writable layer.

use std::collections::BTreeMap;
use std::ops::Range;

use super::segment::Segment;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_LAYERS, MAX_RW_ENTRIES};

mod check;
mod coalesce;

pub use check::check_entries;
pub use coalesce::{coalesce, push_coalesced};

/// An immutable, searchable index: sorted by offset, without overlaps or zero-length entries.
#[derive(Clone, Debug, Default)]
pub struct Index {
    segments: Vec<Segment>,
}

impl Index {
    /// Takes entries that are sorted and do not overlap (the caller has checked them). Zero-length
    /// entries and padding are left out.
    pub fn from_sorted(segments: impl IntoIterator<Item = Segment>) -> Index {
        Index { segments: segments.into_iter().filter(|s| s.length > 0 && !s.is_invalid()).collect() }
    }

    /// The merged view of several layers, topmost first: gaps of a layer are filled by the next one,
    /// entries are trimmed at the edges, and the tag of each becomes the number of its layer (0 = top).
    ///
    /// Each layer is sorted and does not overlap itself (the caller has checked it).
    ///
    /// # Errors
    /// `Limit` with more than [`MAX_LAYERS`] layers or [`MAX_RW_ENTRIES`] entries in the result.
    pub fn merge(layers: &[&[Segment]]) -> Result<Index> {
        if layers.len() > MAX_LAYERS {
            return Err(Error::new(Kind::Limit, format!("{} layers; at most {MAX_LAYERS} make a stack", layers.len())));
        }
        let mut map = MutableIndex::default();
        for (tag, layer) in layers.iter().enumerate().rev() {
            for segment in layer.iter().filter(|s| s.length > 0) {
                map.insert(Segment { tag: tag as u8, ..*segment });
            }
        }
        if map.len() as u64 > MAX_RW_ENTRIES {
            return Err(Error::new(Kind::Limit, format!("merged index of {} entries", map.len())));
        }
        Ok(Index::from_sorted(map.iter()))
    }

    /// This merged index with one more layer on top, as a restack needs it: the entries of `layer` get
    /// tag 0, the tags of this index rise by one.
    ///
    /// # Errors
    /// `Limit` as [`Index::merge`], the tags of this index counting as layers.
    pub fn with_layer_on_top(&self, layer: &[Segment]) -> Result<Index> {
        let mut map = MutableIndex::default();
        for segment in self.iter() {
            if usize::from(segment.tag) + 1 >= MAX_LAYERS {
                return Err(Error::new(Kind::Limit, format!("more than {MAX_LAYERS} layers in a stack")));
            }
            map.insert(Segment { tag: segment.tag + 1, ..segment });
        }
        for segment in layer {
            map.insert(Segment { tag: 0, ..*segment });
        }
        Ok(Index::from_sorted(map.iter()))
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
