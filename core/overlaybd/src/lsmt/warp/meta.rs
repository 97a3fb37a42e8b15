//! The metadata of a turboOCI layer by itself: what is committed, described and, with its target, opened.

use std::sync::Arc;

use super::join::{Join, Target};
use super::{META, REMOTE};
use crate::blob::{Blob, SliceBlob};
use crate::error::{Error, Result};
use crate::lsmt::header::{Header, FIRST_DATA_SECTOR};
use crate::lsmt::index::check_entries;
use crate::lsmt::layer::{check_end, load, Layer};
use crate::lsmt::segment::Segment;

/// Metadata of a layer whose target may be elsewhere: a finished one, or a writable one as it is at the moment.
pub struct Meta {
    blob: Arc<dyn Blob>,
    header: Header,
    trailer: Header,
    segments: Vec<Segment>,
}

impl Meta {
    /// Opens a committed layer whose wrappers (tar, zfile) have been peeled off.
    ///
    /// # Errors
    /// As [`Layer::open`]; also `Corrupt` for an entry of neither type.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Meta> {
        let (header, trailer, segments) = load(&*blob, check)?;
        Ok(Meta { blob, header, trailer, segments })
    }

    /// The metadata of a writable layer; `segments` are sorted and checked, their tags types.
    pub(in crate::lsmt) fn from_parts(blob: Arc<dyn Blob>, header: Header, segments: Vec<Segment>) -> Meta {
        Meta { blob, trailer: header.clone(), header, segments }
    }

    /// The blob that holds the metadata.
    pub fn blob(&self) -> &Arc<dyn Blob> {
        &self.blob
    }

    /// The block at the beginning: of the file, or of a writable layer's index.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What the layer says of itself.
    pub fn trailer(&self) -> &Header {
        &self.trailer
    }

    /// The index: sorted, without padding; tags are types.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The layer as it reads with its target.
    ///
    /// # Errors
    /// `Corrupt` if an entry maps beyond the end of the target.
    pub fn with_target(self, target: Arc<dyn Blob>) -> Result<Layer> {
        let Meta { blob, header, trailer, segments } = self;
        let join = Join::new(blob, Target::new(target));
        let segments = join.place(segments)?;
        Ok(Layer::from_parts(Arc::new(join), header, trailer, segments))
    }
}

/// Opens a committed layer, whose wrappers have been peeled off, with its target. `tap` may put something between the
/// layer and its bytes, which are those of the metadata and, from the next sector on, those of the target.
///
/// # Errors
/// As [`Meta::open`]; `Corrupt` if an entry maps beyond the end of the target.
pub fn open(
    meta: Arc<dyn Blob>,
    target: Arc<dyn Blob>,
    tap: impl FnOnce(Arc<dyn Blob>) -> Arc<dyn Blob>,
) -> Result<Layer> {
    let len = meta.len();
    let join = Arc::new(Join::new(meta, Target::new(target)));
    let blob = tap(join.clone());
    let Meta { header, trailer, segments, .. } = Meta::open(Arc::new(SliceBlob::new(blob.clone(), 0, len)?))?;
    let segments = join.place(segments)?;
    Ok(Layer::from_parts(blob, header, trailer, segments))
}

/// Whether the entries of a finished layer with data up to `end_sector` are those of a turboOCI layer's metadata, some
/// of which map elsewhere. Tags alone do not tell: those of a merged layer are numbers of what it was merged from.
pub(in crate::lsmt) fn is_warp(segments: &[Segment], end_sector: u64) -> bool {
    let of_type = |tag| segments.iter().filter(move |s| !s.zeroed && s.tag == tag).map(|s| u64::from(s.length));
    let own = end_sector.saturating_sub(FIRST_DATA_SECTOR);
    of_type(REMOTE).any(|length| length > 0)
        && segments.iter().all(|s| s.tag <= REMOTE)
        && of_type(META).sum::<u64>() == own
}

/// The validity rules. Where data of the layer itself ends is `end_sector`; where that of the target does is not known.
fn check(segments: &[Segment], end_sector: u64) -> Result<()> {
    check_entries(segments, 0, None, true)?;
    check_end(segments)?;
    for (number, entry) in segments.iter().enumerate() {
        let Segment { offset, length, moffset, zeroed, tag } = *entry;
        let own = tag == META && !zeroed;
        let fault = if tag > REMOTE {
            "is of a type that turboOCI layers do not have"
        } else if own && (moffset < FIRST_DATA_SECTOR || entry.mend() > end_sector) {
            "maps out of the metadata"
        } else {
            continue;
        };
        let what = format!("index entry {number} (sectors {offset}+{length}, mapped to {moffset}, type {tag}) {fault}");
        return Err(Error::corrupt(what));
    }
    Ok(())
}
