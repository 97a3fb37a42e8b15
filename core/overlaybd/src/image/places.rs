//! Whose bytes a range of an image is made of: the same place of the same layer holds the same bytes.

use std::ops::Range;

use super::layers::{Held, Layers};
use super::Image;
use crate::limits::SECTOR;
use crate::lsmt::Stack;

/// A part of an image that holds bytes: the position of its lower, 0 for the bottom one, None for an upper; and where
/// in that layer its first sector lies, in bytes.
pub type Part = (Option<usize>, u64);

impl Image {
    /// Calls `each` with the end (a byte of the device) of every part of a range, in order, and what it is; None for
    /// zeros. The parts are made of whole sectors.
    pub fn places(&self, offset: u64, len: u64, each: &mut dyn FnMut(u64, Option<Part>)) {
        let range = offset / SECTOR..offset.saturating_add(len).div_ceil(SECTOR);
        self.present.with(|layers: &Layers| {
            layers.walk(range, &mut |part| match part {
                Held::Upper { end, zeroed } => each(end * SECTOR, (!zeroed).then_some((None, 0))),
                Held::Below(range) => below(layers.lowers.as_deref(), range, each),
            });
        });
    }
}

fn below(lowers: Option<&Stack>, range: Range<u64>, each: &mut dyn FnMut(u64, Option<Part>)) {
    if range.is_empty() {
        return;
    }
    if let Some(lowers) = lowers {
        let layers = lowers.blobs().len();
        lowers.index().lookup(range.clone(), |piece| {
            each(piece.offset * SECTOR, None);
            let position = layers - 1 - usize::from(piece.tag);
            each(piece.end() * SECTOR, (!piece.zeroed).then_some((Some(position), piece.moffset * SECTOR)));
        });
    }
    each(range.end * SECTOR, None);
}
