//! Benchmarks of the chunk cache: what a hit costs beside a plain file, and what a cache of a million chunks costs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crc_fast::{checksum, CrcAlgorithm::Crc32Iscsi};
use overlaybd::blob::{Blob, FileBlob};
use overlaybd::cache::{CachedBlob, ChunkCache, Options};
use overlaybd::sys::os::{OsClock, OsDisk};
use overlaybd::Result;

const READS: usize = 400_000;
const ROUNDS: usize = 9;
const BLOB_BYTES: u64 = 64 << 20;
const MANY: u64 = 1_000_000;

/// Bytes that are made when they are asked for.
struct Made(u64);

impl Blob for Made {
    fn name(&self) -> &str {
        "made"
    }

    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = (at.wrapping_mul(0x9e37_79b9) >> 13) as u8);
        Ok(())
    }
}

fn cache(directory: &Path, chunk_bytes: u32) -> Arc<ChunkCache> {
    let options = Options { chunk_bytes, min_free_bytes: 0, ..Options::new(directory, 1 << 40) };
    ChunkCache::open(options, Arc::new(OsDisk), Arc::new(OsClock::default())).expect("cache")
}

/// Random 4 KiB reads.
fn read(blob: &dyn Blob) -> Duration {
    let (mut buf, mut x) = ([0; 4096], 1u64);
    let start = Instant::now();
    for _ in 0..READS {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        blob.read_at(&mut buf, (x >> 33) % (BLOB_BYTES / 4096) * 4096).expect("read");
    }
    start.elapsed()
}

fn hit(directory: &Path) {
    let cache = cache(directory, 256 << 10);
    let cached = CachedBlob::over(&cache, "sha256:01", Arc::new(Made(BLOB_BYTES))).expect("blob");
    cached.cached.expect("a place in the cache").fill(0, BLOB_BYTES).expect("filled");
    let file = FileBlob::open(&OsDisk, &directory.join("sha256:01")).expect("media");
    // Turns, so that what else the machine does hits both alike.
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| (read(&file), read(&*cached.blob))).collect();
    rounds.sort_by_key(|(plain, cached)| cached.as_nanos() * 1000 / plain.as_nanos());
    let (plain, cached) = rounds[ROUNDS / 2];
    let value = cached.as_nanos() as f64 / READS as f64;
    let ratio = cached.as_secs_f64() / plain.as_secs_f64();
    row("cache.hit_4k", value, "ns", "\"the same file\"", ratio);
}

/// A blob of which a million chunks are recorded, as the format has it.
fn write_map(directory: &Path, digest: &str) {
    let mut head =
        [&b"OBDCACHE"[..], &1u32.to_le_bytes(), &4096u32.to_le_bytes(), &(MANY * 4096).to_le_bytes()].concat();
    let sum = checksum(Crc32Iscsi, &[&head, digest.as_bytes()].concat()) as u32;
    head.extend_from_slice(&sum.to_le_bytes());
    head.resize(4096, 0);
    for chunk in 0..MANY {
        let crc = (chunk as u32).wrapping_mul(77);
        let tied = [&chunk.to_le_bytes()[..], &4096u32.to_le_bytes(), &crc.to_le_bytes()].concat();
        head.extend_from_slice(&crc.to_le_bytes());
        head.extend_from_slice(&(checksum(Crc32Iscsi, &tied) as u32).max(1).to_le_bytes());
    }
    fs::write(directory.join(format!("{digest}.map")), head).expect("map");
    fs::File::create(directory.join(digest)).expect("media").set_len(MANY * 4096).expect("length");
}

fn open(directory: &Path) {
    let digest = "sha256:02";
    write_map(directory, digest);
    let before = resident();
    let start = Instant::now();
    let cache = cache(directory, 4096);
    let opened = CachedBlob::over(&cache, digest, Arc::new(Made(MANY * 4096))).expect("blob");
    let took = start.elapsed();
    assert!(opened.blob.is_ready(0, MANY * 4096), "the map was not taken");
    row("cache.open_1m_chunks_s", took.as_secs_f64(), "s", "null", f64::NAN);
    row("cache.bytes_per_chunk", (resident() - before) as f64 / MANY as f64, "bytes", "null", f64::NAN);
}

/// Bytes of memory that this process has.
fn resident() -> i64 {
    let mut text = [0; 128];
    let n = fs::File::open("/proc/self/statm").and_then(|file| file.read_at(&mut text, 0)).expect("statm");
    let pages = std::str::from_utf8(&text[..n]).expect("text").split(' ').nth(1).expect("field");
    pages.parse::<i64>().expect("number") * 4096
}

fn row(name: &str, value: f64, unit: &str, peer: &str, ratio: f64) {
    let ratio = if ratio.is_nan() { "null".to_owned() } else { format!("{ratio:.4}") };
    println!(r#"{{"name": "{name}", "value": {value:.4}, "unit": "{unit}", "peer": {peer}, "ratio": {ratio}}}"#);
}

fn main() {
    let directory = tempfile::tempdir().expect("directory");
    open(directory.path());
    hit(directory.path());
}
