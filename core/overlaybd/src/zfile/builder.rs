//! Writes a zfile from a stream of plain bytes.
//!
//! Format: zfile, "Writing", "Jump table", "Empty input".

use super::codec::Algorithm;
use super::crc;
use super::header::{Header, Role};
use super::packer::{Packed, Packer, Recipe};
use crate::error::{Error, Kind, Result};
use crate::limits::{
    MAX_BUILD_THREADS, MAX_ZFILE_BLOCKS, MAX_ZFILE_STORED_BLOCK, ZFILE_BLOCK_BYTES, ZFILE_BUILD_BATCH,
};
use crate::sink::Sink;

/// Bound of the 16-bit distances in upstream's reader.
const GROUP_LIMIT: u32 = 65535;

/// How a zfile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Compressor of the blocks.
    pub algorithm: Algorithm,
    /// Plain bytes of a block: a power of two from 512 to 65536. The tools offer 4096 to 65536; 65536
    /// needs data that compresses (see [`Builder`]).
    pub block_size: u32,
    /// Whether each block is followed by its checksum. Without, corruption goes unnoticed.
    pub checksum: bool,
    /// Whether the final fields are written into the header too; the output must be able to rewrite.
    pub overwrite_header: bool,
    /// Compressing threads; 0 for one a processor. The result is the same whatever the number.
    pub threads: usize,
}

