//! Files that are not what they say: always an error that tells what is wrong, never a panic.

use super::*;
use crate::error::Kind;
use crate::zfile::header::{Header, Role, HEADER_BYTES};
use crate::zfile::is_zfile;

fn error_of(bytes: Vec<u8>) -> crate::Error {
    open(bytes).and_then(|reader| read_all(&reader)).map(|_| ()).unwrap_err()
}

/// A good file with another trailer, digest and all right.
fn with_trailer(change: impl Fn(&mut Header)) -> Vec<u8> {
    let mut bytes = golden_file("zfile/mix.lz4.4.zfile");
    let at = bytes.len() - HEADER_BYTES;
    let mut header = Header::parse(bytes[at..].try_into().unwrap()).unwrap();
    change(&mut header);
    bytes[at..].copy_from_slice(&header.encode(Role::Trailer));
    bytes
}

#[test]
fn fields_of_the_trailer_that_contradict_the_file_are_refused() {
    assert!(open(with_trailer(|_| ())).is_ok());
    type Change = fn(&mut Header);
    let table: &[(Change, Kind, &str)] = &[
        (|h| h.block_size = 0, Kind::Unsupported, "block size 0"),
        (|h| h.block_size = 12288, Kind::Unsupported, "block size 12288"),
        (|h| h.block_size = 1 << 17, Kind::Unsupported, "block size 131072"),
        (|h| h.block_size = 8192, Kind::Corrupt, "jump table of 18 entries"),
        (|h| h.algorithm = 0, Kind::Unsupported, "algorithm 0"),
        (|h| h.algorithm = 3, Kind::Unsupported, "algorithm 3"),
        (|h| h.algorithm = 2, Kind::Corrupt, "block 0: not a zstd frame"),
        (|h| h.blocks = 17, Kind::Corrupt, "70003 bytes need 18"),
        (|h| h.blocks = u64::MAX, Kind::Limit, "blocks"),
        (|h| h.original_size = u64::MAX, Kind::Corrupt, "need"),
        (|h| h.original_size -= 1, Kind::Corrupt, "block 17"),
        (|h| h.original_size += 1, Kind::Corrupt, "block 17"),
        (|h| h.index_offset = u64::MAX, Kind::Corrupt, "do not fit"),
        (|h| h.index_offset += 1, Kind::Corrupt, "do not fit"),
        (|h| h.index_offset -= 4, Kind::Corrupt, "stored bytes"),
        (|h| h.index_crc ^= 1, Kind::Corrupt, "the header says"),
        (|h| h.dict_size = 1, Kind::Corrupt, "inside it"),
        (|h| h.dict_size = u32::MAX, Kind::Corrupt, "inside it"),
        (|h| h.checksum = false, Kind::Corrupt, "block 0"),
    ];
    for (n, (change, kind, words)) in table.iter().enumerate() {
        let e = error_of(with_trailer(change));
        assert_eq!(e.kind(), *kind, "row {n}: {e}");
        assert!(e.to_string().contains(words), "row {n}: {e}");
        assert!(e.to_string().contains(": z: at "), "row {n} names file and offset: {e}");
    }
}

#[test]
fn a_trailer_that_is_no_end_of_a_finished_file_is_refused() {
    let whole = build(&sample(50_000), options(Algorithm::Lz4, 4096)).unwrap();
    let at = whole.len() - HEADER_BYTES;
    // The flags, of which a finished file's trailer has data (2), sealed (4) and digest (16): see the format.
    assert_eq!(whole[at + 32], 0x16);
    for flags in [0x12, 0x14, 0x17, 0x10] {
        let mut bytes = whole.clone();
        bytes[at + 32] = flags;
        let e = error_of(bytes);
        assert_eq!(e.kind(), Kind::Corrupt, "{flags:#x}");
        assert!(e.to_string().contains("not those of a finished zfile"), "{flags:#x}: {e}");
    }
    assert!(error_of(whole[..whole.len() - 1].to_vec()).to_string().contains("cut off"));
}

#[test]
fn a_check_of_the_whole_file_asks_for_the_trailer_that_belongs_to_its_header() {
    let mut whole = build(&sample(50_000), options(Algorithm::Lz4, 4096)).unwrap();
    let check = |bytes: &[u8]| {
        let reader = open(bytes.to_vec()).unwrap();
        assert!(read_all(&reader).unwrap() == sample(50_000));
        reader.check_trailer().map_err(|e| e.to_string())
    };
    check(&whole).unwrap();
    // A header that says all that a trailer does is enough to read.
    let at = whole.len() - HEADER_BYTES;
    let header = Header::parse(whole[at..].try_into().unwrap()).unwrap();
    whole[..HEADER_BYTES].copy_from_slice(&header.encode(Role::FinalHeader));
    check(&whole).unwrap();
    assert!(check(&[&whole[..], b"x"].concat()).unwrap_err().contains("something follows"));
    whole[at..].copy_from_slice(&header.encode(Role::FirstHeader));
    assert!(check(&whole).unwrap_err().contains("no trailer"));
    let other = Header { original_size: header.original_size - 1, ..header };
    whole[at..].copy_from_slice(&other.encode(Role::Trailer));
    assert!(check(&whole).unwrap_err().contains("different things"));
    whole[at + 100] ^= 1;
    assert!(check(&whole).unwrap_err().contains("wrong digest"));
}

