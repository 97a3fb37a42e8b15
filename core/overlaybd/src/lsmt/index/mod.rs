//! Indexes: which file holds a sector range. `Index` is merged and immutable, `MutableIndex` is the
//! ordered map of a writable layer.

use std::ops::Range;

use super::segment::{Segment, INVALID_OFFSET, MAX_LENGTH};
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_LAYERS;

mod check;
mod coalesce;
mod kernels;
mod mutable;
mod overlay;
mod search;
#[cfg(test)]
mod tests;

pub use check::check_entries;
pub use coalesce::{coalesce, push_coalesced};
pub use kernels::Form;
pub use mutable::MutableIndex;
use search::Tree;

/// Bits of a key that hold the length; the rest is the offset.
const LENGTH_BITS: u32 = 14;

/// An immutable, searchable index: sorted by offset, without overlaps or zero-length entries.
///
/// An entry is two words in two arrays: a key (`end << 14 | length`, so that keys sort as entries do, and
/// the first entry that ends behind a sector is found by counting those that do not) in a static search
/// tree, and a place (the second word as it is on disk).
#[derive(Clone, Debug, Default)]
pub struct Index {
    tree: Tree,
    places: Vec<u64>,
}

impl Index {
    /// Takes entries that are sorted and do not overlap (the caller has checked them). Zero-length
    /// entries and padding are left out.
    pub fn from_sorted(segments: impl IntoIterator<Item = Segment>) -> Index {
        let segments = segments.into_iter().filter(|s| s.length > 0 && !s.is_invalid());
        let mut places = Vec::with_capacity(segments.size_hint().0);
        let tree = Tree::build(segments.map(|segment| {
            let bytes = segment.to_bytes();
            places.push(u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes")));
            segment.end() << LENGTH_BITS | u64::from(segment.length)
        }));
        places.shrink_to_fit();
        Index { tree, places }
    }

    /// The merged view of several layers, topmost first: gaps of a layer are filled by the next one,
    /// entries are trimmed at the edges, and the tag of each becomes the number of its layer (0 = top).
    ///
    /// Each layer is sorted and does not overlap itself (the caller has checked it).
    ///
    /// # Errors
    /// `Limit` with more than [`MAX_LAYERS`] layers or more entries than a merged index may have.
    pub fn merge(layers: &[&[Segment]]) -> Result<Index> {
        if layers.len() > MAX_LAYERS {
            return Err(Error::new(Kind::Limit, format!("{} layers; at most {MAX_LAYERS} make a stack", layers.len())));
        }
        Ok(Index::from_sorted(overlay::merge(layers, 0)?))
    }

    /// This merged index with one more layer on top, as a restack needs it: the entries of `layer` get
    /// tag 0, the tags of this index rise by one.
    ///
    /// # Errors
    /// `Limit` as [`Index::merge`], the tags of this index counting as layers.
    pub fn with_layer_on_top(&self, layer: &[Segment]) -> Result<Index> {
        if self.iter().any(|segment| usize::from(segment.tag) + 1 >= MAX_LAYERS) {
            return Err(Error::new(Kind::Limit, format!("more than {MAX_LAYERS} layers in a stack")));
        }
        let top = overlay::merge(&[layer], 0)?;
        let below = self.iter().map(|segment| Segment { tag: segment.tag + 1, ..segment });
        Ok(Index::from_sorted(overlay::overlay(&top, below)?))
    }

    /// Calls `f` for each piece of the range that an entry covers, in ascending order, the first and
    /// last trimmed to the range. Sectors without a call are holes.
    #[inline]
    pub fn lookup(&self, range: Range<u64>, mut f: impl FnMut(Segment)) {
        if range.is_empty() || range.start >= INVALID_OFFSET {
            return;
        }
        let mut at = self.position(range.start);
        while at < self.len() {
            let segment = self.get(at);
            if segment.offset >= range.end {
                break;
            }
            f(segment.clip(range.start, range.end));
            at += 1;
        }
    }

    /// Position, among all entries, of the first one that ends behind `sector` (at most 2^50).
    #[inline]
    pub fn position(&self, sector: u64) -> usize {
        // Those that end at or before it, whatever their length, are the ones that are passed over.
        self.tree.count_up_to(sector << LENGTH_BITS | u64::from(MAX_LENGTH))
    }

    #[inline]
    fn get(&self, at: usize) -> Segment {
        let (key, place) = (self.tree.key(at), self.places[at]);
        let length = key & u64::from(MAX_LENGTH);
        Segment {
            offset: (key >> LENGTH_BITS) - length,
            length: length as u32,
            moffset: place & super::segment::MAX_MOFFSET,
            zeroed: place >> 55 & 1 == 1,
            tag: (place >> 56) as u8,
        }
    }

    /// Searches by another form from now on, for tests and measurements. False if this processor
    /// does not have it; then nothing changes.
    pub fn use_form(&mut self, form: Form) -> bool {
        self.tree.use_form(form)
    }

    /// All entries in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True if no sector is mapped.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of memory that the index holds.
    pub fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<u64>() + self.tree.memory_bytes()
    }
}
