//! A finished layer, open for reading: committed, or a writable one that was sealed.
//!
//! Format: lsmt, "Which of header and trailer is used" and "Validity rules for a loaded index".

use std::sync::Arc;

use super::header::{Header, BLOCK_BYTES, DATA, FIRST_DATA_SECTOR, HEADER, SEALED};
use super::index::check_entries;
use super::segment::{Segment, ENTRY_BYTES, INVALID_OFFSET};
use super::warp;
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_RO_ENTRIES, SECTOR};

/// A read-only layer. Its index is kept as loaded until a stack has merged it.
pub struct Layer {
    blob: Arc<dyn Blob>,
    header: Header,
    trailer: Header,
    segments: Vec<Segment>,
}

impl Layer {
    /// Opens a layer whose wrappers (tar, zfile) have been peeled off. Reads the header, the trailer
    /// and the index: three reads.
    ///
    /// # Errors
    /// `Corrupt` for anything that the format does not allow, `Unsupported` for LSMT files that are
    /// no finished layer, `Limit` for too large an index, `Io` from the blob. All name the blob.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Layer> {
        let (header, trailer, mut segments) = load(&*blob, |segments, end| {
            if warp::is_warp(segments, end) {
                let what = "a turboOCI layer, which cannot be read without its target";
                return Err(Error::new(Kind::Unsupported, what));
            }
            check(segments, Some(end), true)
        })?;
        for segment in &mut segments {
            segment.tag = 0;
        }
        Ok(Layer { blob, header, trailer, segments })
    }

    /// A layer of a writable one's parts; `segments` are sorted and checked.
    pub(super) fn from_parts(blob: Arc<dyn Blob>, header: Header, trailer: Header, segments: Vec<Segment>) -> Layer {
        Layer { blob, header, trailer, segments }
    }

    /// The blob that holds the layer.
    pub fn blob(&self) -> &Arc<dyn Blob> {
        &self.blob
    }

    /// The block at the beginning. Commit and merge take size and parent from it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The block at the end: what the layer says of itself.
    pub fn trailer(&self) -> &Header {
        &self.trailer
    }

    /// The index: sorted, checked, without padding, all tags 0.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Reads header, trailer and index of a finished layer. `check` gets the entries, without padding and with their tags,
/// and the sector where data ends.
///
/// # Errors
/// As [`Layer::open`], and those of `check`; all name the blob.
pub(super) fn load(
    blob: &dyn Blob,
    check: impl FnOnce(&[Segment], u64) -> Result<()>,
) -> Result<(Header, Header, Vec<Segment>)> {
    let at_end = |e: Error| e.in_file(blob.name());
    let header = read_header(blob)?;
    let trailer_at = blob.len().checked_sub(BLOCK_BYTES as u64).filter(|at| *at >= BLOCK_BYTES as u64);
    let Some(trailer_at) = trailer_at else {
        let what = "a header and nothing more: not a finished layer (not committed, not sealed)";
        return Err(at_end(Error::new(Kind::Unsupported, what).at(0)));
    };
    let trailer = read_trailer(blob, trailer_at).map_err(at_end)?;
    let segments = load_index(blob, &trailer, trailer_at).map_err(at_end)?;
    let end = trailer.index_offset / SECTOR;
    check(&segments, end).map_err(|e| at_end(e.at(trailer.index_offset)))?;
    Ok((header, trailer, segments))
}

/// Reads and checks the block at offset 0 of a data file.
pub(super) fn read_header(blob: &dyn Blob) -> Result<Header> {
    let fail = |e: Error| e.in_file(blob.name()).at(0);
    if blob.len() < BLOCK_BYTES as u64 {
        return Err(fail(Error::corrupt(format!("{} bytes are too few for a layer", blob.len()))));
    }
    let mut block = [0; BLOCK_BYTES];
    blob.read_at(&mut block, 0)?;
    let header = Header::parse(&block).map_err(fail)?;
    if !header.has(HEADER) {
        return Err(fail(Error::corrupt("the block at the start is a trailer")));
    }
    if !header.has(DATA) {
        return Err(fail(Error::new(Kind::Unsupported, "an index file, where a layer is wanted")));
    }
    Ok(header)
}

fn read_trailer(blob: &dyn Blob, at: u64) -> Result<Header> {
    let mut block = [0; BLOCK_BYTES];
    blob.read_at(&mut block, at)?;
    if !Header::has_magic(&block) {
        let what = "no trailer at the end: cut short, or a writable layer that was never committed or sealed";
        return Err(Error::corrupt(what).at(at));
    }
    let trailer = Header::parse(&block)?;
    if trailer.flags & (HEADER | DATA | SEALED) != DATA | SEALED {
        let what = format!("the last block is no trailer of a finished layer (flags {:#x})", trailer.flags);
        return Err(Error::corrupt(what).at(at));
    }
    Ok(trailer)
}

/// Reads the index in one go, without padding; the caller checks the entries and names the file.
fn load_index(blob: &dyn Blob, trailer: &Header, trailer_at: u64) -> Result<Vec<Segment>> {
    let (offset, entries) = (trailer.index_offset, trailer.index_entries);
    if entries == 0 {
        return Ok(Vec::new());
    }
    if entries > MAX_RO_ENTRIES {
        let what = format!("index of {entries} entries; at most {MAX_RO_ENTRIES} are allowed");
        return Err(Error::new(Kind::Limit, what).at(trailer_at));
    }
    let bytes = entries * ENTRY_BYTES as u64;
    if offset.checked_add(bytes).is_none_or(|end| end > trailer_at) {
        return Err(
            Error::corrupt(format!("index of {entries} entries at {offset} runs into the trailer")).at(trailer_at)
        );
    }
    let mut raw = vec![0; bytes as usize];
    blob.read_at(&mut raw, offset)?;
    let mut segments: Vec<Segment> = Vec::with_capacity(entries as usize);
    segments.extend(decode(&raw).filter(|s| !s.is_invalid()));
    Ok(segments)
}

/// The entries in raw bytes; an incomplete last one is ignored.
pub(super) fn decode(raw: &[u8]) -> impl Iterator<Item = Segment> + '_ {
    raw.chunks_exact(ENTRY_BYTES).map(|bytes| Segment::from_bytes(bytes.try_into().expect("sixteen bytes")))
}

/// The validity rules of a file with a header, and [`check_end`].
pub(super) fn check(segments: &[Segment], end_moffset: Option<u64>, ordered: bool) -> Result<()> {
    check_entries(segments, FIRST_DATA_SECTOR, end_moffset, ordered)?;
    check_end(segments)
}

/// Refuses entries that reach the reserved offset.
pub(super) fn check_end(segments: &[Segment]) -> Result<()> {
    match segments.iter().position(|s| !s.is_invalid() && s.end() > INVALID_OFFSET) {
        Some(number) => Err(Error::corrupt(format!("index entry {number} reaches beyond the last legal sector"))),
        None => Ok(()),
    }
}
