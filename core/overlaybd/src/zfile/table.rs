//! The jump table in memory: where each stored block begins, in two to three bytes a block.
//!
//! Format: zfile, "Jump table".

use super::codec::bound;
use super::crc;
use super::header::{Header, HEADER_BYTES};
use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

/// Bytes of an entry in the file, and of a block's checksum.
const WORD: usize = 4;

/// Bytes of the table read in one go.
const PIECE: usize = 64 << 10;

/// Offsets of all stored blocks and of the end of the last: a full offset for the first block of each
/// group, and for every block its distance from that.
#[derive(Debug)]
pub struct Table {
    bases: Vec<u64>,
    deltas: Vec<u16>,
    group_bits: u32,
}

/// Logarithm of the blocks of a group: the most for which a distance inside it fits 16 bits.
fn group_bits(block_size: u32) -> u32 {
    let most_before_last = usize::from(u16::MAX) / max_stored(block_size);
    (most_before_last + 1).ilog2()
}

/// The most bytes that a stored block can take, with its checksum.
fn max_stored(block_size: u32) -> usize {
    bound(block_size as usize) + WORD
}

impl Table {
    /// Reads and checks the table that `header` (checked before) speaks of. `end` is where the table must
    /// end at the latest.
    ///
    /// Errors: `Corrupt` if the table does not lie between the blocks and `end`, if its checksum is
    /// wrong, or an entry impossible; `Limit` if there is no memory for it; those of the blob.
    pub fn load(blob: &dyn Blob, header: &Header, end: u64) -> Result<Self> {
        let in_table = |e: Error| e.context("jump table").in_file(blob.name()).at(header.index_offset);
        let len = header.blocks * WORD as u64;
        if header.index_offset.checked_add(len).is_none_or(|table_end| table_end > end) {
            return Err(in_table(Error::corrupt(format!("{} entries do not fit before {end}", header.blocks))));
        }
        let mut table = Table::with_room(header.block_size, header.blocks).map_err(in_table)?;
        let mut at = HEADER_BYTES as u64 + u64::from(header.dict_size);
        let (mut offset, mut left, mut sum) = (header.index_offset, len as usize, crc::START);
        let mut piece = vec![0; left.min(PIECE)];
        while left > 0 {
            let words = &mut piece[..left.min(PIECE)];
            blob.read_at(words, offset)?;
            sum = crc::raw(sum, words);
            for word in words.chunks_exact(WORD) {
                let stored = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                table.push(at);
                at += u64::from(table.checked(stored, header).map_err(in_table)?);
            }
            offset += words.len() as u64;
            left -= words.len();
        }
        table.push(at);
        if header.has_digest() && sum != header.index_crc {
            let what = format!("checksum is {sum:08x}, the header says {:08x}", header.index_crc);
            return Err(in_table(Error::corrupt(what)));
        }
        if at > header.index_offset {
            return Err(in_table(Error::corrupt(format!("the blocks would end at {at}, inside it"))));
        }
        Ok(table)
    }

    fn with_room(block_size: u32, blocks: u64) -> Result<Self> {
        let no_memory = |e| Error::new(Kind::Limit, format!("no memory for {blocks} entries")).because(e);
        let group_bits = group_bits(block_size);
        let (mut bases, mut deltas) = (Vec::new(), Vec::new());
        bases.try_reserve_exact((blocks >> group_bits) as usize + 1).map_err(no_memory)?;
        deltas.try_reserve_exact(blocks as usize + 1).map_err(no_memory)?;
        Ok(Table { bases, deltas, group_bits })
    }

    /// Notes where the next block begins.
    fn push(&mut self, at: u64) {
        let n = self.deltas.len();
        if n & ((1 << self.group_bits) - 1) == 0 {
            self.bases.push(at);
        }
        let base = self.bases[n >> self.group_bits];
        debug_assert!(at - base <= u64::from(u16::MAX), "entries are checked and groups are made to fit");
        self.deltas.push((at - base) as u16);
    }

    fn checked(&self, stored: u32, header: &Header) -> Result<u32> {
        let least = if header.checksum { WORD } else { 0 } + 1;
        let most = max_stored(header.block_size);
        if (least..=most).contains(&(stored as usize)) {
            return Ok(stored);
        }
        let block = self.deltas.len() - 1;
        let what = format!("block {block} of {stored} stored bytes, {least} to {most} are possible");
        Err(Error::corrupt(what))
    }

