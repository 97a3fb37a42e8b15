//! What an LSMT file says of itself, for people to read.

use std::sync::Arc;

use super::header::{Header, BLOCK_BYTES, DATA, HEADER, SEALED, SPARSE};
use super::layer::{decode, load, Layer};
use super::segment::{Segment, ENTRY_BYTES};
use super::warp::{is_warp, Meta, REMOTE};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_RW_ENTRIES, SECTOR};

/// Bytes of an index file looked at in one go.
const WINDOW_BYTES: u64 = 1 << 20;

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Data packed and sorted, index and trailer behind.
    Committed,
    /// As `Committed`, of turboOCI: some of it is in a target.
    Turbo,
    /// A writable layer's data file that got index and trailer.
    Sealed,
    /// Data file of a log-structured writable layer.
    AppendData,
    /// Data file of a sparse writable layer.
    SparseData,
    /// Index file of a writable layer, or log of a sparse one.
    Index,
}

impl FileKind {
    /// The name that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Committed => "committed",
            FileKind::Turbo => "committed turboOCI",
            FileKind::Sealed => "sealed",
            FileKind::AppendData => "writable data",
            FileKind::SparseData => "writable sparse data",
            FileKind::Index => "writable index",
        }
    }
}

/// What the entries of an index amount to. In an index file they may overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexInfo {
    /// Entries that map or zero sectors.
    pub segments: u64,
    /// Those of them that zero.
    pub zeroed: u64,
    /// Padding and other entries that say nothing.
    pub padding: u64,
    /// Bytes of the device that are mapped to stored bytes.
    pub mapped_bytes: u64,
    /// Bytes of the device that are mapped to a target, of a committed layer of turboOCI.
    pub remote_bytes: u64,
    /// Bytes of the device that are zeroed.
    pub zeroed_bytes: u64,
    /// Length of the longest entry, in sectors.
    pub longest_sectors: u32,
}

impl IndexInfo {
    fn add(&mut self, segment: &Segment) {
        if segment.is_invalid() || segment.length == 0 {
            self.padding += 1;
            return;
        }
        self.segments += 1;
        self.longest_sectors = self.longest_sectors.max(segment.length);
        let bytes = u64::from(segment.length) * SECTOR;
        if segment.zeroed {
            self.zeroed += 1;
            self.zeroed_bytes += bytes;
        } else {
            self.mapped_bytes += bytes;
        }
    }
}

/// A description of an LSMT file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is.
    pub kind: FileKind,
    /// The block at its start.
    pub header: Header,
    /// The block at its end, of finished layers.
    pub trailer: Option<Header>,
    /// The index in it; None for writable data files.
    pub index: Option<IndexInfo>,
}

/// Whether a blob begins as LSMT files do.
///
/// # Errors
/// Those of the blob.
pub fn is_lsmt(blob: &dyn Blob) -> Result<bool> {
    if blob.len() < BLOCK_BYTES as u64 {
        return Ok(false);
    }
    let mut start = [0; 24];
    blob.read_at(&mut start, 0)?;
    Ok(Header::has_magic(&start))
}

/// Describes an LSMT file of any kind, whose wrappers have been peeled off.
///
/// # Errors
/// Those of [`Layer::open`] for a finished layer; `Corrupt` for what is no LSMT file at all; `Limit`
/// for too long an index file.
pub fn describe(blob: &Arc<dyn Blob>) -> Result<Info> {
    let fail = |e: Error| e.in_file(blob.name()).at(0);
    if !is_lsmt(&**blob)? {
        return Err(fail(Error::corrupt("not an LSMT file: no header")));
    }
    let mut block = [0; BLOCK_BYTES];
    blob.read_at(&mut block, 0)?;
    let header = Header::parse(&block).map_err(fail)?;
    if !header.has(HEADER) {
        return Err(fail(Error::corrupt("the block at the start is a trailer")));
    }
    if !header.has(DATA) {
        let index = Some(describe_log(&**blob)?);
        return Ok(Info { kind: FileKind::Index, header, trailer: None, index });
    }
    let mut end = [0; 24];
    blob.read_at(&mut end, blob.len().saturating_sub(BLOCK_BYTES as u64))?;
    let finished = blob.len() >= 2 * BLOCK_BYTES as u64 && Header::has_magic(&end);
    if !finished && !header.has(SEALED) {
        let kind = if header.has(SPARSE) { FileKind::SparseData } else { FileKind::AppendData };
        return Ok(Info { kind, header, trailer: None, index: None });
    }
    let turbo = is_turbo(&**blob)?;
    let (trailer, segments) = if turbo {
        let meta = Meta::open(blob.clone())?;
        (meta.trailer().clone(), meta.segments().to_vec())
    } else {
        let layer = Layer::open(blob.clone())?;
        (layer.trailer().clone(), layer.segments().to_vec())
    };
    let mut index = IndexInfo::default();
    segments.iter().for_each(|s| index.add(s));
    index.padding = trailer.index_entries - index.segments;
    if turbo {
        let remote = segments.iter().filter(|s| !s.zeroed && s.tag == REMOTE);
        index.remote_bytes = remote.map(|s| u64::from(s.length) * SECTOR).sum();
        index.mapped_bytes -= index.remote_bytes;
    }
    let kind = match header.has(SEALED) {
        _ if turbo => FileKind::Turbo,
        true => FileKind::Committed,
        false => FileKind::Sealed,
    };
    Ok(Info { kind, header, trailer: Some(trailer), index: Some(index) })
}

