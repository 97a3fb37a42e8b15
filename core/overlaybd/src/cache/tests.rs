//! What the cache promises: one fetch for all who want the same, right bytes whatever happens to its files.

mod ahead;
mod care;
mod healing;
mod layers;
mod model;
mod moments;
mod pool;
mod proven;
mod room;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};

use parking_lot::Mutex;

use super::map::Map;
use super::*;
use crate::blob::Blob;
use crate::fetch::testing::{pattern, source, Fault, Server, TestClock};
use crate::sys::os::OsDisk;

pub(super) const DIGEST: &str = "sha256:0123456789abcdef";
pub(super) const CHUNK: usize = 4096;

pub(super) struct Bench {
    dir: tempfile::TempDir,
    notices: Arc<Mutex<Vec<String>>>,
    capacity: u64,
    behind: usize,
    pool: bool,
    readahead: bool,
    chunk: usize,
}

impl Bench {
    pub fn new() -> Self {
        let (dir, notices) = (tempfile::tempdir().unwrap(), Arc::default());
        Bench { dir, notices, capacity: 64 << 20, behind: 0, pool: false, readahead: false, chunk: CHUNK }
    }

    pub fn cache(&self) -> Arc<ChunkCache> {
        self.cache_on(Arc::new(OsDisk))
    }

    fn cache_on(&self, disk: Arc<dyn Disk>) -> Arc<ChunkCache> {
        let notices = Arc::clone(&self.notices);
        let options = Options {
            chunk_bytes: self.chunk as u32,
            pool_line_bytes: self.pool.then_some(CHUNK as u32),
            min_free_bytes: 0,
            write_behind_bytes: self.behind,
            readahead: self.readahead,
            notice: Arc::new(move |line| notices.lock().push(line.to_owned())),
            ..Options::new(self.dir.path(), self.capacity)
        };
        ChunkCache::open(options, disk, Arc::new(TestClock::default())).unwrap()
    }

    fn media(&self) -> std::path::PathBuf {
        self.dir.path().join(if self.pool { "cache_media" } else { DIGEST })
    }

    fn map(&self) -> std::path::PathBuf {
        let media = self.media();
        media.with_file_name(format!("{}.map", media.file_name().unwrap().to_str().unwrap()))
    }
}

pub(super) fn open(cache: &Arc<ChunkCache>, server: &Arc<Server>) -> Arc<dyn Blob> {
    CachedBlob::open(cache, DIGEST, source(server), Some(server.bytes.len() as u64)).unwrap().blob
}

pub(super) fn check(blob: &dyn Blob, server: &Server, offset: usize, len: usize) {
    let mut buf = vec![0xaa; len];
    blob.read_at(&mut buf, offset as u64).unwrap();
    assert!(buf == server.bytes[offset..offset + len], "wrong bytes at {offset}+{len}");
}

