//! Blobs kept in layer directories, blobs of any kind behind the cache, and filling in the background.

use super::*;
use crate::blob::MemoryBlob;

fn in_layer(cache: &Arc<ChunkCache>, media: &Path, server: &Arc<Server>) -> Opened {
    let len = Some(server.bytes.len() as u64);
    CachedBlob::open_in_layer(cache, media, DIGEST, source(server), len).unwrap()
}

#[test]
fn what_a_device_reads_fills_the_file_that_a_download_completes() {
    let bench = Bench { capacity: 0, behind: 1 << 20, ..Bench::new() };
    let layer = bench.dir.path().join("layer");
    fs::create_dir(&layer).unwrap();
    let media = layer.join(".download");
    let server = Server::new(pattern(20 * CHUNK + 5));
    let len = server.bytes.len() as u64;
    {
        // No directory of its own at all; the layer is kept all the same, whatever the capacity.
        let options = Options { chunk_bytes: CHUNK as u32, ..Options::new("", 0) };
        let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::new(TestClock::default())).unwrap();
        let opened = in_layer(&cache, &media, &server);
        let cached = opened.cached.unwrap();
        check(&*opened.blob, &server, 5000, 10);
        cache.flush();
        assert_eq!(cached.missing(0, u64::MAX), [(0, 4096), (8192, len - 8192)]);
        cached.fill(0, 3 * CHUNK as u64).unwrap();
        assert_eq!(cached.missing(0, len), [(3 * 4096, len - 3 * 4096)]);
        let nowhere = CachedBlob::open(&cache, DIGEST, source(&server), Some(len)).unwrap();
        assert!(nowhere.cached.is_none(), "without layer directory there is no place for it");
    }
    // After a restart the rest comes in one request, and the file is the blob.
    let before = server.requests();
    let cache = bench.cache();
    let opened = in_layer(&cache, &media, &server);
    let cached = opened.cached.unwrap();
    cached.fill(0, len).unwrap();
    assert_eq!(server.requests(), before + 1);
    assert_eq!(cached.missing(0, len), []);
    assert!(fs::read(&media).unwrap() == server.bytes);
    // The download gives it its name; who has it open goes on, and writes nothing to it any more.
    let commit = layer.join("overlaybd.commit");
    fs::rename(&media, &commit).unwrap();
    fs::remove_file(layer.join(".download.map")).unwrap();
    check(&*opened.blob, &server, 0, len as usize);
    assert!(opened.blob.distrust(5000, 1).unwrap());
    flip(&commit, 5000);
    check(&*opened.blob, &server, 0, len as usize);
    cache.flush();
    assert!(fs::read(&commit).unwrap() != server.bytes, "a finished layer was written to");
    assert!(!media.exists());
}

#[test]
fn filling_checks_what_an_earlier_run_left() {
    let bench = Bench::new();
    let server = Server::new(pattern(20 * CHUNK));
    let media = bench.dir.path().join(".download");
    in_layer(&bench.cache(), &media, &server).cached.unwrap().fill(0, u64::MAX).unwrap();
    flip(&media, 9000);
    in_layer(&bench.cache(), &media, &server).cached.unwrap().fill(0, u64::MAX).unwrap();
    assert!(fs::read(&media).unwrap() == server.bytes);
    assert_eq!(server.requests(), 2);
    // A map that outlived its media proves nothing.
    fs::remove_file(&media).unwrap();
    let cached = in_layer(&bench.cache(), &media, &server).cached.unwrap();
    assert_eq!(cached.missing(0, u64::MAX), [(0, server.bytes.len() as u64)]);
}

#[test]
fn filling_fails_if_the_registry_or_the_disk_does() {
    use crate::sys::fault::{Fault as DiskFault, FaultDisk};

    let bench = Bench::new();
    let server = Server::with(pattern(20 * CHUNK), [Fault::Status(404, vec![])]);
    let media = bench.dir.path().join(".download");
    let cached = in_layer(&bench.cache(), &media, &server).cached.unwrap();
    assert_eq!(cached.fill(0, 10).unwrap_err().kind(), Kind::NotFound);
    cached.fill(0, 10).unwrap();
    let disk = FaultDisk::new(Arc::new(OsDisk), 0, DiskFault::Errno(libc::ENOSPC));
    let cached = in_layer(&bench.cache_on(Arc::new(disk)), &media, &server).cached.unwrap();
    let e = cached.fill(CHUNK as u64, 10).unwrap_err();
    assert!(e.to_string().contains("could not be kept"), "{e}");
}

#[test]
fn readers_and_fillings_share_their_fetches() {
    let bench = Bench { behind: 1 << 20, ..Bench::new() };
    let server = Server::new(pattern(300 * CHUNK));
    let len = server.bytes.len() as u64;
    let cache = bench.cache();
    let opened = CachedBlob::open(&cache, DIGEST, source(&server), Some(len)).unwrap();
    let cached = opened.cached.unwrap();
    std::thread::scope(|scope| {
        for part in 0..3 {
            let cached = &cached;
            scope.spawn(move || cached.fill(part * len / 3, len / 3).unwrap());
        }
        for i in 0..300 {
            check(&*opened.blob, &server, (i * 7 % 300) * CHUNK + 11, 100);
        }
    });
    assert_eq!(cache.stats().fetched_bytes.load(Relaxed), len, "something was fetched twice");
    assert_eq!(cached.missing(0, len), []);
}

#[test]
fn any_slow_blob_can_stand_behind_the_cache() {
    let bench = Bench::new();
    let bytes = pattern(10 * CHUNK + 1);
    let slow = || Arc::new(MemoryBlob::new("slow", bytes.clone())) as Arc<dyn Blob>;
    let server = Server::new(bytes.clone());
    let cache = bench.cache();
    let opened = CachedBlob::over(&cache, DIGEST, slow()).unwrap();
    check(&*opened.blob, &server, 3, 10 * CHUNK - 2);
    check(&*opened.blob, &server, 0, 10 * CHUNK + 1);
    assert_eq!(cache.stats().fetched_bytes.load(Relaxed), bytes.len() as u64);
    assert!(opened.blob.distrust(0, 1).unwrap() && !opened.blob.is_ready(0, 1));
    check(&*opened.blob, &server, 0, 10);
    drop((opened, cache));
    assert!(CachedBlob::over(&bench.cache(), DIGEST, slow()).unwrap().blob.is_ready(0, bytes.len() as u64));
    assert_eq!(CachedBlob::over(&bench.cache(), "../x", slow()).err().unwrap().kind(), Kind::Invalid);
}
