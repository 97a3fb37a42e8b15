//! Random access to the plain bytes of a zfile: which blocks, are they intact, decode.
//!
//! Format: zfile, "Reading semantics", "Corruption handling".

use std::ops::Range;
use std::sync::Arc;

use super::codec::{Algorithm, Codec};
use super::crc;
use super::header::Header;
use super::load::{check_trailer, load, Loaded};
use super::prefetch;
use super::scratch::{self, room, Scratch};
use super::table::Table;
use crate::blob::{check_range, Blob};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_BLOCK_RELOADS, ZFILE_READ_BATCH};
use crate::metrics;
use crate::progress::Progress;

/// Plain bytes that [`Reader::for_each_piece`] hands on at a time.
const PIECE: usize = 1 << 20;

/// A zfile, read as the file that was compressed. Its length is the original size.
///
/// A block whose checksum is wrong or that does not decode to its length is an error of kind `Corrupt`,
/// after the blob below had its chance to fetch it again.
pub struct Reader {
    blob: Arc<dyn Blob>,
    first: Header,
    header: Header,
    algorithm: Algorithm,
    block_bits: u32,
    table: Table,
}

/// What a zfile is made of.
#[derive(Clone, Debug)]
pub struct Info {
    /// The block at offset 0 as it is.
    pub first: Header,
    /// The block whose fields count: the trailer, or the first one if it was overwritten at the end.
    pub header: Header,
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Bytes of the whole zfile.
    pub stored_size: u64,
    /// Memory that the open zfile holds, in bytes.
    pub memory_bytes: usize,
}