    /// Where block `block` begins; for the number of blocks, where the last one ends.
    pub fn start(&self, block: u64) -> u64 {
        let n = block as usize;
        self.bases[n >> self.group_bits] + u64::from(self.deltas[n])
    }

    /// Memory held, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bases.capacity() * 8 + self.deltas.capacity() * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::MemoryBlob;
    use crate::limits::ZFILE_BLOCK_BYTES;

    fn load(block_size: u32, lengths: &[u32], checksum: bool) -> Result<Table> {
        let end: u64 = 512 + lengths.iter().map(|&l| u64::from(l)).sum::<u64>();
        let mut bytes = vec![0; end as usize];
        bytes.extend(lengths.iter().flat_map(|l| l.to_le_bytes()));
        let header =
            Header { block_size, checksum, blocks: lengths.len() as u64, index_offset: end, ..Header::default() };
        let len = bytes.len() as u64;
        Table::load(&MemoryBlob::new("t", bytes), &header, len)
    }

    #[test]
    fn offsets_are_prefix_sums_for_every_block_size_even_of_the_largest_blocks() {
        for bits in ZFILE_BLOCK_BYTES.start().ilog2()..=ZFILE_BLOCK_BYTES.end().ilog2() {
            let block_size = 1 << bits;
            let most = max_stored(block_size) as u32;
            for lengths in [vec![most; 300], (0..300).map(|i| 5 + i * 7 % (most - 4)).collect()] {
                let table = load(block_size, &lengths, true).unwrap();
                let mut at = 512;
                for (n, length) in lengths.iter().enumerate() {
                    assert_eq!(table.start(n as u64), at, "block {n} of {block_size}");
                    at += u64::from(*length);
                }
                assert_eq!(table.start(300), at);
            }
        }
    }

    #[test]
    fn a_gib_of_small_blocks_takes_less_than_a_mib() {
        let table = Table::with_room(4096, 262_144).unwrap();
        assert!(table.memory_bytes() < 700_000, "{}", table.memory_bytes());
        assert_eq!(group_bits(65536), 0);
        // Groups of 16 blocks of 4 KiB, and the end; no room is left over.
        let table = load(4096, &[100; 3000], true).unwrap();
        assert_eq!(table.memory_bytes(), (3000 / 16 + 1) * 8 + 3001 * 2);
    }

    #[test]
    fn impossible_entries_are_corrupt() {
        let most = max_stored(4096) as u32;
        for (lengths, checksum) in
            [(&[10, 4][..], true), (&[0], false), (&[most + 1], true), (&[5, 5, u32::MAX - 9], true)]
        {
            let bytes: Vec<u8> = lengths.iter().flat_map(|l| l.to_le_bytes()).collect();
            let len = bytes.len() as u64;
            let header = Header { block_size: 4096, checksum, blocks: len / 4, ..Header::default() };
            let e = Table::load(&MemoryBlob::new("t", bytes), &header, len).unwrap_err();
            assert_eq!(e.kind(), Kind::Corrupt, "{e}");
            assert!(e.to_string().contains("stored bytes"), "{e}");
        }
        assert!(load(4096, &[1], false).is_ok() && load(4096, &[5], true).is_ok());
    }

    #[test]
    fn a_table_outside_the_file_or_over_the_blocks_is_corrupt() {
        let blob = MemoryBlob::new("t", vec![5; 4096]);
        let header = Header { block_size: 4096, blocks: 4, index_offset: 4081, ..Header::default() };
        assert_eq!(Table::load(&blob, &header, 4096).unwrap_err().kind(), Kind::Corrupt);
        let header = Header { index_offset: u64::MAX - 3, ..header };
        assert_eq!(Table::load(&blob, &header, 4096).unwrap_err().kind(), Kind::Corrupt);
        let mut bytes = vec![0; 600];
        bytes[512..516].copy_from_slice(&9u32.to_le_bytes());
        let header = Header { blocks: 1, index_offset: 512, ..header };
        let e = Table::load(&MemoryBlob::new("t", bytes), &header, 600).unwrap_err();
        assert!(e.to_string().contains("inside it"), "{e}");
    }
}
