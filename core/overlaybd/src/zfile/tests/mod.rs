//! What the tests of zfiles share: golden files, quick builds, and blobs that go bad and heal.

mod bad_input;
mod building;
mod golden;
mod property;
mod reloads;

use std::path::PathBuf;
use std::sync::Arc;

use super::{Algorithm, Builder, Options, Reader};
use crate::blob::{Blob, MemoryBlob};
use crate::error::Result;
use crate::sink::{MemorySink, Sink};

/// A file made by upstream; `.zst` ones are looked for too and decompressed.
fn golden_file(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    if let Ok(bytes) = std::fs::read(dir.join(name)) {
        return bytes;
    }
    let packed = std::fs::read(dir.join(format!("{name}.zst"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut plain = Vec::with_capacity(16 << 20);
    zstd_safe::decompress(&mut plain, &packed).unwrap();
    plain
}

fn open(bytes: Vec<u8>) -> Result<Reader> {
    Reader::open(Arc::new(MemoryBlob::new("z", bytes)))
}

fn read_all(blob: &dyn Blob) -> Result<Vec<u8>> {
    let mut plain = vec![0; blob.len() as usize];
    blob.read_at(&mut plain, 0)?;
    Ok(plain)
}

fn build(plain: &[u8], options: Options) -> Result<Vec<u8>> {
    let mut builder = Builder::new(MemorySink::default(), options)?;
    builder.write(plain)?;
    builder.finish()?;
    Ok(builder.into_sink().bytes)
}

/// Bytes that compress to about half.
fn sample(len: usize) -> Vec<u8> {
    let mut x = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        bytes.extend_from_slice(b"a word ");
        bytes.extend_from_slice(&noise(&mut x).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn noise(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

fn options(algorithm: Algorithm, block_size: u32) -> Options {
    Options { algorithm, block_size, threads: 1, ..Options::default() }
}
