//! What looks after a cache directory beside those who use it.

use super::*;

pub(super) fn digest_of(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    format!("sha256:{}", hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn entries_tell_what_is_there_and_who_uses_it() {
    let bench = Bench::new();
    let server = Server::new(pattern(10 * CHUNK + 1));
    let (user, keeper) = (bench.cache(), bench.cache());
    let blob = open(&user, &server);
    check(&*blob, &server, 0, 2 * CHUNK);
    keeper.pin(DIGEST, true).unwrap();
    fs::write(bench.dir.path().join("sha256:0d"), vec![1; CHUNK]).unwrap();
    let mut entries = keeper.entries().unwrap();
    entries.sort_by(|a, b| a.digest.cmp(&b.digest));
    let [mine, garbage] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((mine.len, mine.chunk_bytes, mine.chunks, mine.present), (10 * 4096 + 1, 4096, 11, 2));
    assert!(mine.pinned && mine.in_use && mine.bytes >= 2 * 4096);
    assert_eq!((garbage.chunks, garbage.in_use, garbage.pinned), (0, false, false));
    drop((blob, user));
    assert!(keeper.entries().unwrap().iter().all(|entry| !entry.in_use));
}

#[test]
fn a_check_finds_every_bad_chunk_and_a_repair_drops_them() {
    let bytes = pattern(10 * CHUNK + 1);
    let digest = digest_of(&bytes);
    let server = Server::new(bytes.clone());
    let bench = Bench::new();
    let read = |source_of: &Arc<Server>| {
        let len = Some(bytes.len() as u64);
        CachedBlob::open(&bench.cache(), &digest, source(source_of), len).unwrap().blob
    };
    check(&*read(&server), &server, 0, bytes.len());
    let cache = bench.cache();
    let right = cache.check(&digest, false).unwrap();
    assert!(right.is_right() && right.digest_matches == Some(true) && right.checked == 11 && !right.in_use);
    for at in [5000, 10 * 4096] {
        flip(&bench.dir.path().join(&digest), at);
    }
    assert_eq!(cache.check(&digest, false).unwrap().bad, [1, 10]);
    assert_eq!(cache.check(&digest, true).unwrap().bad, [1, 10]);
    let repaired = cache.check(&digest, false).unwrap();
    assert!(repaired.is_right() && repaired.checked == 9);
    check(&*read(&server), &server, 0, bytes.len());
    assert_eq!(server.requests(), 3, "only what was wrong is fetched again");

    // What came wrong has right checksums; the digest tells.
    fs::remove_file(bench.dir.path().join(&digest)).unwrap();
    let liar = Server::new(pattern(10 * CHUNK + 2)[1..].to_vec());
    check(&*read(&liar), &liar, 0, bytes.len());
    let blob = read(&liar);
    let wrong = cache.check(&digest, true).unwrap();
    assert!(wrong.digest_matches == Some(false) && wrong.bad.is_empty() && wrong.in_use && !wrong.is_right());
    drop(blob);
    check(&*read(&server), &server, 0, bytes.len());
    assert!(cache.check(&digest, false).unwrap().is_right());
    assert_eq!(cache.check("sha256:77", false).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(cache.check("../x", false).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn what_is_pinned_or_open_stays() {
    let bench = Bench { capacity: 50 * CHUNK as u64, ..Bench::new() };
    let server = Server::new(pattern(20 * CHUNK));
    let read = |cache: &Arc<ChunkCache>, digest: &str| {
        let len = Some(server.bytes.len() as u64);
        let blob = CachedBlob::open(cache, digest, source(&server), len).unwrap().blob;
        check(&*blob, &server, 0, server.bytes.len());
        blob
    };
    let there = |digest: &str| bench.dir.path().join(digest).exists();
    let cache = bench.cache();
    assert!(bench.cache().pin("sha256:0a", true).unwrap() && !bench.cache().pin("sha256:0a", true).unwrap());
    for digest in ["sha256:0a", "sha256:0b", "sha256:0c"] {
        drop(read(&cache, digest));
    }
    assert!(there("sha256:0a") && !there("sha256:0b") && there("sha256:0c"));
    assert_eq!(cache.evict("sha256:0a").unwrap_err().kind(), Kind::Busy);
    let open = read(&bench.cache(), "sha256:0c");
    assert_eq!(cache.evict("sha256:0c").unwrap(), None, "a process has it open");
    assert!(cache.shrink(0).unwrap() > 0 && there("sha256:0a") && there("sha256:0c"));
    drop(open);
    assert!(cache.evict("sha256:0c").unwrap().unwrap() >= 20 * CHUNK as u64 && !there("sha256:0c"));
    cache.pin("sha256:0a", false).unwrap();
    assert_eq!(cache.shrink(0).unwrap(), 0);
    assert_eq!(fs::read_dir(bench.dir.path()).unwrap().count(), 0);
}

#[test]
fn files_that_cannot_be_made_smaller_neither_hang_eviction_nor_stay_for_ever() {
    use crate::sys::fault::FaultDisk;

    let bench = Bench { capacity: 50 * CHUNK as u64, ..Bench::new() };
    let server = Server::new(pattern(20 * CHUNK));
    let cache = bench.cache_on(Arc::new(FaultDisk::without_holes(Arc::new(OsDisk))));
    let mut open = Vec::new();
    for round in 0..6 {
        let digest = format!("sha256:0{round}");
        let blob = CachedBlob::open(&cache, &digest, source(&server), Some(server.bytes.len() as u64)).unwrap().blob;
        check(&*blob, &server, 0, server.bytes.len());
        open.push(blob);
        assert!(disk_usage(bench.dir.path()) <= bench.capacity + EXTENTS);
    }
    assert!(cache.stats().uncached.load(Relaxed) > 0 && !bench.notices.lock().is_empty());
    for blob in &open {
        check(&**blob, &server, 0, server.bytes.len());
    }
    // Once nobody has them open any more they go as a whole.
    drop((open, cache));
    let cache = bench.cache_on(Arc::new(FaultDisk::without_holes(Arc::new(OsDisk))));
    let blob = CachedBlob::open(&cache, "sha256:0f", source(&server), Some(server.bytes.len() as u64)).unwrap().blob;
    check(&*blob, &server, 0, server.bytes.len());
    assert!(blob.is_ready(0, blob.len()), "there was no room for it");
    assert!(disk_usage(bench.dir.path()) <= bench.capacity + EXTENTS);
}
