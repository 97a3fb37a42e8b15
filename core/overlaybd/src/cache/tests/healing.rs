//! No image is ever stuck on a bad cache: whatever of a layer's structure is wrong in it is fetched again.

use super::*;
use crate::blob::MemoryBlob;
use crate::cache::flight::Flight;
use crate::cache::store::{Step, ABSENT, READY};
use crate::layer;
use crate::lsmt::{Layer, Stack};

/// A layer of upstream, compressed and wrapped in a tar.
fn wrapped() -> Vec<u8> {
    fs::read(format!("{}/../../tests/golden/lsmt/b.lz4.tar", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The same without tar and compression.
fn plain() -> Vec<u8> {
    let inner = layer::unwrap(Arc::new(MemoryBlob::new("b", wrapped()))).unwrap();
    let mut bytes = vec![0; inner.len() as usize];
    inner.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn content(layer: Layer) -> Vec<u8> {
    let stack = Stack::new(vec![layer]).unwrap();
    let mut bytes = vec![0; stack.virtual_size() as usize];
    stack.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Where it hurts: every structure of the layer, as offsets into the blob.
fn places(bytes: &[u8]) -> Vec<usize> {
    let len = bytes.len();
    let ends = [0, 300, 600, 1100, 1536, 1536 + 60, 1536 + 500, len / 2];
    let tails = (1..12).map(|n| len.saturating_sub(n * 300));
    ends.into_iter().chain(tails).filter(|at| *at < len).collect()
}

#[test]
fn layers_with_any_bad_structure_in_the_cache_open_and_read_right() {
    for (name, good) in [("wrapped", wrapped()), ("plain", plain())] {
        let right = content(layer::open(&(Arc::new(MemoryBlob::new("b", good.clone())) as _)).unwrap());
        for at in places(&good) {
            let bench = Bench::new();
            // What once came wrong from somewhere has the right checksum in the map: only its reader can tell.
            let mut wrong = good.clone();
            wrong[at..(at + 16).min(good.len())].iter_mut().for_each(|byte| *byte ^= 0xff);
            let liar = Server::new(wrong);
            check(&*open(&bench.cache(), &liar), &liar, 0, good.len());
            let server = Server::new(good.clone());
            let blob = open(&bench.cache(), &server);
            let layer = layer::open(&blob).unwrap_or_else(|e| panic!("{name}: stuck at {at}: {e}"));
            let read = content(layer);
            // Plain data without checksums is all that nobody can prove wrong.
            assert!(read == right || name == "plain", "{name}: wrong bytes after healing at {at}");
            assert!(server.requests() <= 20, "{name}: {} requests", server.requests());
        }
    }
}

#[test]
fn a_length_that_was_told_wrong_is_asked_for_again_by_who_opens_next() {
    let bench = Bench::new();
    let good = pattern(100_000);
    let longer = Server::new([good.clone(), vec![0]].concat());
    let learn = |server| CachedBlob::open(&bench.cache(), DIGEST, source(server), None).unwrap().blob;
    assert_eq!(learn(&longer).len(), 100_001);
    // As from another registry, or the same one when it is well again.
    let server = Server::new(good);
    let misled = learn(&server);
    assert_eq!(misled.len(), 100_001, "the cache says so");
    assert_eq!(misled.read_at(&mut [0; 100], 50_000).unwrap_err().kind(), Kind::Corrupt);
    drop(misled);
    let blob = learn(&server);
    assert_eq!(blob.len(), 100_000);
    check(&*blob, &server, 0, 100_000);
    drop(blob);
    let requests = server.requests();
    check(&*learn(&server), &server, 0, 100_000);
    assert_eq!(server.requests(), requests, "what is right is kept");
}

#[test]
fn a_registry_whose_own_copy_is_wrong_is_said_to_be_and_asked_a_few_times_only() {
    let mut wrong = wrapped();
    wrong[1536 + 30] ^= 1;
    let server = Server::new(wrong);
    let bench = Bench::new();
    let blob = open(&bench.cache(), &server);
    let e = layer::open(&blob).err().unwrap();
    assert_eq!(e.kind(), Kind::Corrupt);
    assert!(e.to_string().contains("fetched 3 times, and its source gave the same"), "{e}");
    assert!(server.requests() < 10);
}

#[test]
fn refetches_of_one_blob_are_bounded_in_all() {
    let server = Server::new(pattern(600 * CHUNK));
    let bench = Bench::new();
    let blob = open(&bench.cache(), &server);
    let mut dropped = 0;
    for round in 0..16 {
        check(&*blob, &server, 0, server.bytes.len());
        for chunk in 0..600 {
            dropped += u32::from(blob.distrust((chunk * CHUNK + round) as u64, 1).unwrap());
        }
    }
    assert_eq!(dropped, 256 + 600, "about twice the blob, no more");
    check(&*blob, &server, 0, server.bytes.len());
}

#[test]
fn media_deleted_under_a_running_process_is_not_missed() {
    let bench = Bench::new();
    let server = Server::new(pattern(20 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    check(&*blob, &server, 0, 10 * CHUNK);
    fs::remove_file(bench.media()).unwrap();
    fs::remove_file(bench.map()).unwrap();
    check(&*blob, &server, 0, 20 * CHUNK);
    drop((blob, cache));
    let blob = open(&bench.cache(), &server);
    check(&*blob, &server, 0, 20 * CHUNK);
    // A file of the wrong length, and a directory where the map should be.
    drop(blob);
    fs::write(bench.media(), vec![1; 50 * CHUNK]).unwrap();
    check(&*open(&bench.cache(), &server), &server, 0, 20 * CHUNK);
    fs::remove_file(bench.map()).unwrap();
    fs::create_dir(bench.map()).unwrap();
    check(&*open(&bench.cache(), &server), &server, 0, 20 * CHUNK);
    assert!(bench.notices.lock().iter().any(|line| line.contains("read uncached")));
}

#[test]
fn a_place_that_was_wrong_too_often_gets_another_chance_after_a_while() {
    let (bench, clock) = (Bench::new(), Arc::new(TestClock::default()));
    let server = Server::new(pattern(40_000));
    let options = Options { min_free_bytes: 0, ..Options::new(bench.dir.path(), 1 << 20) };
    let cache = ChunkCache::open(options, Arc::new(OsDisk), Arc::clone(&clock) as _).unwrap();
    let blob = open(&cache, &server);
    let distrusted = || {
        let mut times = 0;
        while times < 100 && blob.distrust(5000, 1).unwrap() {
            times += 1;
            check(&*blob, &server, 4096, 4096);
            cache.flush();
        }
        times
    };
    check(&*blob, &server, 0, 40_000);
    let first = distrusted();
    assert!((3..100).contains(&first) && distrusted() == 0, "{first}");
    clock.sleep(std::time::Duration::from_secs(59));
    assert_eq!(distrusted(), 0);
    clock.sleep(std::time::Duration::from_secs(2));
    assert_eq!(distrusted(), first);
}

#[test]
fn a_complaint_gives_up_the_fetch_whose_bytes_were_wrong_and_no_other() {
    let (bench, server) = (Bench::new(), Server::new(pattern(20 * CHUNK)));
    let len = Some(server.bytes.len() as u64);
    let blob = CachedBlob::open(&bench.cache(), DIGEST, source(&server), len).unwrap().cached.unwrap();
    let lead = |chunk| match blob.store.step(chunk, chunk + 1, CHUNK, 1, false) {
        Step::Lead(flight) => flight,
        _ => panic!("somebody else fetches it"),
    };
    let bytes = |flight: &Flight| Arc::new(server.bytes[flight.first * CHUNK..][..CHUNK].to_vec());
    let [wrong, other, coming] = [1, 5, 9].map(lead);
    for flight in [&wrong, &other] {
        flight.finish(Ok(bytes(flight)));
    }
    assert!(blob.store.forget(1, 2, true) && blob.store.forget(9, 10, true));
    for flight in [&wrong, &other, &coming] {
        blob.store.keep(flight, &bytes(flight)).unwrap();
    }
    assert_eq!([1, 5, 9].map(|chunk| blob.store.state(chunk)), [ABSENT, READY, READY]);
    assert_eq!(blob.cache.stats().repairs.load(Relaxed), 1);
}

#[test]
fn a_media_file_is_as_long_as_its_blob_from_the_start() {
    let (bench, server) = (Bench::new(), Server::new(pattern(10 * CHUNK + 7)));
    let len = || bench.media().metadata().unwrap().len();
    let blob = open(&bench.cache(), &server);
    assert_eq!(len(), server.bytes.len() as u64);
    drop(blob);
    fs::OpenOptions::new().write(true).open(bench.media()).unwrap().set_len(5).unwrap();
    check(&*open(&bench.cache(), &server), &server, 0, CHUNK);
    assert_eq!(len(), server.bytes.len() as u64);
}