#[test]
fn a_jump_table_as_large_as_allowed_needs_a_file_as_large() {
    let e = error_of(with_trailer(|h| {
        h.blocks = 1_000_000_000;
        h.original_size = h.blocks * 4096;
    }));
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
}

#[test]
fn an_unknown_algorithm_is_refused_at_open() {
    // Upstream opens such a file and crashes at the first read.
    let mut bytes = build(&[7; 100], options(Algorithm::Lz4, 4096)).unwrap();
    let trailer = bytes.len() - HEADER_BYTES;
    bytes[trailer + 76] = 9;
    assert_eq!(open(bytes).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn an_interrupted_build_is_recognised() {
    // What upstream's multi-threaded builder leaves when it fails: header and blocks, and no more.
    let bytes = build(&sample(10_000), options(Algorithm::Lz4, 4096)).unwrap();
    let e = error_of(bytes[..bytes.len() - HEADER_BYTES - 12].to_vec());
    assert!(e.kind() == Kind::Corrupt && e.to_string().contains("cut off or was never finished"), "{e}");
}

#[test]
fn every_truncation_is_an_error() {
    for overwrite_header in [false, true] {
        let made = Options { overwrite_header, ..options(Algorithm::Lz4, 4096) };
        let bytes = build(&sample(9000), made).unwrap();
        for len in 0..bytes.len() {
            // With the fields in the header, only the trailer may go; nobody reads it.
            let complete = overwrite_header && len >= bytes.len() - HEADER_BYTES;
            let read = open(bytes[..len].to_vec()).and_then(|reader| read_all(&reader));
            assert_eq!(read.is_ok(), complete, "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn what_is_no_zfile_is_told_apart_from_what_is_a_broken_one() {
    let detect = |bytes: Vec<u8>| is_zfile(&MemoryBlob::new("z", bytes)).map_err(|e| e.kind());
    let good = golden_file("zfile/b100.lz4.4.zfile");
    assert_eq!(detect(good.clone()), Ok(true));
    for other in [vec![], b"ZFile".to_vec(), vec![0; 511], vec![0; 512], vec![b'Z'; 5000]] {
        assert_eq!(detect(other), Ok(false));
    }
    assert_eq!(detect(good[good.len() - HEADER_BYTES..].to_vec()), Ok(false), "a trailer is no zfile");
    assert_eq!(detect(good[..100].to_vec()), Err(Kind::Corrupt));
    let mut flipped = good;
    flipped[300] = 1;
    assert_eq!(detect(flipped), Err(Kind::Corrupt));
    assert_eq!(error_of(vec![0; 5000]).to_string(), "corrupt: z: at 0: not a zfile");
}

#[test]
fn reads_beyond_the_end_are_out_of_bounds_and_empty_ones_are_not() {
    let reader = open(build(&sample(5000), options(Algorithm::Zstd, 4096)).unwrap()).unwrap();
    for (offset, len) in [(5000, 1), (4999, 2), (u64::MAX, 1), (u64::MAX - 3, 4096)] {
        assert_eq!(reader.read_at(&mut vec![0; len], offset).unwrap_err().kind(), Kind::OutOfBounds);
    }
    reader.read_at(&mut [], 5000).unwrap();
    let empty = open(build(&[], Options::default()).unwrap()).unwrap();
    assert!(empty.is_empty());
    empty.read_at(&mut [], 0).unwrap();
    assert_eq!(empty.read_at(&mut [0], 0).unwrap_err().kind(), Kind::OutOfBounds);
}

#[test]
fn a_short_block_in_the_middle_is_an_error_not_stale_memory() {
    // As upstream's file tool makes of a short read: every checksum is right, one block is not whole.
    let plain = sample(3 * 4096);
    let whole = build(&plain[..4096], options(Algorithm::Lz4, 4096)).unwrap();
    let short = build(&plain[..4000], options(Algorithm::Lz4, 4096)).unwrap();
    let stored = |z: &[u8]| z[512..z.len() - HEADER_BYTES - 4].to_vec();
    let blocks = [stored(&whole), stored(&short), stored(&whole)];
    let header = Header { block_size: 4096, algorithm: 1, checksum: true, ..Header::default() };
    let table: Vec<u8> = blocks.iter().flat_map(|b| (b.len() as u32).to_le_bytes()).collect();
    let body = blocks.concat();
    let trailer = Header {
        index_offset: 512 + body.len() as u64,
        blocks: 3,
        original_size: 3 * 4096,
        index_crc: crate::zfile::crc::raw(0, &table),
        ..header
    };
    let bytes = [&header.encode(Role::FirstHeader)[..], &body, &table, &trailer.encode(Role::Trailer)].concat();
    let reader = open(bytes).unwrap();
    let e = read_all(&reader).unwrap_err();
    assert!(e.to_string().contains("block 1: decodes to 4000 bytes, 4096 expected"), "{e}");
    assert_eq!(reader.verify(&mut crate::progress::silent).unwrap_err().kind(), Kind::Corrupt);
    reader.read_at(&mut [0; 4096], 8192).unwrap();
}

#[test]
fn a_stopped_verification_stops() {
    let reader = open(build(&sample(3 << 20), Options::default()).unwrap()).unwrap();
    let mut calls = Vec::new();
    let e = reader
        .verify(&mut |done, total| {
            calls.push((done, total));
            if calls.len() == 2 {
                return Err(crate::Error::new(Kind::Interrupted, "enough"));
            }
            Ok(())
        })
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
    assert_eq!(calls, [(1 << 20, 3 << 20), (2 << 20, 3 << 20)]);
}
