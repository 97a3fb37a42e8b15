//! Opening a zfile: finds the header in use and loads the jump table.
//!
//! Format: zfile, "Reading rule".

use super::codec::Algorithm;
use super::header::{digest_matches, Header, HEADER_BYTES};
use super::table::Table;
use crate::blob::Blob;
use crate::error::{Error, Result};

/// All that reading needs to know of a zfile.
pub struct Loaded {
    /// The block at the start of the file.
    pub first: Header,
    /// The block whose fields count: the first one if it was overwritten at the end, else the trailer.
    pub header: Header,
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Where they are.
    pub table: Table,
}

/// Whether the blob begins with the header of a zfile.
///
/// Errors: `Corrupt` if it does, but the header is cut off or its digest is wrong; those of the blob.
pub fn is_zfile(blob: &dyn Blob) -> Result<bool> {
    Ok(first_header(blob)?.is_some())
}

/// Reads header, trailer and jump table.
///
/// Errors: `Corrupt`, `Unsupported` or `Limit` for what cannot be read; those of the blob.
pub fn load(blob: &dyn Blob) -> Result<Loaded> {
    let Some(first) = first_header(blob)? else {
        return Err(Error::corrupt("not a zfile").in_file(blob.name()).at(0));
    };
    let trailer_at = blob.len().saturating_sub(HEADER_BYTES as u64);
    let (header, at, table_end) = if first.is_overwritten() {
        (first, 0, blob.len())
    } else {
        let unfinished = |what: &str| Err(Error::corrupt(what).in_file(blob.name()).at(trailer_at));
        if !first.is_data() {
            return Err(Error::corrupt("header of a zfile without data").in_file(blob.name()).at(0));
        }
        match Header::parse(&read_block(blob, trailer_at)?) {
            Some(t) if !t.is_header() && t.is_data() && t.is_sealed() => (t, trailer_at, trailer_at),
            Some(_) => return unfinished("the trailer's flags are not those of a finished zfile"),
            None => return unfinished("no trailer: the zfile is cut off or was never finished"),
        }
    };
    let in_header = |e: Error| e.in_file(blob.name()).at(at);
    header.check().map_err(in_header)?;
    let algorithm = Algorithm::from_number(header.algorithm).map_err(in_header)?;
    let table = Table::load(blob, &header, table_end)?;
    Ok(Loaded { first, header, algorithm, table })
}

/// Checks that the file ends in the trailer that belongs to `header`, the one in use. Reading does without it where
/// the header was overwritten, so only a check of the whole file asks.
///
/// Errors: `Corrupt` if it does not; those of the blob.
pub fn check_trailer(blob: &dyn Blob, header: &Header) -> Result<()> {
    let at = blob.len().saturating_sub(HEADER_BYTES as u64);
    let bad = |what: &str| Err(Error::corrupt(what).in_file(blob.name()).at(at));
    let block = read_block(blob, at)?;
    let Some(trailer) = Header::parse(&block).filter(|t| !t.is_header()) else {
        return bad("no trailer: the zfile is cut off, or something follows it");
    };
    if trailer.has_digest() && !digest_matches(&block) {
        return bad("trailer: wrong digest");
    }
    if (Header { flags: header.flags, ..trailer }) != *header {
        return bad("trailer and header say different things");
    }
    Ok(())
}

/// The header at offset 0, if there is one.
fn first_header(blob: &dyn Blob) -> Result<Option<Header>> {
    if blob.len() < HEADER_BYTES as u64 {
        let mut start = vec![0; blob.len() as usize];
        blob.read_at(&mut start, 0)?;
        if Header::has_magic(&start) {
            return Err(Error::corrupt("zfile cut off within its header").in_file(blob.name()).at(0));
        }
        return Ok(None);
    }
    let block = read_block(blob, 0)?;
    let Some(header) = Header::parse(&block).filter(Header::is_header) else {
        return Ok(None);
    };
    if header.has_digest() && !digest_matches(&block) {
        return Err(Error::corrupt("zfile header: wrong digest").in_file(blob.name()).at(0));
    }
    Ok(Some(header))
}

fn read_block(blob: &dyn Blob, offset: u64) -> Result<[u8; HEADER_BYTES]> {
    let mut block = [0; HEADER_BYTES];
    blob.read_at(&mut block, offset)?;
    Ok(block)
}