fn flip(path: &Path, at: u64) {
    let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_at(&file, &mut byte, at).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

/// What the file system itself may add when it gets round to writing: a block of extents for each scattered file.
const EXTENTS: u64 = 3 * 4096;

/// Bytes on disk of all files in the directory.
fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn a_cold_read_is_one_request_and_a_warm_one_none() {
    let bench = Bench::new();
    let server = Server::new(pattern(100_000));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    assert!(!blob.is_ready(5000, 100));
    check(&*blob, &server, 5000, 100);
    assert_eq!(*server.seen.lock(), [(4096, 8191, crate::fetch::testing::URL.to_owned())]);
    assert!(blob.is_ready(4096, 4096) && !blob.is_ready(4096, 4097));
    check(&*blob, &server, 4096, 4096);
    assert_eq!(server.requests(), 1);
    // What is missing around it comes in one request each, the end of the blob included.
    check(&*blob, &server, 0, 100_000);
    let seen: Vec<_> = server.seen.lock().iter().map(|(first, last, _)| (*first, *last)).collect();
    assert_eq!(seen[1..], [(0, 4095), (8192, 99_999)]);
    let stats = cache.stats();
    assert_eq!((stats.hits.load(Relaxed), stats.misses.load(Relaxed), stats.fetches.load(Relaxed)), (1, 2, 3));
    assert_eq!(stats.fetched_bytes.load(Relaxed), 100_000);
    assert_eq!(blob.read_at(&mut [0; 2], 99_999).unwrap_err().kind(), Kind::OutOfBounds);
}

#[test]
fn what_is_copied_is_right_and_is_not_kept() {
    let bench = Bench::new();
    let server = Server::new(pattern(50_000));
    let blob = open(&bench.cache(), &server);
    check(&*blob, &server, 2 * CHUNK, 1);
    check(&*blob, &server, 5 * CHUNK, 2 * CHUNK);
    let copied = |offset: usize, len: usize| {
        let before = server.requests();
        let mut buf = vec![0xAA; len];
        blob.copy_at(&mut buf, offset as u64).unwrap();
        assert!(buf == server.bytes[offset..offset + len], "wrong bytes at {offset}+{len}");
        let ranges = server.seen.lock()[before..].iter().map(|(first, last, _)| (*first, *last)).collect::<Vec<_>>();
        ranges
    };
    let chunk = CHUNK as u64;
    let gaps = [(0, 2 * chunk - 1), (3 * chunk, 5 * chunk - 1), (7 * chunk, 49_999)];
    assert_eq!(copied(0, 50_000), gaps, "one request for each gap");
    assert_eq!(copied(CHUNK + 7, 2 * CHUNK), [(chunk + 7, 2 * chunk - 1), (3 * chunk, 3 * chunk + 6)]);
    assert_eq!(copied(2 * CHUNK + 1, CHUNK - 1), []);
    assert_eq!(copied(49_990, 10), [(49_990, 49_999)]);
    assert_eq!(copied(50_000, 0), []);
    let kept: Vec<bool> = (0..13).map(|i| blob.is_ready(i * chunk, 1)).collect();
    assert_eq!(kept, (0..13).map(|i| matches!(i, 2 | 5 | 6)).collect::<Vec<_>>());
    assert_eq!(blob.copy_at(&mut [0; 2], 49_999).unwrap_err().kind(), Kind::OutOfBounds);
}

#[test]
fn two_hundred_readers_of_one_chunk_make_one_request() {
    for behind in [0, 1 << 20] {
        let bench = Bench { behind, ..Bench::new() };
        let server = Server::new(pattern(100_000));
        let blob = open(&bench.cache(), &server);
        let barrier = Arc::new(Barrier::new(200));
        // The fetch is held back until all readers are on their way.
        let gate = Arc::clone(&barrier);
        *server.gate.lock() = Some(Arc::new(move || {
            gate.wait();
        }));
        std::thread::scope(|scope| {
            for i in 0..200 {
                let (blob, server, barrier) = (&blob, &server, &barrier);
                scope.spawn(move || {
                    if i > 0 {
                        barrier.wait();
                    }
                    check(&**blob, server, 8192 + i, 100);
                });
            }
        });
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_failed_fetch_fails_for_all_who_wait_and_for_nobody_after() {
    let bench = Bench::new();
    let server = Server::with(pattern(100_000), [Fault::Status(404, vec![])]);
    let blob = open(&bench.cache(), &server);
    let barrier = Arc::new(Barrier::new(2));
    let gate = Arc::clone(&barrier);
    *server.gate.lock() = Some(Arc::new(move || {
        gate.wait();
    }));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| blob.read_at(&mut [0; 10], 0));
        // The first reader stands at the gate, so this one finds its fetch under way.
        while server.requests() == 0 {
            std::thread::yield_now();
        }
        let second = scope.spawn(|| blob.read_at(&mut [0; 10], 100));
        // Both end by the one answer, whether the second came before or after it.
        std::thread::yield_now();
        *server.gate.lock() = None;
        barrier.wait();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), Kind::NotFound);
        match second.join().unwrap() {
            Err(e) => assert_eq!(e.kind(), Kind::NotFound),
            Ok(()) => assert_eq!(server.requests(), 2),
        }
    });
    check(&*blob, &server, 0, 10);
}

