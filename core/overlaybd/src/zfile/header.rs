//! Header and trailer of a zfile: one structure in a 512-byte block.
//!
//! Format: zfile, "Header and trailer", "Old files".

use super::crc;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_ZFILE_BLOCKS, ZFILE_BLOCK_BYTES};

/// Bytes of the header and of the trailer.
pub const HEADER_BYTES: usize = 512;

/// "ZFile", 0, 1, 0, then 16 bytes that name the format's maker.
const MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";

/// Bytes of the structure in use; the rest of the block is zero. Written, never checked.
const STRUCTURE_BYTES: u32 = 96;

/// Where the digest is, which is itself counted as zeros.
const DIGEST: std::ops::Range<usize> = 28..32;

const FLAG_HEADER: u64 = 1;
const FLAG_DATA: u64 = 1 << 1;
const FLAG_SEALED: u64 = 1 << 2;
const FLAG_OVERWRITTEN: u64 = 1 << 3;
const FLAG_DIGEST: u64 = 1 << 4;

/// What a 512-byte block is for, with the flags that it is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Written before anything else: index fields are zero.
    FirstHeader,
    /// At the end of the file: index fields are final.
    Trailer,
    /// A header written again at the end, with the fields of the trailer.
    FinalHeader,
}

/// The fields of a header or trailer. Nothing in it is checked but the magic; old files have garbage in reserved
/// bits and, in a first header, in the index fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bits 0 to 4 have a meaning, asked by the methods below.
    pub flags: u64,
    /// Byte offset of the jump table.
    pub index_offset: u64,
    /// Entries of the jump table.
    pub blocks: u64,
    /// Plain bytes.
    pub original_size: u64,
    /// Checksum of the jump table, if [`Header::has_digest`].
    pub index_crc: u32,
    /// Plain bytes of each block but the last.
    pub block_size: u32,
    /// Number of the [`super::Algorithm`].
    pub algorithm: u8,
    /// Bytes of a dictionary before the first block: always 0 so far, and only skipped.
    pub dict_size: u32,
    /// Whether each block is followed by its checksum.
    pub checksum: bool,
}