/// Whether a finished layer is one of turboOCI.
fn is_turbo(blob: &dyn Blob) -> Result<bool> {
    let mut turbo = false;
    load(blob, |segments, end| {
        turbo = is_warp(segments, end);
        Ok(())
    })?;
    Ok(turbo)
}

fn describe_log(blob: &dyn Blob) -> Result<IndexInfo> {
    let records = (blob.len() - BLOCK_BYTES as u64) / ENTRY_BYTES as u64;
    if records > MAX_RW_ENTRIES {
        let what = format!("{records} index records; at most {MAX_RW_ENTRIES} are allowed");
        return Err(Error::new(Kind::Limit, what).in_file(blob.name()));
    }
    let (mut at, end) = (BLOCK_BYTES as u64, BLOCK_BYTES as u64 + records * ENTRY_BYTES as u64);
    let mut window = vec![0; WINDOW_BYTES.min(end - at) as usize];
    let mut index = IndexInfo::default();
    while at < end {
        let part = &mut window[..WINDOW_BYTES.min(end - at) as usize];
        blob.read_at(part, at)?;
        decode(part).for_each(|record| index.add(&record));
        at += part.len() as u64;
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::MemoryBlob;
    use crate::lsmt::Uuid;

    #[test]
    fn an_index_file_is_described_by_all_of_its_records() {
        for count in [0, 1, 10, WINDOW_BYTES / 16, WINDOW_BYTES / 16 + 3] {
            let mut bytes = Header::new(HEADER, 1 << 30, Uuid::NULL, Uuid::NULL, b"").unwrap().to_block().to_vec();
            let mut expected = IndexInfo::default();
            for n in 0..count {
                let length = n as u32 % 7;
                let record = match n % 5 {
                    0 => Segment::INVALID,
                    tag => Segment { offset: n, length, moffset: 8 + n, zeroed: tag == 1, tag: 0 },
                };
                bytes.extend_from_slice(&record.to_bytes());
                let bytes = u64::from(length) * 512;
                match n % 5 {
                    0 => expected.padding += 1,
                    _ if length == 0 => expected.padding += 1,
                    1 => {
                        (expected.zeroed, expected.zeroed_bytes) = (expected.zeroed + 1, expected.zeroed_bytes + bytes)
                    }
                    _ => expected.mapped_bytes += bytes,
                }
                if n % 5 > 0 && length > 0 {
                    expected.segments += 1;
                    expected.longest_sectors = expected.longest_sectors.max(length);
                }
            }
            // The start of a record that a crash has cut short.
            bytes.extend_from_slice(&[7; 9]);
            let info = describe(&(Arc::new(MemoryBlob::new("index", bytes)) as Arc<dyn Blob>)).unwrap();
            assert_eq!(
                (info.kind, info.trailer, info.index),
                (FileKind::Index, None, Some(expected)),
                "{count} records"
            );
        }
    }

    #[test]
    fn data_files_are_told_from_finished_layers() {
        let describe = |bytes: &[u8]| describe(&(Arc::new(MemoryBlob::new("file", bytes.to_vec())) as Arc<dyn Blob>));
        for (flags, kind) in [(HEADER | DATA, FileKind::AppendData), (HEADER | DATA | SPARSE, FileKind::SparseData)] {
            let header = Header::new(flags, 1 << 20, Uuid::NULL, Uuid::NULL, b"").unwrap();
            for data in [0, 512, 9000] {
                let info = describe(&[header.to_block().to_vec(), vec![3; data]].concat()).unwrap();
                assert_eq!((info.kind, info.trailer, info.index), (kind, None, None), "{data} bytes");
            }
        }
        let info = describe(&crate::lsmt::testing::layer_of(&[5; 8192])).unwrap();
        let index = info.index.unwrap();
        assert_eq!(
            (info.kind, index.segments, index.mapped_bytes, index.remote_bytes),
            (FileKind::Committed, 1, 8192, 0)
        );
        assert_eq!(index.padding, info.trailer.unwrap().index_entries - 1);
    }
}
