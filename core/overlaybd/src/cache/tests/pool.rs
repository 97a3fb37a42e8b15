//! The block pool: one file of fixed size, restarts, eviction by line, one process at a time.

use super::*;

fn bench(lines: u64) -> Bench {
    Bench { capacity: lines * CHUNK as u64, pool: true, ..Bench::new() }
}

fn read(cache: &Arc<ChunkCache>, digest: &str, server: &Arc<Server>) -> Arc<dyn Blob> {
    let len = Some(server.bytes.len() as u64);
    let blob = CachedBlob::open(cache, digest, source(server), len).unwrap().blob;
    check(&*blob, server, 0, server.bytes.len());
    blob
}

#[test]
fn the_file_has_its_size_from_the_start_and_keeps_it() {
    let bench = bench(64);
    let server = Server::new(pattern(100 * CHUNK + 1));
    let cache = bench.cache();
    let taken = || std::os::unix::fs::MetadataExt::blocks(&bench.media().metadata().unwrap()) * 512;
    assert_eq!(taken(), 64 * 4096);
    let blob = open(&cache, &server);
    for i in 0..300 {
        check(&*blob, &server, i * 37 % 100 * CHUNK, CHUNK + 1);
    }
    assert!(taken() <= 64 * 4096 + EXTENTS && cache.used_bytes() <= 64 * 4096);
    assert!(cache.stats().evictions.load(Relaxed) > 30);
    assert!(bench.notices.lock().is_empty(), "{:?}", bench.notices.lock());
}

#[test]
fn what_was_fetched_survives_a_restart_also_with_another_configured_size() {
    let mut bench = bench(64);
    let (one, two) = (Server::new(pattern(10 * CHUNK + 9)), Server::new(pattern(20 * CHUNK)));
    {
        let cache = bench.cache();
        read(&cache, "sha256:01", &one);
        read(&cache, "sha256:02", &two);
    }
    bench.capacity = 7 * CHUNK as u64;
    let cache = bench.cache();
    assert_eq!(cache.used_bytes(), 31 * 4096);
    let (a, b) = (read(&cache, "sha256:01", &one), read(&cache, "sha256:02", &two));
    assert_eq!((one.requests(), two.requests()), (1, 1));
    // A blob of the same name and another length is another blob.
    let other = Server::new(pattern(3 * CHUNK));
    read(&cache, "sha256:05", &other);
    assert!(a.is_ready(0, a.len()) && b.is_ready(0, b.len()));
}

#[test]
fn what_nobody_used_for_longest_goes_first_also_after_a_restart() {
    let bench = bench(64);
    let server = Server::new(pattern(20 * CHUNK));
    {
        let cache = bench.cache();
        for digest in ["sha256:0a", "sha256:0b", "sha256:0c"] {
            read(&cache, digest, &server);
        }
        read(&cache, "sha256:0a", &server);
    }
    let cache = bench.cache();
    let mut blobs = vec![read(&cache, "sha256:0d", &server)];
    let len = Some(server.bytes.len() as u64);
    for digest in ["sha256:0a", "sha256:0b"] {
        blobs.push(CachedBlob::open(&cache, digest, source(&server), len).unwrap().blob);
    }
    let ready = |blob: &Arc<dyn Blob>| (0..20).filter(|i| blob.is_ready(i * 4096, 1)).count();
    assert_eq!((ready(&blobs[0]), ready(&blobs[1])), (20, 20));
    assert!(ready(&blobs[2]) <= 4, "the oldest were to go");
}

#[test]
fn small_lines_are_fetched_in_groups() {
    let bench = bench(64);
    let server = Server::new(pattern(40 * CHUNK));
    let options = Options {
        chunk_bytes: 8 * CHUNK as u32,
        pool_line_bytes: Some(CHUNK as u32),
        ..Options::new(bench.dir.path(), bench.capacity)
    };
    let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(TestClock::default())).unwrap();
    let blob = CachedBlob::open(&cache, DIGEST, source(&server), None).unwrap().blob;
    check(&*blob, &server, 0, 8 * CHUNK);
    check(&*blob, &server, 18 * CHUNK, 10);
    let seen: Vec<_> = server.seen.lock().iter().map(|(first, last, _)| (*first, *last)).collect();
    assert_eq!(seen, [(0, 8 * 4096 - 1), (18 * 4096, 24 * 4096 - 1)]);
}

#[test]
fn a_second_process_reads_uncached_and_says_so() {
    let bench = bench(64);
    let server = Server::new(pattern(10 * CHUNK));
    let first = bench.cache();
    let second = bench.cache();
    read(&first, DIGEST, &server);
    read(&second, DIGEST, &server);
    read(&second, DIGEST, &server);
    assert_eq!(server.requests(), 3);
    assert!(bench.notices.lock()[0].contains("another process uses it"), "{:?}", bench.notices.lock());
    drop((first, second));
    read(&bench.cache(), DIGEST, &server);
    assert_eq!(server.requests(), 3);
}

