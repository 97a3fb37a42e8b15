//! Fuzzes zfiles whose checksums are right: good ones with fields changed, bursts of errors that must be noticed, and
//! what our own writer makes, which our reader must give back.
#![no_main]

#[allow(dead_code)]
#[path = "input.rs"]
mod input;

use std::sync::{Arc, LazyLock};

use input::Input;
use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::sink::{MemorySink, Sink};
use overlaybd::zfile::header::HEADER_BYTES;
use overlaybd::zfile::{crc, Algorithm, Builder, Options, Reader};
use overlaybd::{progress, Result};

/// Bytes of what is compressed: blocks and a part of one.
const CONTENT: usize = 5 * 512 + 77;
/// Largest content read from what opens.
const LARGEST: u64 = 128 << 10;

static PLAIN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..CONTENT).map(|i| (i / 9 * (i % 5)) as u8).collect());

/// Zfiles of all kinds.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..16).map(|kind| build(&PLAIN, kind).unwrap()).collect());

fn options(kind: u8) -> Options {
    Options {
        algorithm: if kind & 1 == 0 { Algorithm::Lz4 } else { Algorithm::Zstd },
        block_size: if kind & 2 == 0 { 512 } else { 1024 },
        checksum: kind & 4 == 0,
        overwrite_header: kind & 8 != 0,
        threads: 1,
    }
}

fn build(plain: &[u8], kind: u8) -> Result<Vec<u8>> {
    let mut builder = Builder::new(MemorySink::default(), options(kind))?;
    builder.write(plain)?;
    builder.finish()?;
    Ok(builder.into_sink().bytes)
}

fn open(bytes: &[u8]) -> Result<Reader> {
    Reader::open(Arc::new(MemoryBlob::new("fuzz", bytes.to_vec())))
}

/// All that a zfile holds.
fn content(bytes: &[u8]) -> Result<Vec<u8>> {
    let reader = open(bytes)?;
    let mut plain = vec![0; reader.len().min(LARGEST) as usize];
    reader.read_at(&mut plain, 0)?;
    Ok(plain)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (mode, kind) = (input.byte(), input.byte() % 16);
    match mode % 3 {
        0 => fields(kind, &mut input),
        1 => burst(&GOOD[usize::from(kind & !4)], &mut input),
        _ => {
            let file = build(input.0, kind).expect("blocks of this size fit whatever they hold");
            assert!(
                content(&file).expect("what was written can be read") == input.0[..input.0.len().min(LARGEST as usize)]
            );
        }
    }
});

/// Fields changed, then all checksums made right, whatever they are about.
fn fields(kind: u8, input: &mut Input) {
    let mut file = GOOD[usize::from(kind)].clone();
    let stored = blocks(&file);
    input.change(&mut file, 8);
    if input.byte() & 1 == 0 {
        vouch(&mut file, &stored, options(kind).checksum);
    }
    let Ok(reader) = open(&file) else { return };
    assert!(reader.info().header.blocks <= file.len() as u64, "more blocks than the file can have");
    let whole = content(&file);
    let len = reader.len().min(LARGEST);
    // In one go, in two, and block by block.
    let (mut first, mut second) = (vec![1; len as usize / 3], vec![2; (len - len / 3) as usize]);
    let parts = reader.read_at(&mut first, 0).and_then(|()| reader.read_at(&mut second, len / 3));
    assert_eq!(whole.is_ok(), parts.is_ok(), "one way to read fails, and the other does not");
    if let Ok(whole) = whole {
        assert!(whole == [first, second].concat(), "two reads differ");
        if reader.len() <= LARGEST && reader.info().header.checksum {
            reader.verify(&mut progress::silent).expect("what can be read is intact");
        }
    }
}

/// Up to 32 wrong bits in a row: never other content, since each checksum sees that.
fn burst(good: &[u8], input: &mut Input) {
    let mut file = good.to_vec();
    let at = usize::from(input.word()) % file.len();
    for (place, byte) in file[at..].iter_mut().zip(input.bytes(4)) {
        *place = *byte;
    }
    if let Ok(read) = content(&file) {
        assert!(read == *PLAIN, "other bytes after a change at {at} of {}", file.len());
    }
}

/// Where the stored blocks of a good zfile are, and their table.
fn blocks(file: &[u8]) -> Vec<(usize, usize)> {
    let trailer = &file[file.len() - HEADER_BYTES..];
    let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().unwrap()) as usize;
    let (table, count) = (number(40), number(48));
    let mut at = HEADER_BYTES;
    let mut found = vec![(table, count * 4)];
    for word in file[table..table + count * 4].chunks_exact(4) {
        let len = u32::from_le_bytes(word.try_into().unwrap()) as usize;
        found.push((at, len));
        at += len;
    }
    found
}

/// Makes the checksums right of what was at these places: the table first, then blocks, which may have `sums`.
fn vouch(file: &mut [u8], places: &[(usize, usize)], sums: bool) {
    let end = file.len() - HEADER_BYTES;
    let (table, len) = places[0];
    let of_table = crc::raw(crc::START, &file[table..table + len]);
    for (at, len) in places[1..].iter().filter(|_| sums) {
        let (block, sum) = file[*at..at + len].split_at_mut(len - 4);
        sum.copy_from_slice(&crc::raw(crc::BLOCK_START, block).to_le_bytes());
    }
    for start in [0, end] {
        let block = &mut file[start..start + HEADER_BYTES];
        if block[64..68] != [0; 4] {
            block[64..68].copy_from_slice(&of_table.to_le_bytes());
        }
        block[28..32].fill(0);
        let digest = crc::raw(crc::START, block);
        block[28..32].copy_from_slice(&digest.to_le_bytes());
    }
}