#[test]
fn what_was_fetched_is_there_after_a_restart_without_a_network() {
    let bench = Bench { behind: 1 << 20, ..Bench::new() };
    let server = Server::new(pattern(100_001));
    {
        let cache = bench.cache();
        check(&*open(&cache, &server), &server, 0, 100_001);
    }
    let count = server.requests();
    let cache = bench.cache();
    // Not even the length has to be asked for.
    let blob = CachedBlob::open(&cache, DIGEST, source(&server), None).unwrap().blob;
    assert_eq!(blob.len(), 100_001);
    assert!(blob.is_ready(0, 100_001));
    check(&*blob, &server, 1, 100_000);
    assert_eq!(server.requests(), count);
    assert_eq!(bench.media().metadata().unwrap().len(), 100_001);
    assert_eq!(fs::read(bench.media()).unwrap(), server.bytes);
}

#[test]
fn the_length_costs_no_request_of_its_own() {
    let bench = Bench::new();
    let server = Server::new(pattern(10_000));
    let cache = bench.cache();
    let blob = CachedBlob::open(&cache, DIGEST, source(&server), None).unwrap().blob;
    check(&*blob, &server, 0, 4096);
    assert_eq!((blob.len(), server.requests()), (10_000, 1));
    let empty = Server::new(vec![]);
    assert!(CachedBlob::open(&cache, "sha256:00", source(&empty), None).unwrap().blob.is_empty());
    for bad in ["../x", "sha256:..", "sha256:0/0", "sha256", "", "sha256:", "SHA256:00"] {
        assert_eq!(CachedBlob::open(&cache, bad, source(&server), None).err().unwrap().kind(), Kind::Invalid);
    }
}

#[test]
fn damage_to_the_files_costs_fetches_never_bytes() {
    type Spoil = Box<dyn Fn(&Bench)>;
    let spoil: Vec<(&str, Spoil)> = vec![
        ("media bit", Box::new(|b| flip(&b.media(), 9000))),
        ("record checksum bit", Box::new(|b| flip(&b.map(), 4096 + 8))),
        ("record tag bit", Box::new(|b| flip(&b.map(), 4096 + 12))),
        ("header bit", Box::new(|b| flip(&b.map(), 17))),
        (
            "media cut short",
            Box::new(|b| fs::File::options().write(true).open(b.media()).unwrap().set_len(9000).unwrap()),
        ),
        ("media deleted", Box::new(|b| fs::remove_file(b.media()).unwrap())),
        ("map cut short", Box::new(|b| fs::File::options().write(true).open(b.map()).unwrap().set_len(4101).unwrap())),
        ("map emptied", Box::new(|b| fs::write(b.map(), "").unwrap())),
        ("map deleted", Box::new(|b| fs::remove_file(b.map()).unwrap())),
        (
            "map of another blob",
            Box::new(|b| {
                let cache = b.cache();
                let other = Server::new(vec![0; 40_000]);
                let blob = CachedBlob::open(&cache, "sha256:ff", source(&other), Some(40_000)).unwrap().blob;
                check(&*blob, &other, 0, 40_000);
                drop(blob);
                fs::rename(b.dir.path().join("sha256:ff.map"), b.map()).unwrap();
            }),
        ),
        ("map of garbage", Box::new(|b| fs::write(b.map(), vec![0xff; 5000]).unwrap())),
        ("media swapped", Box::new(|b| fs::write(b.media(), vec![7; 40_000]).unwrap())),
    ];
    for (name, spoil) in spoil {
        let bench = Bench::new();
        let server = Server::new(pattern(40_000));
        check(&*open(&bench.cache(), &server), &server, 0, 40_000);
        spoil(&bench);
        for offset in [0, 8192] {
            let cache = bench.cache();
            let blob = open(&cache, &server);
            check(&*blob, &server, offset, 40_000 - offset);
            check(&*blob, &server, 0, 40_000);
            let before = server.requests();
            check(&*blob, &server, 0, 40_000);
            assert_eq!(server.requests(), before, "{name}: not healed");
        }
        assert!(server.requests() > 1, "{name}: not noticed");
    }
}