impl Default for Options {
    /// What upstream's tools do by default: LZ4, 4096, with checksums; on all processors.
    fn default() -> Self {
        Options { algorithm: Algorithm::Lz4, block_size: 4096, checksum: true, overwrite_header: false, threads: 0 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Plain bytes.
    pub original_size: u64,
    /// Bytes of the zfile.
    pub stored_size: u64,
    /// Blocks.
    pub blocks: u64,
}

/// A sink that compresses what it gets into the sink below.
///
/// It never writes a zfile that upstream cannot read. There is no way to store a block uncompressed, so 64 KiB
/// that do not compress would take more than upstream's reader has room for: such a block is an error of kind
/// `Limit` that says to use smaller blocks. The alternative, to fall back by itself, is not possible once blocks are
/// written. (Blocks below 1 KiB can break upstream's group rule instead; the same error.)
///
/// Memory: four batches of [`ZFILE_BUILD_BATCH`] a thread, plus 4 bytes for each block written.
pub struct Builder<S: Sink> {
    sink: S,
    base: u64,
    options: Options,
    packer: Packer,
    filling: Vec<u8>,
    table: Vec<u32>,
    group_sum: u32,
    original_size: u64,
    stored_size: u64,
}

impl<S: Sink> Builder<S> {
    /// Starts a zfile at the present end of `sink`.
    ///
    /// Errors: `Invalid` for a block size that is not possible, or if the header is to be overwritten and
    /// the sink cannot; those of the sink.
    pub fn new(mut sink: S, options: Options) -> Result<Self> {
        if !options.block_size.is_power_of_two() || !ZFILE_BLOCK_BYTES.contains(&options.block_size) {
            let what = format!("block size {}: a power of two from 512 to 65536 is needed", options.block_size);
            return Err(Error::new(Kind::Invalid, what));
        }
        let base = sink.position();
        let header = Header {
            block_size: options.block_size,
            algorithm: options.algorithm.number(),
            checksum: options.checksum,
            ..Header::default()
        }
        .encode(Role::FirstHeader);
        sink.write(&header)?;
        // Better now than after hours of compressing.
        if options.overwrite_header && !sink.rewrite(base, &header)? {
            return Err(Error::new(Kind::Invalid, "the header cannot be overwritten: the output is a stream"));
        }
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let recipe = Recipe {
            algorithm: options.algorithm,
            block_size: options.block_size as usize,
            checksum: options.checksum,
        };
        Ok(Builder {
            sink,
            base,
            options,
            packer: Packer::new(threads.min(MAX_BUILD_THREADS), recipe),
            filling: Vec::with_capacity(ZFILE_BUILD_BATCH),
            table: Vec::new(),
            group_sum: 0,
            original_size: 0,
            stored_size: 0,
        })
    }

    /// What was written, once `finish` has returned.
    pub fn summary(&self) -> Summary {
        Summary { original_size: self.original_size, stored_size: self.stored_size, blocks: self.table.len() as u64 }
    }

    /// The sink below, for instance to take what it collected.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// Compresses what was collected, here or on another thread.
    fn pack_collected(&mut self) -> Result<()> {
        if self.packer.wants_work() {
            return self.packer.hand_over(&mut self.filling);
        }
        self.packer.pack_here(&self.filling);
        self.filling.clear();
        Ok(())
    }

    /// Writes finished batches in order: those there are, or all.
    fn write_finished(&mut self, all: bool) -> Result<()> {
        while let Some(batch) = self.packer.next(all)? {
            self.append(&batch.packed)?;
            self.packer.recycle(batch);
        }
        Ok(())
    }

    /// Writes stored blocks and notes where they are.
    fn append(&mut self, packed: &Packed) -> Result<()> {
        packed.lengths.iter().try_for_each(|&stored| self.admit(stored))?;
        self.sink.write(packed.bytes())
    }

    /// Notes the length of the next block if a reader of upstream's can read it.
    fn admit(&mut self, stored: u32) -> Result<()> {
        let refuse = |what: String| Err(Error::new(Kind::Limit, what));
        let block = self.table.len();
        if stored as usize > MAX_ZFILE_STORED_BLOCK {
            return refuse(format!(
                "block {block} does not compress: {stored} bytes, more than the {MAX_ZFILE_STORED_BLOCK} that \
                 readers take; use blocks of 32 KiB or less"
            ));
        }
        if block as u64 == MAX_ZFILE_BLOCKS {
            return refuse(format!("more than {MAX_ZFILE_BLOCKS} blocks; use larger ones"));
        }
        if (block as u64 * u64::from(self.options.block_size)).is_multiple_of(65536) {
            self.group_sum = 0;
        } else if self.group_sum >= GROUP_LIMIT {
            return refuse(format!(
                "block {block} does not compress, nor do those before; use blocks of 1 KiB or more"
            ));
        }
        self.group_sum += stored;
        self.table.push(stored);
        Ok(())
    }

    /// Writes the jump table and returns its checksum.
    fn write_table(&mut self) -> Result<u32> {
        let mut sum = crc::START;
        let mut bytes = Vec::new();
        for entries in self.table.chunks(16 << 10) {
            bytes.clear();
            bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
            sum = crc::raw(sum, &bytes);
            self.sink.write(&bytes)?;
        }
        Ok(sum)
    }
}

impl<S: Sink> Sink for Builder<S> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.original_size += bytes.len() as u64;
        while !bytes.is_empty() {
            let n = bytes.len().min(ZFILE_BUILD_BATCH - self.filling.len());
            let (next, rest) = bytes.split_at(n);
            bytes = rest;
            if n == ZFILE_BUILD_BATCH && !self.packer.wants_work() {
                // Straight from the caller's memory.
                self.packer.pack_here(next);
            } else {
                self.filling.extend_from_slice(next);
                if self.filling.len() == ZFILE_BUILD_BATCH {
                    self.pack_collected()?;
                }
            }
            self.write_finished(false)?;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.original_size
    }

    fn finish(&mut self) -> Result<()> {
        self.packer.pack_here(&self.filling);
        self.filling.clear();
        self.write_finished(true)?;
        let header = Header {
            index_offset: self.sink.position() - self.base,
            blocks: self.table.len() as u64,
            original_size: self.original_size,
            index_crc: self.write_table()?,
            block_size: self.options.block_size,
            algorithm: self.options.algorithm.number(),
            checksum: self.options.checksum,
            ..Header::default()
        };
        self.sink.write(&header.encode(Role::Trailer))?;
        if self.options.overwrite_header && !self.sink.rewrite(self.base, &header.encode(Role::FinalHeader))? {
            return Err(Error::new(Kind::Invalid, "the header cannot be overwritten: the output is a stream"));
        }
        self.stored_size = self.sink.position() - self.base;
        self.sink.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::MemorySink;

    #[test]
    fn blocks_are_as_long_as_upstreams_reader_takes_and_no_longer() {
        let admitted = |block_size: u32, lengths: &[u32]| {
            let mut builder =
                Builder::new(MemorySink::default(), Options { block_size, ..Options::default() }).unwrap();
            lengths.iter().try_for_each(|stored| builder.admit(*stored)).map_err(|e| e.kind())
        };
        let most = MAX_ZFILE_STORED_BLOCK as u32;
        assert_eq!(admitted(65536, &[most; 3]), Ok(()));
        assert_eq!(admitted(65536, &[most + 1]), Err(Kind::Limit));
        // All but the last of those that hold 64 KiB must fit 16 bits together.
        assert_eq!(admitted(32768, &[65534, 9, 65534, 9]), Ok(()));
        assert_eq!(admitted(32768, &[65535, 9]), Err(Kind::Limit));
        assert_eq!(admitted(16384, &[1, 1, 65532, most, 1, 1, 65532, most]), Ok(()));
        assert_eq!(admitted(16384, &[1, 1, 65532, most, 1, 1, 65533, 1]), Err(Kind::Limit));
    }
}