#[test]
fn readers_beside_eviction_get_right_bytes() {
    for behind in [0, 1 << 20] {
        let bench = Bench { behind, ..bench(40) };
        let cache = read_beside_eviction(&bench);
        let (evictions, used) = (cache.stats().evictions.load(Relaxed), cache.used_bytes());
        assert!(evictions > 100 && used <= bench.capacity, "{evictions} evictions, {used} bytes used");
    }
}

#[test]
fn blobs_that_are_closed_and_opened_beside_eviction_keep_their_lines_apart() {
    let bench = Bench { behind: 1 << 20, ..bench(40) };
    // Bytes of one must not pass for those of another.
    let servers: Vec<_> = (0..3u8).map(|n| Server::new(vec![n + 1; 100 * CHUNK])).collect();
    let cache = bench.cache();
    std::thread::scope(|scope| {
        for seed in 0..6u64 {
            let (cache, servers) = (&cache, &servers);
            scope.spawn(move || {
                let mut x = seed + 1;
                for round in 0..150 {
                    x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(seed + 99);
                    let n = (x >> 60) as usize % 3;
                    let digest = format!("sha256:0{n}");
                    let len = Some(servers[n].bytes.len() as u64);
                    let blob = CachedBlob::open(cache, &digest, source(&servers[n]), len).unwrap().blob;
                    let offset = (x >> 20) as usize % (90 * CHUNK);
                    check(&*blob, &servers[n], offset, 1 + (x >> 50) as usize % 20_000);
                    if round % 5 == 0 {
                        blob.distrust(offset as u64, 1).unwrap();
                    }
                }
            });
        }
    });
    cache.flush();
    let (evictions, used) = (cache.stats().evictions.load(Relaxed), cache.used_bytes());
    assert!(evictions > 50 && used <= bench.capacity, "{evictions} evictions, {used} bytes used");
}

#[test]
fn damage_to_the_pool_costs_fetches_never_bytes() {
    type Spoil = Box<dyn Fn(&Bench)>;
    let cut = |path: std::path::PathBuf, len| fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    let spoil: Vec<(&str, Spoil)> = vec![
        ("media bit", Box::new(|b| flip(&b.media(), 63 * 4096 + 100))),
        ("record bit", Box::new(|b| (0..64).for_each(|i| flip(&b.map(), 4096 + 32 * i + 21)))),
        ("header bit", Box::new(|b| flip(&b.map(), 9))),
        ("media cut short", Box::new(move |b| cut(b.media(), 5000))),
        ("media deleted", Box::new(|b| fs::remove_file(b.media()).unwrap())),
        ("index cut short", Box::new(move |b| cut(b.map(), 4200))),
        ("index deleted", Box::new(|b| fs::remove_file(b.map()).unwrap())),
        ("index of garbage", Box::new(|b| fs::write(b.map(), vec![0xff; 5000]).unwrap())),
    ];
    for (name, spoil) in spoil {
        let bench = bench(64);
        let server = Server::new(pattern(60 * CHUNK + 5));
        read(&bench.cache(), DIGEST, &server);
        spoil(&bench);
        for _ in 0..2 {
            let cache = bench.cache();
            drop(read(&cache, DIGEST, &server));
            let before = server.requests();
            read(&cache, DIGEST, &server);
            assert_eq!(server.requests(), before, "{name}: not healed");
        }
        assert!(server.requests() > 1 || name == "media bit", "{name}: not noticed");
    }
}

#[test]
fn a_disk_without_room_for_it_means_reading_uncached() {
    use crate::sys::fault::{Fault as DiskFault, FaultDisk};

    let server = Server::new(pattern(60_000));
    for at in 0..40 {
        let bench = bench(10);
        {
            let disk = Arc::new(FaultDisk::new(Arc::new(OsDisk), at, DiskFault::Errno(libc::ENOSPC)));
            read(&bench.cache_on(disk), DIGEST, &server);
        }
        read(&bench.cache(), DIGEST, &server);
    }
    let options = Options { pool_line_bytes: Some(4096), ..Options::new(bench(1).dir.path(), 4095) };
    let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(TestClock::default())).unwrap();
    read(&cache, DIGEST, &server);
    let options = Options { pool_line_bytes: Some(5000), ..Options::new(bench(1).dir.path(), 1 << 20) };
    let refused = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(TestClock::default()));
    assert_eq!(refused.err().unwrap().kind(), Kind::Invalid);
}
