//! Read-only layers on top of one another, as one device.
//!
//! Format: lsmt, "Read-only stack".

use std::ops::Range;
use std::sync::Arc;

use super::index::Index;
use super::layer::Layer;
use super::segment::Segment;
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_DEVICE_BYTES, MAX_LAYERS, SECTOR};

/// Up to 255 layers and their merged index.
pub struct Stack {
    /// Topmost first: the position is the tag of the index.
    blobs: Vec<Arc<dyn Blob>>,
    index: Index,
    virtual_size: u64,
}

impl Stack {
    /// Merges layers, bottom first. Their own indexes are dropped; memory is that of the merged one.
    ///
    /// # Errors
    /// `Invalid` without a layer, `Limit` with too many or with too large a merged index.
    pub fn new(layers: Vec<Layer>) -> Result<Stack> {
        if layers.is_empty() {
            return Err(Error::new(Kind::Invalid, "a stack needs at least one layer"));
        }
        if layers.len() > MAX_LAYERS {
            let what = format!("{} layers; at most {MAX_LAYERS} can be stacked", layers.len());
            return Err(Error::new(Kind::Limit, what));
        }
        let mut sizes = layers.iter().rev().map(|l| l.trailer().virtual_size);
        let virtual_size = sizes.find(|size| *size > 0).unwrap_or(0);
        let indexes: Vec<&[Segment]> = layers.iter().rev().map(Layer::segments).collect();
        let index = Index::merge(&indexes)?;
        let blobs = layers.iter().rev().map(|l| l.blob().clone()).collect();
        Ok(Stack { blobs, index, virtual_size })
    }

    /// This stack with one more layer on top, for a restack; this one stays as it is.
    ///
    /// # Errors
    /// `Limit` as [`Stack::new`].
    pub fn with_layer_on_top(&self, layer: &Layer) -> Result<Stack> {
        let index = self.index.with_layer_on_top(layer.segments())?;
        let blobs = std::iter::once(layer.blob()).chain(&self.blobs).cloned().collect();
        let own = layer.trailer().virtual_size;
        Ok(Stack { blobs, index, virtual_size: if own > 0 { own } else { self.virtual_size } })
    }

    /// Bytes of the device: what the topmost layer that names a size says; 0 if none does.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The layers' blobs, topmost first: the tag of an index entry is a position in this list.
    pub fn blobs(&self) -> &[Arc<dyn Blob>] {
        &self.blobs
    }

    /// The merged index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Fills `buf` from byte `offset` of the device on; both must be multiples of 512. What no layer
    /// holds is zeros, also beyond the virtual size: the caller knows the size of its device.
    ///
    /// # Errors
    /// `OutOfBounds` for odd numbers; else what the layer's blob says, with the number of the layer
    /// (1 is the bottom one) and the place in the device.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let range = sectors(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut rest = buf;
        let mut at = range.start;
        let mut result = Ok(());
        self.index.lookup(range, |piece| {
            if result.is_err() {
                return;
            }
            take(&mut rest, piece.offset - at).fill(0);
            at = piece.end();
            let part = take(&mut rest, piece.length.into());
            if piece.zeroed {
                part.fill(0);
            } else {
                result = self.read_piece(&piece, part);
            }
        });
        result?;
        rest.fill(0);
        Ok(())
    }

    fn read_piece(&self, piece: &Segment, part: &mut [u8]) -> Result<()> {
        let blob = &self.blobs[usize::from(piece.tag)];
        blob.read_at(part, piece.moffset * SECTOR).map_err(|e| {
            let number = self.blobs.len() - usize::from(piece.tag);
            let place = piece.offset * SECTOR;
            e.in_file(blob.name()).context(format!("layer {number} of {}, device offset {place}", self.blobs.len()))
        })
    }

    /// Whether a read of this range (bytes) would be answered without waiting for a network.
    pub fn is_ready(&self, offset: u64, len: u64) -> bool {
        let range = offset / SECTOR..offset.saturating_add(len).div_ceil(SECTOR);
        let mut ready = true;
        self.index.lookup(range, |piece| {
            let blob = &self.blobs[usize::from(piece.tag)];
            let bytes = u64::from(piece.length) * SECTOR;
            ready = ready && (piece.zeroed || blob.is_ready(piece.moffset * SECTOR, bytes));
        });
        ready
    }
}

/// Bytes to sectors.
///
/// # Errors
/// `OutOfBounds` if either number is no multiple of 512, or their sum is beyond what an offset can say.
pub(super) fn sectors(offset: u64, len: u64) -> Result<Range<u64>> {
    match offset.checked_add(len) {
        Some(end) if offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) => Ok(offset / SECTOR..end / SECTOR),
        _ => {
            let what = format!("{len} bytes at {offset} are not a range of whole sectors");
            Err(Error::new(Kind::OutOfBounds, what))
        }
    }
}

/// Refuses the size of a device, in bytes, to whose end index entries do not reach.
///
/// # Errors
/// `Limit` beyond [`MAX_DEVICE_BYTES`].
pub(super) fn check_size(size: u64) -> Result<()> {
    if size <= MAX_DEVICE_BYTES {
        return Ok(());
    }
    let what = format!("a device of {size} bytes; index entries reach to {MAX_DEVICE_BYTES}");
    Err(Error::new(Kind::Limit, what))
}

/// Splits `count` sectors off the front of `rest`.
pub(super) fn take<'a>(rest: &mut &'a mut [u8], count: u64) -> &'a mut [u8] {
    let (part, behind) = std::mem::take(rest).split_at_mut((count * SECTOR) as usize);
    *rest = behind;
    part
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::blob::testing::Asked;
    use crate::lsmt::testing::layer_of;

    #[test]
    fn what_is_ready_is_what_the_layers_say_of_the_pieces() {
        // Eight sectors below, of which the top hides the first two.
        let layers = [[1; 4096].as_slice(), [2; 1024].as_slice()].map(|device| Arc::new(Asked::new(layer_of(device))));
        let stack = Stack::new(layers.iter().map(|blob| Layer::open(blob.clone()).unwrap()).collect()).unwrap();
        let ready = |bottom: u64, top: u64, offset, len| {
            layers[0].ready.store(4096 + bottom, Relaxed);
            layers[1].ready.store(4096 + top, Relaxed);
            stack.is_ready(offset, len)
        };
        assert!(ready(0, 0, 0, 4096));
        assert!(!ready(0, 1, 0, 512) && ready(0, 512, 512, 512) && !ready(0, 512, 511, 1));
        assert!(!ready(1025, 0, 1024, 512), "its first byte is not");
        assert!(ready(1024, 0, 0, 1025) && ready(9999, 0, 0, 1024) && !ready(9999, 0, 0, 1025));
        assert!(!ready(3072, 0, 2048, 1536) && ready(3072, 0, 3072, 1024) && !ready(3073, 0, 3072, 1024));
        assert!(ready(9999, 9999, 4096, 1 << 20) && ready(9999, 9999, 0, 0), "holes are there");
    }
}