impl Reader {
    /// Opens a zfile (not wrapped in a tar: see [`crate::tar::unwrap`]).
    ///
    /// Errors: `Corrupt`, `Unsupported` or `Limit` if it is not one that can be read; those of the blob.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Self> {
        let Loaded { first, header, algorithm, table } = load(&*blob)?;
        let block_bits = header.block_size.trailing_zeros();
        Ok(Reader { blob, first, header, algorithm, block_bits, table })
    }

    /// Headers, sizes and counts.
    pub fn info(&self) -> Info {
        Info {
            first: self.first,
            header: self.header,
            algorithm: self.algorithm,
            stored_size: self.blob.len(),
            memory_bytes: std::mem::size_of::<Self>() + self.table.memory_bytes(),
        }
    }

    /// Reads, checks and decodes every block. `progress` counts plain bytes.
    ///
    /// Errors: `Unsupported` if the blocks have no checksums, so that nothing can be vouched for;
    /// `Corrupt` for the first block that is not intact; those of the blob and of `progress`.
    pub fn verify(&self, progress: &mut Progress<'_>) -> Result<()> {
        if !self.header.checksum {
            let what = "blocks have no checksums, so the zfile cannot be verified";
            return Err(Error::new(Kind::Unsupported, what).in_file(self.name()));
        }
        self.for_each_piece(progress, |_| Ok(()))
    }

    /// Checks that the file ends where it should, in its trailer. Reading does not always need that.
    ///
    /// Errors: `Corrupt` if it does not; those of the blob.
    pub fn check_trailer(&self) -> Result<()> {
        check_trailer(&*self.blob, &self.header)
    }

    /// Hands all plain bytes in order to `take`, in pieces. `progress` counts them.
    ///
    /// Errors: those of reading, of `take` and of `progress`.
    pub fn for_each_piece(&self, progress: &mut Progress<'_>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE.min(self.len() as usize)];
        let mut done = 0;
        while done < self.len() {
            let n = (self.len() - done).min(PIECE as u64) as usize;
            self.read_at(&mut piece[..n], done)?;
            take(&piece[..n])?;
            done += n as u64;
            progress(done, self.len())?;
        }
        Ok(())
    }

    /// The blocks that cover a range of plain bytes.
    fn blocks_of(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len).min(self.len());
        if offset >= end {
            return 0..0;
        }
        offset >> self.block_bits..((end - 1) >> self.block_bits) + 1
    }

    /// Offset and length of the stored bytes of a run of blocks.
    fn stored(&self, blocks: &Range<u64>) -> (u64, u64) {
        let start = self.table.start(blocks.start);
        (start, self.table.start(blocks.end) - start)
    }

    /// The longest run from `blocks.start` on that is read in one go.
    fn batch(&self, blocks: &Range<u64>) -> Range<u64> {
        let limit = self.table.start(blocks.start) + ZFILE_READ_BATCH;
        let mut end = blocks.start + 1;
        while end < blocks.end && self.table.start(end + 1) <= limit {
            end += 1;
        }
        blocks.start..end
    }

    /// Reads a run of blocks and puts what they have of the range that `buf` at `offset` is into `buf`.
    fn read_batch(&self, blocks: Range<u64>, buf: &mut [u8], offset: u64, scratch: &mut Scratch) -> Result<()> {
        let (start, len) = self.stored(&blocks);
        let packed = room(&mut scratch.packed, len as usize);
        self.blob.read_at(packed, start)?;
        metrics::decode(|| self.decode_batch(blocks, start, buf, offset, scratch))
    }

    /// The part of [`Reader::read_batch`] after the stored bytes, from `start` on, have been read.
    fn decode_batch(
        &self,
        blocks: Range<u64>,
        start: u64,
        buf: &mut [u8],
        offset: u64,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Scratch { packed, plain, codecs } = scratch;
        let codec = codecs.get(self.algorithm);
        let end = offset + buf.len() as u64;
        for block in blocks {
            let (at, next) = (self.table.start(block), self.table.start(block + 1));
            let stored = &mut packed[(at - start) as usize..(next - start) as usize];
            let plain_start = block << self.block_bits;
            let plain_end = (plain_start + (1 << self.block_bits)).min(self.len());
            let wanted = plain_start.max(offset)..plain_end.min(end);
            let (to, after) =
                buf[(wanted.start - offset) as usize..].split_at_mut((wanted.end - wanted.start) as usize);
            prefetch::for_writing(after);
            if wanted == (plain_start..plain_end) {
                self.decode(block, stored, to, codec)?;
            } else {
                let plain = room(plain, (plain_end - plain_start) as usize);
                self.decode(block, stored, plain, codec)?;
                to.copy_from_slice(&plain[(wanted.start - plain_start) as usize..][..to.len()]);
            }
        }
        Ok(())
    }

    /// Checks a stored block and decodes it, with a few fresh copies if it is bad and there are any.
    fn decode(&self, block: u64, stored: &mut [u8], plain: &mut [u8], codec: &mut dyn Codec) -> Result<()> {
        let mut reloads = 0;
        while let Err(error) = self.check_and_decode(stored, plain, codec) {
            let at = self.table.start(block);
            let error = error.context(format_args!("block {block}")).in_file(self.name()).at(at);
            if reloads == MAX_BLOCK_RELOADS || !self.blob.distrust(at, stored.len() as u64)? {
                let again = format!("fetched {} times, and its source gave the same", reloads + 1);
                return Err(if reloads > 0 { error.context(again) } else { error });
            }
            self.blob.read_at(stored, at)?;
            reloads += 1;
        }
        Ok(())
    }

    #[inline]
    fn check_and_decode(&self, stored: &[u8], plain: &mut [u8], codec: &mut dyn Codec) -> Result<()> {
        let mut packed = stored;
        if self.header.checksum {
            // The table is checked to give every block room for its checksum and one byte more.
            let (bytes, sum) = stored.split_last_chunk().unwrap_or((stored, &[0; 4]));
            let (expected, actual) = (u32::from_le_bytes(*sum), crc::raw(crc::BLOCK_START, bytes));
            if expected != actual {
                return Err(Error::corrupt(format!("checksum is {actual:08x}, {expected:08x} is stored")));
            }
            packed = bytes;
        }
        codec.decompress(packed, plain)
    }
}

impl Blob for Reader {
    fn name(&self) -> &str {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.header.original_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        let mut left = self.blocks_of(offset, buf.len() as u64);
        scratch::with(|scratch| {
            while !left.is_empty() {
                let batch = self.batch(&left);
                left.start = batch.end;
                self.read_batch(batch, buf, offset, scratch)?;
            }
            Ok(())
        })
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        let (start, len) = self.stored(&self.blocks_of(offset, len));
        len == 0 || self.blob.is_ready(start, len)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        let (start, len) = self.stored(&self.blocks_of(offset, len));
        if len == 0 {
            return Ok(0);
        }
        self.blob.prefetch(start, len)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let (start, len) = self.stored(&self.blocks_of(offset, len));
        if len == 0 {
            return Ok(false);
        }
        self.blob.distrust(start, len)
    }
}