#[test]
fn a_disk_that_fails_at_any_one_operation_costs_fetches_never_bytes() {
    use crate::sys::fault::{Fault as DiskFault, FaultDisk};

    let server = Server::new(pattern(60_000));
    for fault in [DiskFault::Errno(libc::EIO), DiskFault::Errno(libc::ENOSPC), DiskFault::Short(5000, libc::ENOSPC)] {
        for at in 0.. {
            let bench = Bench { capacity: 10 * CHUNK as u64, ..Bench::new() };
            let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk), at, fault));
            {
                let cache = bench.cache_on(disk.clone());
                let blob = open(&cache, &server);
                for offset in [0, 20_000, 40_000, 0, 50_000] {
                    check(&*blob, &server, offset, 10_000);
                }
                blob.distrust(0, 100).unwrap();
                check(&*blob, &server, 0, 60_000);
            }
            let cache = bench.cache();
            let blob = open(&cache, &server);
            check(&*blob, &server, 0, 60_000);
            check(&*blob, &server, 30_000, 30_000);
            if disk.counted() <= at {
                assert!(at > 20, "the faults were never reached");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_is_left_alone_for_a_while_and_readers_are_served() {
    use crate::sys::fault::{Fault as DiskFault, FaultDisk};

    let bench = Bench::new();
    let server = Server::new(pattern(60_000));
    // The first two operations are the lengths of a new map, then come header and media: the sixth is data.
    let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk), 5, DiskFault::Errno(libc::ENOSPC)));
    let cache = bench.cache_on(disk);
    let blob = open(&cache, &server);
    for i in 0..5 {
        check(&*blob, &server, 2 * i * CHUNK, CHUNK);
    }
    assert_eq!(cache.stats().uncached.load(Relaxed), 5, "nothing is stored while the disk is left alone");
    let notices = bench.notices.lock();
    assert!(notices.len() == 1 && notices[0].contains("nothing is kept for 10 s"), "{notices:?}");
    check(&*blob, &server, 0, CHUNK);
    assert_eq!(server.requests(), 6);
}

#[test]
fn the_disk_is_not_filled_beyond_what_must_stay_free() {
    let bench = Bench::new();
    let server = Server::new(pattern(60_000));
    let options =
        Options { chunk_bytes: 4096, min_free_bytes: u64::MAX / 2, ..Options::new(bench.dir.path(), 1 << 30) };
    let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(TestClock::default())).unwrap();
    let blob = open(&cache, &server);
    check(&*blob, &server, 0, 60_000);
    cache.flush();
    assert_eq!(cache.stats().uncached.load(Relaxed), 1);
    assert!(disk_usage(bench.dir.path()) < 20_000, "{}", disk_usage(bench.dir.path()));
}

#[test]
fn a_whole_blob_put_there_by_hand_is_taken_over_and_nothing_else_is() {
    let bytes = pattern(40_000);
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    let wrong = [&bytes[..39_999], &[bytes[39_999] ^ 1]].concat();
    for (media, taken) in [(&bytes[..], true), (&wrong, false), (&bytes[..39_000], false), (&[], false)] {
        for len in [None, Some(40_000)] {
            let bench = Bench::new();
            fs::write(bench.dir.path().join(&digest), media).unwrap();
            let server = Server::new(bytes.clone());
            let cache = bench.cache();
            let blob = CachedBlob::open(&cache, &digest, source(&server), len).unwrap().blob;
            check(&*blob, &server, 0, 40_000);
            assert_eq!(server.requests() == 0, taken);
        }
    }
}

