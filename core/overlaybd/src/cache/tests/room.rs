//! Room that comes back: of bytes nobody vouches for, of blobs that are closed, of what no longer fits.

use super::*;

fn ready(blob: &Arc<dyn Blob>) -> usize {
    (0..blob.len().div_ceil(CHUNK as u64)).filter(|i| blob.is_ready(i * CHUNK as u64, 1)).count()
}

fn named(cache: &Arc<ChunkCache>, digest: &str, server: &Arc<Server>) -> Arc<dyn Blob> {
    CachedBlob::open(cache, digest, source(server), Some(server.bytes.len() as u64)).unwrap().blob
}

fn read(cache: &Arc<ChunkCache>, digest: &str, server: &Arc<Server>) -> Arc<dyn Blob> {
    let blob = named(cache, digest, server);
    check(&*blob, server, 0, server.bytes.len());
    blob
}

fn pool(lines: u64) -> Bench {
    Bench { capacity: lines * CHUNK as u64, pool: true, ..Bench::new() }
}

#[test]
fn side_files_are_as_long_as_their_records() {
    let bench = Bench::new();
    open(&bench.cache(), &Server::new(pattern(25 * CHUNK + 1)));
    assert_eq!(bench.map().metadata().unwrap().len(), 4096 + 26 * 8);
    let bench = pool(30);
    drop(bench.cache());
    assert_eq!(bench.map().metadata().unwrap().len(), 4096 + 30 * 32);
}

#[test]
fn bytes_that_nobody_vouches_for_go_before_any_that_somebody_may_read() {
    let bench = Bench::new();
    let server = Server::new(pattern(100 * CHUNK));
    let cache = bench.cache();
    let blob = read(&cache, DIGEST, &server);
    assert!(blob.distrust(0, 20 * CHUNK as u64).unwrap());
    assert!(cache.shrink(88 * CHUNK as u64).unwrap() <= 88 * CHUNK as u64);
    assert_eq!(ready(&blob), 80, "what was good went");
}

#[test]
fn of_a_blob_that_is_closed_no_more_goes_than_has_to() {
    let bench = Bench::new();
    let server = Server::new(pattern(100 * CHUNK));
    let cache = bench.cache();
    drop(read(&cache, DIGEST, &server));
    assert!(cache.shrink(70 * CHUNK as u64).unwrap() <= 70 * CHUNK as u64);
    let left = ready(&named(&cache, DIGEST, &server));
    assert!((50..=70).contains(&left), "{left} chunks are left");
}

#[test]
fn a_directory_that_is_too_full_is_tended_while_nobody_writes() {
    let mut bench = Bench::new();
    let server = Server::new(pattern(100 * CHUNK));
    drop(read(&bench.cache(), DIGEST, &server));
    bench.capacity = 40 * CHUNK as u64;
    let cache = bench.cache();
    cache.shared.tend();
    assert!(disk_usage(bench.dir.path()) <= bench.capacity + EXTENTS, "{}", disk_usage(bench.dir.path()));
    // And one that is not is left alone.
    let blob = named(&cache, DIGEST, &server);
    let before = ready(&blob);
    cache.shared.tend();
    assert!(before > 0 && ready(&blob) == before);
}

#[test]
fn a_whole_blob_of_more_than_a_piece_is_taken_over() {
    let bytes = pattern((5 << 19) + 77);
    let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{hex}");
    let bench = Bench::new();
    fs::write(bench.dir.path().join(&digest), &bytes).unwrap();
    let server = Server::new(bytes);
    read(&bench.cache(), &digest, &server);
    assert_eq!(server.requests(), 0);
}

#[test]
fn memory_of_fetches_is_used_again_if_not_far_too_long() {
    let buffers = buffers::Buffers::default();
    let first = vec![1; 4000];
    let place = first.as_ptr();
    buffers.put(Arc::new(first));
    let short = buffers.take(999);
    assert!(short.len() == 999 && short.as_ptr() != place, "far too long for so little");
    let again = buffers.take(1000);
    assert!(again.len() == 1000 && again.as_ptr() == place);
}

#[test]
fn a_pool_of_few_lines_keeps_what_is_read_in_turn() {
    let bench = pool(8);
    let server = Server::new(pattern(40 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    for i in 0..40 {
        check(&*blob, &server, i * CHUNK, CHUNK);
    }
    let stats = cache.stats();
    assert_eq!((stats.uncached.load(Relaxed), stats.evictions.load(Relaxed), ready(&blob)), (0, 32, 8));
}

#[test]
fn lines_of_closed_blobs_are_there_for_others() {
    let bench = pool(16);
    let server = Server::new(pattern(16 * CHUNK));
    let used = {
        let cache = bench.cache();
        for digest in ["sha256:0a", "sha256:0b", "sha256:0c"] {
            assert_eq!(ready(&read(&cache, digest, &server)), 16, "{digest}");
        }
        assert_eq!(cache.stats().uncached.load(Relaxed), 0);
        assert_eq!(ready(&named(&cache, "sha256:0a", &server)), 0);
        cache.used_bytes()
    };
    let cache = bench.cache();
    assert_eq!(cache.used_bytes(), used);
    assert_eq!(ready(&named(&cache, "sha256:0b", &server)), 0, "what had gone came back by a restart");
}

#[test]
fn lines_that_were_distrusted_come_back_when_their_blob_is_closed() {
    let bench = pool(64);
    let server = Server::new(pattern(60 * CHUNK));
    let cache = bench.cache();
    let blob = read(&cache, "sha256:0a", &server);
    assert!(blob.distrust(0, 5 * CHUNK as u64).unwrap());
    drop(blob);
    assert_eq!(cache.used_bytes(), 55 * CHUNK as u64);
}

#[test]
fn a_blob_that_is_opened_again_is_as_old_as_its_last_use() {
    let bench = pool(15);
    let server = Server::new(pattern(6 * CHUNK));
    let cache = bench.cache();
    let old = read(&cache, "sha256:0a", &server);
    drop(read(&cache, "sha256:0b", &server));
    let newer = named(&cache, "sha256:0b", &server);
    let newest = read(&cache, "sha256:0c", &server);
    assert_eq!((ready(&newer), ready(&newest)), (6, 6));
    assert_eq!(ready(&old), 3, "the oldest were to go");
}