impl Header {
    /// Whether these bytes are a header or trailer.
    pub fn has_magic(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Decodes a block; None if the magic is not there.
    pub fn parse(block: &[u8; HEADER_BYTES]) -> Option<Self> {
        if !Self::has_magic(block) {
            return None;
        }
        Some(Header {
            flags: u64_at(block, 32),
            index_offset: u64_at(block, 40),
            blocks: u64_at(block, 48),
            original_size: u64_at(block, 56),
            index_crc: u32_at(block, 64),
            block_size: u32_at(block, 72),
            algorithm: block[76],
            dict_size: u32_at(block, 84),
            checksum: block[88] != 0,
        })
    }

    /// Encodes the block for `role`, with flags and digest.
    pub fn encode(&self, role: Role) -> [u8; HEADER_BYTES] {
        let flags = FLAG_DIGEST
            | FLAG_DATA
            | match role {
                Role::FirstHeader => FLAG_HEADER,
                Role::Trailer => FLAG_SEALED,
                Role::FinalHeader => FLAG_HEADER | FLAG_OVERWRITTEN,
            };
        let mut block = [0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| block[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(24, &STRUCTURE_BYTES.to_le_bytes());
        put(32, &flags.to_le_bytes());
        put(40, &self.index_offset.to_le_bytes());
        put(48, &self.blocks.to_le_bytes());
        put(56, &self.original_size.to_le_bytes());
        put(64, &self.index_crc.to_le_bytes());
        put(72, &self.block_size.to_le_bytes());
        put(76, &[self.algorithm]);
        put(84, &self.dict_size.to_le_bytes());
        put(88, &[u8::from(self.checksum)]);
        let digest = digest(&block);
        block[DIGEST].copy_from_slice(&digest.to_le_bytes());
        block
    }

    /// True for a header, false for a trailer.
    pub fn is_header(&self) -> bool {
        self.flags & FLAG_HEADER != 0
    }

    /// Whether it says that the file holds data.
    pub fn is_data(&self) -> bool {
        self.flags & FLAG_DATA != 0
    }

    /// Whether it says that the file was completed.
    pub fn is_sealed(&self) -> bool {
        self.flags & FLAG_SEALED != 0
    }

    /// Whether this header has the final index fields, so that the trailer is of no interest.
    pub fn is_overwritten(&self) -> bool {
        self.flags & FLAG_OVERWRITTEN != 0
    }

    /// Whether digest and index checksum mean anything.
    pub fn has_digest(&self) -> bool {
        self.flags & FLAG_DIGEST != 0
    }

    /// Checks the numbers that reading depends on, against each other and the limits.
    ///
    /// Errors: `Unsupported` block size; `Limit` too many blocks; `Corrupt` if the block count is not what
    /// the original size needs.
    pub fn check(&self) -> Result<()> {
        if !self.block_size.is_power_of_two() || !ZFILE_BLOCK_BYTES.contains(&self.block_size) {
            return Err(Error::new(Kind::Unsupported, format!("block size {}", self.block_size)));
        }
        if self.blocks > MAX_ZFILE_BLOCKS {
            return Err(Error::new(Kind::Limit, format!("{} blocks, at most {MAX_ZFILE_BLOCKS} may be", self.blocks)));
        }
        let needed = self.original_size.div_ceil(u64::from(self.block_size));
        if self.blocks != needed {
            let what = format!("jump table of {} entries, {} bytes need {needed}", self.blocks, self.original_size);
            return Err(Error::corrupt(what));
        }
        Ok(())
    }
}

/// Whether the digest stored in a block is that of its bytes.
pub fn digest_matches(block: &[u8; HEADER_BYTES]) -> bool {
    u32_at(block, DIGEST.start) == digest(block)
}

fn digest(block: &[u8; HEADER_BYTES]) -> u32 {
    let before = crc::raw(crc::START, &block[..DIGEST.start]);
    crc::raw(crc::raw(before, &[0; 4]), &block[DIGEST.end..])
}

fn u32_at(block: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| block[at + i]))
}

fn u64_at(block: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| block[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header { block_size: 4096, algorithm: 1, checksum: true, ..Header::default() }
    }

    #[test]
    fn matches_the_worked_example() {
        let block = sample().encode(Role::FirstHeader);
        assert_eq!(u32_at(&block, 28), 0xC7A2_12FC);
        let trailer = Header { index_offset: 0x20A, blocks: 1, original_size: 5, index_crc: 0x4923_4067, ..sample() };
        let block = trailer.encode(Role::Trailer);
        assert_eq!((u32_at(&block, 28), u64_at(&block, 32)), (0x3634_CBD4, 0x16));
        assert_eq!(trailer.encode(Role::FinalHeader)[32], 0x1B);
    }

    #[test]
    fn parses_what_it_encodes_and_notices_a_flipped_bit() {
        let header = Header { original_size: 9000, blocks: 3, index_offset: 77, dict_size: 5, ..sample() };
        let mut block = header.encode(Role::Trailer);
        let parsed = Header::parse(&block).unwrap();
        assert_eq!(parsed, Header { flags: 0x16, ..header });
        assert!(parsed.is_data() && parsed.is_sealed() && parsed.has_digest());
        assert!(!parsed.is_header() && !parsed.is_overwritten());
        assert!(digest_matches(&block));
        block[400] ^= 1;
        assert!(!digest_matches(&block));
        block[0] ^= 1;
        assert_eq!(Header::parse(&block), None);
    }

    #[test]
    fn checks_block_size_count_and_limit() {
        let kind = |h: Header| h.check().map_err(|e| e.kind());
        assert_eq!(kind(sample()), Ok(()));
        for block_size in [0, 1, 256, 4095, 12288, 131_072, u32::MAX] {
            assert_eq!(kind(Header { block_size, ..sample() }), Err(Kind::Unsupported), "{block_size}");
        }
        for (original_size, blocks) in [(0, 1), (1, 0), (4096, 2), (4097, 1), (u64::MAX, 5)] {
            assert_eq!(kind(Header { original_size, blocks, ..sample() }), Err(Kind::Corrupt));
        }
        assert_eq!(kind(Header { blocks: MAX_ZFILE_BLOCKS + 1, ..sample() }), Err(Kind::Limit));
    }
}