#[test]
fn media_cut_short_while_open_is_fetched_again() {
    let bench = Bench::new();
    let server = Server::new(pattern(40_000));
    let blob = open(&bench.cache(), &server);
    check(&*blob, &server, 0, 40_000);
    fs::File::options().write(true).open(bench.media()).unwrap().set_len(9000).unwrap();
    check(&*blob, &server, 30_000, 5000);
    assert!(bench.notices.lock().len() == 1, "{:?}", bench.notices.lock());
    check(&*blob, &server, 30_000, 5000);
    assert_eq!(server.requests(), 2);
}

#[test]
fn distrusted_chunks_are_fetched_again_but_not_for_ever() {
    for behind in [0, 1 << 20] {
        let bench = Bench { behind, ..Bench::new() };
        let server = Server::new(pattern(40_000));
        let cache = bench.cache();
        let blob = open(&cache, &server);
        check(&*blob, &server, 0, 40_000);
        cache.flush();
        let mut times = 0;
        while blob.distrust(5000, 1).unwrap() {
            times += 1;
            assert!(times < 100, "goes on for ever");
            check(&*blob, &server, 4096, 4096);
            assert_eq!(server.requests(), 1 + times, "only the one chunk is fetched again");
            cache.flush();
        }
        assert!(times >= 3, "{times}");
        check(&*blob, &server, 0, 40_000);
        assert_eq!(server.requests(), 1 + times);
        // Others are not affected, nor are ranges beyond the end or "to the end".
        assert!(blob.distrust(0, 4096).unwrap() && blob.distrust(50_000, u64::MAX).unwrap());
        drop((blob, cache));
        let cache = bench.cache();
        let blob = open(&cache, &server);
        assert!(!blob.is_ready(0, 1), "a dropped chunk must not come back by a restart");
        check(&*blob, &server, 0, 40_000);
    }
}

/// Eight readers of three blobs that do not fit the cache, who now and then distrust what they have read.
pub(super) fn read_beside_eviction(bench: &Bench) -> Arc<ChunkCache> {
    let server = Server::new(pattern(100 * CHUNK));
    let (cache, len) = (bench.cache(), Some(server.bytes.len() as u64));
    let blobs = ["sha256:01", "sha256:02", "sha256:03"]
        .map(|digest| CachedBlob::open(&cache, digest, source(&server), len).unwrap().blob);
    std::thread::scope(|scope| {
        for seed in 0..8u64 {
            let (blobs, server) = (&blobs, &server);
            scope.spawn(move || {
                let mut x = seed + 1;
                for round in 0..300 {
                    x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(seed + 99);
                    let offset = (x >> 20) as usize % (90 * CHUNK);
                    let blob = &blobs[(x >> 60) as usize % 3];
                    check(&**blob, server, offset, 1 + (x >> 50) as usize % 20_000);
                    if round % 10 == 0 {
                        blob.distrust(offset as u64, 1).unwrap();
                    }
                }
            });
        }
    });
    cache.flush();
    cache
}

#[test]
fn readers_beside_eviction_and_distrust_get_right_bytes_within_bounds() {
    for behind in [0, 1 << 20] {
        let capacity = 40 * CHUNK as u64;
        let bench = Bench { capacity, behind, ..Bench::new() };
        let cache = read_beside_eviction(&bench);
        assert!(cache.stats().evictions.load(Relaxed) > 100);
        let (used, known) = (disk_usage(bench.dir.path()), cache.used_bytes());
        assert!(used <= capacity + EXTENTS && used.abs_diff(known) <= EXTENTS, "{used} used, {known} known");
    }
}

