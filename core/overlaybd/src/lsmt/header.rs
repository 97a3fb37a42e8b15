//! The 390-byte structure in a 4096-byte block that begins and ends LSMT files.
//!
//! Format: lsmt, "Header and trailer, byte-exact".

use super::uuid::{Uuid, TEXT_BYTES};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_TAG_BYTES, SECTOR};

/// Bytes that a header or a trailer takes.
pub const BLOCK_BYTES: usize = 4096;
/// First sector behind a header: the lowest that an entry maps to.
pub const FIRST_DATA_SECTOR: u64 = BLOCK_BYTES as u64 / SECTOR;

const MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8,
    0xec, 0x4f, 0xcf, 0xae, 0x8a,
];
const STRUCT_BYTES: u32 = 390;
const VERSION: u8 = 1;

/// Where `virtual_size` stands in the block.
pub const VIRTUAL_SIZE_AT: usize = 48;

/// Flag: this block is a header, not a trailer.
pub const HEADER: u32 = 0x01;
/// Flag: the file holds data (a layer), not only an index.
pub const DATA: u32 = 0x02;
/// Flag: the layer is finished.
pub const SEALED: u32 = 0x04;
/// Flag: the layer is, or was made from, a sparse writable layer.
pub const SPARSE: u32 = 0x10;

/// Flags of the header of a committed layer.
pub const COMMITTED_FLAGS: u32 = HEADER | DATA | SEALED;
/// Flags of the trailer of a committed layer, and of a sealed one but for [`SPARSE`].
pub const TRAILER_FLAGS: u32 = DATA | SEALED;

/// A decoded header or trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`HEADER`], [`DATA`], [`SEALED`], [`SPARSE`]; others have no meaning and are kept as read.
    pub flags: u32,
    /// Byte offset of the index.
    pub index_offset: u64,
    /// Number of index entries, padding included.
    pub index_entries: u64,
    /// Bytes of the virtual disk; 0 for "as the layers below".
    pub virtual_size: u64,
    /// Id of the layer; null if the text in the file is none.
    pub uuid: Uuid,
    /// Id of the layer below; null as `uuid`.
    pub parent_uuid: Uuid,
    /// Commit message, without the zeros that fill it up.
    pub tag: Vec<u8>,
}

impl Header {
    /// A header with nothing but flags, size and ids.
    ///
    /// # Errors
    /// `Limit` if `tag` is longer than [`MAX_TAG_BYTES`].
    pub fn new(flags: u32, virtual_size: u64, uuid: Uuid, parent_uuid: Uuid, tag: &[u8]) -> Result<Header> {
        if tag.len() > MAX_TAG_BYTES {
            let what = format!("message of {} bytes; at most {MAX_TAG_BYTES} fit a layer", tag.len());
            return Err(Error::new(Kind::Limit, what));
        }
        let tag = tag.to_vec();
        Ok(Header { flags, index_offset: 0, index_entries: 0, virtual_size, uuid, parent_uuid, tag })
    }

    /// Whether a block begins as every header and trailer does.
    pub fn has_magic(block: &[u8]) -> bool {
        block.starts_with(&MAGIC)
    }

    /// Decodes a block. Only the magic is checked: unknown flags, sizes, versions and whatever stands
    /// in reserved bytes are passed over, as upstream does.
    ///
    /// # Errors
    /// `Corrupt` without the magic.
    pub fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Header> {
        if !Self::has_magic(block) {
            return Err(Error::corrupt("not LSMT: wrong magic"));
        }
        let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
        let text_at = |at: usize| Uuid::parse(&block[at..at + TEXT_BYTES]).unwrap_or_default();
        let tag = &block[134..134 + MAX_TAG_BYTES];
        let tag_len = tag.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        Ok(Header {
            flags: u32::from_le_bytes(block[28..32].try_into().expect("four bytes")),
            index_offset: u64_at(32),
            index_entries: u64_at(40),
            virtual_size: u64_at(VIRTUAL_SIZE_AT),
            uuid: text_at(56),
            parent_uuid: text_at(93),
            tag: tag[..tag_len].to_vec(),
        })
    }

    /// Encodes the block.
    pub fn to_block(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(24, &STRUCT_BYTES.to_le_bytes());
        put(28, &self.flags.to_le_bytes());
        put(32, &self.index_offset.to_le_bytes());
        put(40, &self.index_entries.to_le_bytes());
        put(VIRTUAL_SIZE_AT, &self.virtual_size.to_le_bytes());
        put(56, self.uuid.to_string().as_bytes());
        put(93, self.parent_uuid.to_string().as_bytes());
        put(132, &[VERSION, VERSION]);
        put(134, &self.tag);
        block
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example_of_the_format() {
        let uuid = Uuid::parse(b"0A1B2C3D-1111-4222-8333-444455556666").unwrap();
        let parent = Uuid::parse(b"A1B2C3D4-0000-4000-8000-000000000001").unwrap();
        let mut trailer = Header::new(TRAILER_FLAGS, 1 << 30, uuid, parent, b"v1").unwrap();
        (trailer.index_offset, trailer.index_entries) = (9216, 256);
        let block = trailer.to_block();
        let start = "4c534d5400010200657e63d29444084ca2d2c8ec4fcfae8a8601000006000000\
             00240000000000000001000000000000000000400000000030413142324333442d";
        let hex: String = block[..65].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, start);
        assert_eq!(&block[128..138], b"\x31\0\0\0\x01\x01v1\0\0");
        assert!(block[138..].iter().all(|b| *b == 0));
        assert_eq!(Header::parse(&block).unwrap(), trailer);
    }

    #[test]
    fn garbage_in_reserved_places_is_passed_over() {
        let clean = Header::new(COMMITTED_FLAGS, 4096, Uuid::NULL, Uuid::NULL, b"").unwrap();
        let mut block = clean.to_block();
        block[24..28].fill(0xee);
        block[130..134].fill(0xee);
        block[390..].fill(0xee);
        block[31] = 0xee;
        block[56] = b'x';
        let read = Header::parse(&block).unwrap();
        assert_eq!(read, Header { flags: COMMITTED_FLAGS | 0xee00_0000, ..clean });
        block[23] ^= 1;
        assert_eq!(Header::parse(&block).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn tag_of_256_bytes_has_no_nul() {
        let tag = [b'T'; 256];
        let header = Header::new(HEADER, 0, Uuid::NULL, Uuid::NULL, &tag).unwrap();
        assert_eq!(Header::parse(&header.to_block()).unwrap().tag, tag);
        assert_eq!(Header::new(HEADER, 0, Uuid::NULL, Uuid::NULL, &[b'T'; 257]).unwrap_err().kind(), Kind::Limit);
    }
}
