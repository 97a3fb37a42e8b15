//! What the builder writes, refuses, and does not depend on.

use super::*;
use crate::error::Kind;
use crate::limits::{MAX_ZFILE_STORED_BLOCK, ZFILE_BUILD_BATCH};
use crate::sink::MemorySink;
use crate::zfile::header::HEADER_BYTES;

fn noise_bytes(len: usize) -> Vec<u8> {
    let mut x = 1;
    (0..len.div_ceil(8)).flat_map(|_| noise(&mut x).to_le_bytes()).take(len).collect()
}

#[test]
fn the_worked_example_comes_out_byte_for_byte() {
    let bytes = build(b"hello", options(Algorithm::Lz4, 4096)).unwrap();
    assert_eq!(bytes.len(), 1038);
    assert_eq!(bytes[28..32], 0xC7A2_12FCu32.to_le_bytes());
    assert_eq!(bytes[512..526], *b"\x50hello\x56\xe5\x3e\x2d\x0a\x00\x00\x00");
    assert_eq!(bytes[0x20E + 28..0x20E + 32], 0x3634_CBD4u32.to_le_bytes());
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads_or_the_size_of_writes() {
    let plain = sample(5 * ZFILE_BUILD_BATCH + 1234);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let alone = build(&plain, options(algorithm, 4096)).unwrap();
        for threads in [0, 1, 2, 5] {
            let mut builder =
                Builder::new(MemorySink::default(), Options { threads, ..options(algorithm, 4096) }).unwrap();
            for bytes in plain.chunks(70_001) {
                builder.write(bytes).unwrap();
            }
            assert_eq!(builder.position(), plain.len() as u64);
            builder.finish().unwrap();
            let summary = builder.summary();
            assert_eq!((summary.original_size, summary.blocks), (plain.len() as u64, 321));
            assert_eq!(summary.stored_size, alone.len() as u64);
            assert!(builder.into_sink().bytes == alone, "{algorithm:?}, {threads} threads");
        }
    }
}

#[test]
fn a_builder_dropped_half_way_leaves_no_thread_behind() {
    let plain = sample(3 * ZFILE_BUILD_BATCH);
    let mut builder = Builder::new(MemorySink::default(), Options { threads: 3, ..Options::default() }).unwrap();
    builder.write(&plain).unwrap();
    drop(builder); // joins its threads; a hang here is the failure
    assert!(build(&plain, Options { threads: 3, ..Options::default() }).is_ok());
}

#[test]
fn blocks_that_upstream_could_not_read_back_are_refused() {
    let plain = [vec![0; 65536], noise_bytes(65536)].concat();
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        for threads in [1, 2] {
            let e = build(&plain, Options { threads, ..options(algorithm, 65536) }).unwrap_err();
            assert_eq!(e.kind(), Kind::Limit);
            assert!(e.to_string().contains("block 1 ") && e.to_string().contains("32 KiB"), "{e}");
        }
        let bytes = build(&plain, options(algorithm, 32768)).unwrap();
        assert!(read_all(&open(bytes).unwrap()).unwrap() == plain);
    }
    // The error comes from a thread's batch in the middle as well, and ends the work.
    let long = [sample(4 * ZFILE_BUILD_BATCH), plain, sample(ZFILE_BUILD_BATCH)].concat();
    let e = build(&long, Options { threads: 2, ..options(Algorithm::Zstd, 65536) }).unwrap_err();
    assert!(e.to_string().contains("block 17 "), "{e}");
}

#[test]
fn small_blocks_obey_the_group_rule_or_are_refused() {
    let noise = noise_bytes(1 << 18);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let e = build(&noise, options(algorithm, 512)).unwrap_err();
        assert_eq!(e.kind(), Kind::Limit, "{e}");
        for block_size in [1024, 2048] {
            let bytes = build(&noise, options(algorithm, block_size)).unwrap();
            assert!(group_rule_holds(&bytes, block_size));
        }
        let bytes = build(&sample(1 << 18), options(algorithm, 512)).unwrap();
        assert!(group_rule_holds(&bytes, 512));
    }
}

/// Whether upstream's check of the jump table would pass.
fn group_rule_holds(zfile: &[u8], block_size: u32) -> bool {
    let trailer = &zfile[zfile.len() - HEADER_BYTES..];
    let index_offset = u64::from_le_bytes(trailer[40..48].try_into().unwrap()) as usize;
    let table = &zfile[index_offset..zfile.len() - HEADER_BYTES];
    let lengths: Vec<_> = table.chunks(4).map(|e| u32::from_le_bytes(e.try_into().unwrap()) as usize).collect();
    lengths.iter().all(|&len| len <= MAX_ZFILE_STORED_BLOCK)
        && lengths
            .chunks(65536 / block_size as usize)
            .all(|group| group[..group.len() - 1].iter().sum::<usize>() < 65535)
}

#[test]
fn impossible_options_are_invalid() {
    for block_size in [0, 256, 1000, 4097, 131_072] {
        let e = build(b"", options(Algorithm::Lz4, block_size)).unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
    }
}

/// A pipe: what was written is gone.
struct Stream(MemorySink);

impl Sink for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write(bytes)
    }

    fn position(&self) -> u64 {
        self.0.position()
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }
}

#[test]
fn a_stream_gets_a_zfile_but_neither_an_overwritten_header_nor_a_tar() {
    let plain = sample(10_000);
    let stream = || Stream(MemorySink::default());
    let mut builder = Builder::new(stream(), options(Algorithm::Zstd, 4096)).unwrap();
    builder.write(&plain).unwrap();
    builder.finish().unwrap();
    assert!(read_all(&open(builder.into_sink().0.bytes).unwrap()).unwrap() == plain);

    let overwrite = Options { overwrite_header: true, ..Options::default() };
    assert_eq!(Builder::new(stream(), overwrite).err().unwrap().kind(), Kind::Invalid);
    assert_eq!(crate::tar::TarSink::new(stream()).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn the_summary_is_of_the_zfile_without_what_is_around_it() {
    let mut sink = MemorySink::default();
    sink.write(b"before").unwrap();
    let plain = sample(5000);
    let mut builder = Builder::new(crate::tar::TarSink::new(sink).unwrap(), options(Algorithm::Lz4, 4096)).unwrap();
    builder.write(&plain).unwrap();
    builder.finish().unwrap();
    let alone = build(&plain, options(Algorithm::Lz4, 4096)).unwrap();
    let summary = builder.summary();
    assert_eq!((summary.stored_size, summary.original_size), (alone.len() as u64, 5000));
    let bytes = builder.into_sink().into_sink().bytes;
    assert!(bytes[6 + 1536..][..alone.len()] == alone && bytes.starts_with(b"before"));
}