#[test]
fn what_was_used_last_stays() {
    let bench = Bench { capacity: 40 * CHUNK as u64, ..Bench::new() };
    let server = Server::new(pattern(200 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    check(&*blob, &server, 0, CHUNK);
    for i in 1..200 {
        check(&*blob, &server, i * CHUNK, CHUNK);
        check(&*blob, &server, 0, CHUNK);
    }
    let seen = server.seen.lock();
    assert_eq!(seen.iter().filter(|(first, ..)| *first == 0).count(), 1, "the busiest chunk was thrown out");
    assert!(blob.is_ready(190 * CHUNK as u64, 10 * CHUNK as u64), "all of an open blob was thrown out");
}

#[test]
fn blobs_nobody_uses_go_first_and_their_files_with_them() {
    let bench = Bench { capacity: 50 * CHUNK as u64, ..Bench::new() };
    let server = Server::new(pattern(20 * CHUNK));
    let read = |cache: &Arc<ChunkCache>, digest: &str| {
        let blob = CachedBlob::open(cache, digest, source(&server), Some(server.bytes.len() as u64)).unwrap().blob;
        check(&*blob, &server, 0, server.bytes.len());
        blob
    };
    for digest in ["sha256:0a", "sha256:0b"] {
        // A start of its own for each: the order must survive it.
        drop(read(&bench.cache(), digest));
    }
    drop(read(&bench.cache(), "sha256:0a"));
    let cache = bench.cache();
    let third = read(&cache, "sha256:0c");
    let names = |digest: &str| bench.dir.path().join(digest).exists();
    assert!(names("sha256:0a") && !names("sha256:0b") && !names("sha256:0b.map"), "oldest use goes first");
    drop(third);
    // Garbage that looks like a blob is only in the way.
    fs::write(bench.dir.path().join("sha256:0d"), vec![1; 10 * CHUNK]).unwrap();
    let cache = bench.cache();
    let _fourth = read(&cache, "sha256:0e");
    assert!(!names("sha256:0d") && names("sha256:0e"));
    assert!(disk_usage(bench.dir.path()) <= 50 * CHUNK as u64 + EXTENTS);
}

#[test]
fn two_processes_on_one_directory() {
    let bench = Bench { capacity: 30 * CHUNK as u64, ..Bench::new() };
    let server = Server::new(pattern(20 * CHUNK));
    // Two caches have handles, and so locks, of their own, as two processes have.
    let (one, two) = (bench.cache(), bench.cache());
    let (a, b) = (open(&one, &server), open(&two, &server));
    check(&*a, &server, 0, server.bytes.len());
    check(&*b, &server, 0, server.bytes.len());
    assert_eq!(server.requests(), 1, "what one has fetched the other need not fetch");
    // A blob that both have open is never taken apart, however short the room.
    let other = CachedBlob::open(&one, "sha256:ff", source(&server), Some(server.bytes.len() as u64)).unwrap().blob;
    check(&*other, &server, 0, server.bytes.len());
    check(&*a, &server, 0, server.bytes.len());
    check(&*b, &server, 0, server.bytes.len());
    assert_eq!(server.requests(), 2);
    assert_eq!(one.stats().uncached.load(Relaxed), 1);
    assert!(bench.notices.lock().iter().any(|line| line.contains("no room")), "{:?}", bench.notices.lock());
    // What one distrusts the other still reads right.
    assert!(a.distrust(0, 1).unwrap());
    check(&*b, &server, 0, CHUNK);
    check(&*a, &server, 0, CHUNK);
    // Once the other has closed it, there is room again.
    drop(b);
    assert!(disk_usage(bench.dir.path()) <= 30 * CHUNK as u64 + EXTENTS);
}

#[test]
fn what_an_earlier_process_has_of_a_million_chunks_is_known_at_once() {
    let bench = Bench::new();
    let server = Server::new(pattern(CHUNK));
    let len = 1_000_000 * CHUNK as u64;
    let cache = bench.cache();
    drop(CachedBlob::open(&cache, DIGEST, source(&server), Some(len)).unwrap().blob);
    let map = fs::File::options().read(true).write(true).open(bench.map()).unwrap();
    let shape = map::Shape::new(CHUNK as u32, len).unwrap();
    let map = Map::existing(Arc::new(crate::sys::os::OsFile::new(map, "map")), shape);
    map.record(0, &vec![77; 1_000_000]).unwrap();
    let blob = CachedBlob::open(&cache, DIGEST, source(&server), None).unwrap().blob;
    assert!(blob.is_ready(0, len));
    assert_eq!(server.requests(), 0);
}
