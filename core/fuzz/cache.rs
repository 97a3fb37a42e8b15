//! Fuzzes the files of the chunk cache: maps, the index of a pool, and media that do not fit them.
#![no_main]

// The disk in memory of the core's own tests.
#[allow(dead_code)]
#[path = "../overlaybd/tests/lsmt/disk.rs"]
mod disk;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use disk::MemDisk;
use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::cache::{CachedBlob, ChunkCache, Options};
use overlaybd::sys::Clock;
use overlaybd::zfile::crc;

const DIGEST: &str = "sha256:0123456789abcdef";
const CHUNK: usize = 4096;
/// Whole chunks and a part of one.
const BYTES: usize = 5 * CHUNK + 1000;

#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
}

/// What the cached blob holds.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..BYTES as u32).map(|i| (i * 7 + (i >> 8)) as u8).collect());

/// Media and side file as a run in good order leaves them, without and with a pool.
static GOOD: LazyLock<[[Vec<u8>; 2]; 2]> = LazyLock::new(|| {
    [false, true].map(|pool| {
        let disk = MemDisk::default();
        let read = read(&disk, pool);
        assert!(read == *CONTENT);
        paths(pool).map(|path| disk.content(&path))
    })
});

fn paths(pool: bool) -> [PathBuf; 2] {
    let media = Path::new("/cache").join(if pool { "cache_media" } else { DIGEST });
    let map = format!("{}.map", media.display()).into();
    [media, map]
}

/// The blob read through a cache, whose files stay.
fn read(disk: &MemDisk, pool: bool) -> Vec<u8> {
    let options = Options {
        chunk_bytes: CHUNK as u32,
        pool_line_bytes: pool.then_some(CHUNK as u32),
        min_free_bytes: 0,
        write_behind_bytes: 0,
        readahead: false,
        ..Options::new("/cache", 8 * CHUNK as u64)
    };
    let cache = ChunkCache::open(options, Arc::new(disk.clone()), Arc::new(NoClock)).expect("a cache");
    let origin: Arc<dyn Blob> = Arc::new(MemoryBlob::new("origin", CONTENT.clone()));
    let blob = CachedBlob::over(&cache, DIGEST, origin).expect("a blob").blob;
    let mut bytes = vec![0xee; BYTES];
    // In two reads, of which the second finds a part of what the first one fetched.
    blob.read_at(&mut bytes[..CHUNK + 10], 0).expect("the origin has it");
    blob.read_at(&mut bytes[CHUNK..], CHUNK as u64).expect("the origin has it");
    cache.flush();
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    !crc::raw(u32::MAX, bytes)
}

/// Makes the checksums of a side file right, of its header and of every record that has one, whatever they say.
fn vouch(side: &mut [u8], pool: bool) {
    let put = |place: &mut [u8], sum: u32| place[..4].copy_from_slice(&sum.to_le_bytes());
    if side.len() < 4096 {
        return;
    }
    let (head, records) = side.split_at_mut(4096);
    if pool {
        // A pool that is there keeps its size, and memory goes with it: here it is a small one.
        head[13..16].fill(0);
        let sum = checksum(&head[..16]);
        put(&mut head[16..], sum);
    } else {
        let sum = checksum(&[&head[..24], DIGEST.as_bytes()].concat());
        put(&mut head[24..], sum);
    }
    // Bytes of a record, of its tag's text in the record, and where in the header the size of a chunk is.
    let (record, text, size) = if pool { (32, 24, 8..12) } else { (8, 4, 12..16) };
    for (number, record) in records.chunks_exact_mut(record).enumerate() {
        if record[text..text + 4] != [0; 4] {
            let tied = [&(number as u64).to_le_bytes()[..], &head[size.clone()], &record[..text]].concat();
            put(&mut record[text..], checksum(&tied).max(1));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let pool = mode & 1 != 0;
    let [mut media, mut side] = GOOD[usize::from(pool)].clone();
    if mode & 2 != 0 {
        // Five bytes each: which file and where, and what is there then.
        for change in rest.chunks_exact(5) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
            let (file, at) = if at & 1 != 0 { (&mut media, at / 2) } else { (&mut side, at / 2) };
            file.iter_mut().skip(at).zip(&change[2..]).for_each(|(place, byte)| *place = *byte);
        }
    } else {
        side = rest.to_vec();
    }
    if mode & 8 != 0 {
        vouch(&mut side, pool);
    }
    if mode & 4 != 0 {
        media.truncate(usize::from(*mode) * 64);
    }
    let disk = MemDisk::default();
    for (path, bytes) in paths(pool).iter().zip([&media, &side]) {
        disk.put(path, bytes);
    }
    for _ in 0..2 {
        for (number, chunk) in read(&disk, pool).chunks(CHUNK).enumerate() {
            // Checksums that were made up to fit other bytes do their work; nothing else may come through.
            let right = &CONTENT[number * CHUNK..][..chunk.len()];
            let made_up = || media.chunks(CHUNK).any(|there| there.starts_with(chunk));
            assert!(chunk == right || made_up(), "chunk {number} is wrong");
        }
    }
});
