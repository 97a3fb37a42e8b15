//! Golden files, the operations that made them, and short ways to open things.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::{Layer, Stack, Upper, Uuid};
use overlaybd::sys::os::OsDisk;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The content of a golden file, decompressed where it is stored compressed.
pub fn golden(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/lsmt");
    let plain = dir.join(name);
    if plain.exists() {
        return fs::read(plain).unwrap();
    }
    let packed = fs::read(dir.join(format!("{name}.zst"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut bytes = Vec::with_capacity(4 << 20);
    zstd_safe::decompress(&mut bytes, &packed).unwrap();
    bytes
}

/// A golden file as a blob in memory.
pub fn golden_blob(name: &str) -> Arc<dyn Blob> {
    Arc::new(MemoryBlob::new(name, golden(name)))
}

/// A golden finished layer.
pub fn golden_layer(name: &str) -> Layer {
    let blob = overlaybd::layer::unwrap(golden_blob(name)).unwrap();
    Layer::open(blob).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The whole device of a stack.
pub fn flatten(stack: &Stack) -> Vec<u8> {
    let mut device = vec![0xee; stack.virtual_size() as usize];
    // Odd piece sizes, so that entries are cut at places of no meaning.
    for (number, piece) in device.chunks_mut(37 * SECTOR).enumerate() {
        stack.read_at(piece, (number * 37 * SECTOR) as u64).unwrap();
    }
    device
}

/// The whole device of a writable layer on a stack or on nothing.
pub fn flatten_upper(upper: &Upper, below: Option<&Stack>) -> Vec<u8> {
    let mut device = vec![0xee; upper.virtual_size() as usize];
    for (number, piece) in device.chunks_mut(41 * SECTOR).enumerate() {
        upper.read_at(piece, (number * 41 * SECTOR) as u64, |part, at| fill_below(part, at, below)).unwrap();
    }
    device
}

/// What is below a writable layer.
pub fn fill_below(part: &mut [u8], at: u64, below: Option<&Stack>) -> overlaybd::Result<()> {
    match below {
        Some(stack) => stack.read_at(part, at),
        None => {
            part.fill(0);
            Ok(())
        }
    }
}

/// What is below a layer that stands alone.
pub fn nothing_below(part: &mut [u8], _at: u64) -> overlaybd::Result<()> {
    part.fill(0);
    Ok(())
}

/// One line of an `.ops` file.
#[derive(Clone, Debug)]
pub enum Op {
    /// Bytes at a sector.
    Write(u64, Vec<u8>),
    /// First sector and count.
    Discard(u64, u64),
}

/// The operations of an `.ops` file; the README of the golden files says what they mean.
pub fn ops(name: &str) -> Vec<Op> {
    let text = String::from_utf8(golden(&format!("{name}.ops"))).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let kind = words.next().unwrap();
            let [offset, len, seed] = std::array::from_fn(|_| words.next().unwrap().parse::<u64>().unwrap());
            match kind {
                "d" => Op::Discard(offset, len),
                _ => Op::Write(offset, content(kind, len, seed)),
            }
        })
        .collect()
}

/// What an operation writes: `c` one byte over and over, `w` words that say where they are.
fn content(kind: &str, sectors: u64, seed: u64) -> Vec<u8> {
    if kind == "c" {
        return vec![seed as u8; sectors as usize * SECTOR];
    }
    assert_eq!(kind, "w");
    (0..sectors).flat_map(|j| [seed.to_le_bytes(), j.to_le_bytes()].concat().repeat(32)).collect()
}

/// Carries out operations on a layer that stands alone.
pub fn apply(upper: &Upper, ops: &[Op]) {
    apply_on(upper, ops, None);
}

/// Carries out operations on a layer on a stack or on nothing.
pub fn apply_on(upper: &Upper, ops: &[Op], below: Option<&Stack>) {
    for op in ops {
        match op {
            Op::Write(sector, bytes) => {
                upper.write_at(bytes, sector * SECTOR as u64, |part, at| fill_below(part, at, below)).unwrap();
            }
            Op::Discard(sector, len) => upper.discard(sector * SECTOR as u64, len * SECTOR as u64).unwrap(),
        }
    }
}

/// Paths of a pair of files in a directory.
pub fn pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.data")), dir.join(format!("{name}.index")))
}

/// Writes golden data and index to a directory.
pub fn golden_pair(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (data, index) = pair(dir, name);
    fs::write(&data, golden(&format!("{name}.data"))).unwrap();
    fs::write(&index, golden(&format!("{name}.index"))).unwrap();
    (data, index)
}

/// Opens a pair for writing.
pub fn open(files: &(PathBuf, PathBuf)) -> Upper {
    Upper::open(&OsDisk, &files.0, &files.1).unwrap()
}

/// Creates and opens a new pair.
pub fn new_upper(dir: &Path, name: &str, size: u64, sparse: bool, uuid: Option<&str>) -> Upper {
    let files = pair(dir, name);
    let uuid = uuid.map(|text| Uuid::parse(text.as_bytes()).unwrap());
    let options = CreateOptions { size, sparse, uuid, ..CreateOptions::default() };
    create(&OsDisk, &files.0, &files.1, &options).unwrap();
    open(&files)
}
