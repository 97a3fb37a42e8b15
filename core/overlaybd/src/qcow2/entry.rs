//! One entry of a second table: where a cluster is, if it is anywhere.

use super::header::Header;
use crate::error::{Error, Result};
use crate::limits::SECTOR;

/// Parts that a cluster has with extended entries.
pub const PARTS: u64 = 32;

/// Bits of an entry of either table that are an offset in the file.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
/// Whether a cluster or table may be written in place; of no use to a reader.
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;

/// Where the bytes of a cluster, or of a part of it, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: they are zeros, or those of a backing file.
    Hole,
    /// Nowhere: they are zeros.
    Zero,
    /// In the file from this offset on.
    Data(u64),
    /// In the file from `at` on, compressed together with the rest of the cluster to at most `len` bytes.
    Packed {
        /// Offset in the file.
        at: u64,
        /// Bytes from there on, of which the last ones may be of something else.
        len: u64,
    },
}

/// Where the second table is that an entry of the first one speaks of, 0 if there is none.
///
/// # Errors
/// `Corrupt`.
pub fn table_offset(header: &Header, entry: u64) -> Result<u64> {
    let offset = entry & OFFSET;
    if entry & !(OFFSET | COPIED) != 0 || !offset.is_multiple_of(header.cluster_bytes()) {
        return Err(Error::corrupt(format!("entry {entry:#x} in the first table of a qcow2 image")));
    }
    Ok(offset)
}

/// Where in the file a cluster begins by its entry, if it is anywhere; whether the entry makes sense is not looked at.
pub fn beginning(header: &Header, entry: u64) -> Option<u64> {
    let at =
        if entry & COMPRESSED != 0 { entry & ((1 << (62 - (header.cluster_bits - 8))) - 1) } else { entry & OFFSET };
    Some(at).filter(|at| *at != 0)
}

/// Where byte `within` of a cluster is by its entry (and, with extended ones, its bitmap), and how many bytes from
/// there on are in the same way.
///
/// # Errors
/// `Corrupt`.
pub fn place(header: &Header, entry: u64, bitmap: u64, within: u64) -> Result<(Place, u64)> {
    let cluster = header.cluster_bytes();
    let rest = cluster - within;
    let wrong = || Error::corrupt(format!("entry {entry:#x} ({bitmap:#x}) in a second table of a qcow2 image"));
    if entry & COMPRESSED != 0 {
        let (offset_bits, word) = (62 - (header.cluster_bits - 8), entry & (COMPRESSED - 1));
        let at = word & ((1 << offset_bits) - 1);
        if at & !(OFFSET | (SECTOR - 1)) != 0 {
            return Err(wrong());
        }
        let sectors = (word >> offset_bits) + 1;
        return Ok((Place::Packed { at, len: sectors * SECTOR - at % SECTOR }, rest));
    }
    let offset = entry & OFFSET;
    let zero = entry & ZERO != 0;
    let allowed = OFFSET | COPIED | if header.version == 3 && !header.extended { ZERO } else { 0 };
    if entry & !allowed != 0 || !offset.is_multiple_of(cluster) {
        return Err(wrong());
    }
    if !header.extended {
        return Ok(match (zero, offset) {
            (true, _) => (Place::Zero, rest),
            (false, 0) => (Place::Hole, rest),
            (false, _) => (Place::Data(offset + within), rest),
        });
    }
    let (allocated, zeros) = (bitmap & 0xFFFF_FFFF, bitmap >> 32);
    if allocated & zeros != 0 || (allocated != 0 && offset == 0) {
        return Err(wrong());
    }
    let part = cluster / PARTS;
    let number = within / part;
    let rest = part - within % part;
    let has = |bits: u64| bits >> number & 1 != 0;
    Ok(match (has(allocated), has(zeros)) {
        (true, _) => (Place::Data(offset + within), rest),
        (false, true) => (Place::Zero, rest),
        (false, false) => (Place::Hole, rest),
    })
}
