//! Blobs with a hash tree: nothing wrong is given, or kept, whoever sends it and whatever the disk does to it.

use super::*;
use crate::error::Kind;
use crate::fetch::testing::Fault;
use crate::merkle::{Builder, Tree, LEAF_BYTES};

const LEAF: usize = LEAF_BYTES as usize;
const LEN: usize = 5 * LEAF + 1234;

fn tree_of(bytes: &[u8]) -> Arc<Tree> {
    let mut builder = Builder::default();
    builder.update(bytes);
    let (list, root) = builder.finish().unwrap();
    Arc::new(Tree::parse(&list, &root).unwrap())
}

fn server() -> Arc<Server> {
    Server::new(pattern(LEN))
}

fn open_proven(cache: &Arc<ChunkCache>, server: &Arc<Server>) -> Arc<dyn Blob> {
    let source = source(server).with_tree(Some(tree_of(&server.bytes)));
    CachedBlob::open(cache, DIGEST, source, None).unwrap().blob
}

/// The bench, whose chunks are smaller than a leaf, and one whose chunks are two leaves.
fn benches() -> [Bench; 3] {
    let large = Bench { chunk: 2 * LEAF, ..Bench::new() };
    [Bench::new(), large, Bench { pool: true, ..Bench::new() }]
}

fn media_of(bench: &Bench, server: &Server) -> std::path::PathBuf {
    match bench.pool {
        true => bench.media(),
        false => bench.dir.path().join(tree_of(&server.bytes).cache_name(DIGEST)),
    }
}

#[test]
fn what_a_source_sends_wrong_is_fetched_again_and_never_kept() {
    for bench in benches() {
        let server = server();
        let cache = bench.cache();
        let blob = open_proven(&cache, &server);
        assert_eq!(blob.len(), LEN as u64, "the tree knows the length");
        server.faults.lock().push_back(Fault::Lie);
        check(&*blob, &server, 3 * LEAF + 17, 100);
        assert_eq!(server.seen.lock().len(), 2, "once more, of the same source");
        cache.flush();
        let seen = server.seen.lock().len();
        check(&*blob, &server, 3 * LEAF + 17, 100);
        assert_eq!(server.seen.lock().len(), seen);
        drop(blob);
        let again = open_proven(&cache, &server);
        check(&*again, &server, 0, LEN);
        assert_eq!(cache.stats().mismatches.load(Relaxed), 0);
    }
}

#[test]
fn a_source_that_goes_on_sending_wrong_bytes_is_an_error_that_names_it() {
    for bench in benches() {
        let server = server();
        let blob = open_proven(&bench.cache(), &server);
        server.faults.lock().extend((0..2).map(|_| Fault::Lie));
        let e = blob.read_at(&mut [0; 10], 2 * LEAF as u64 + 5).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
        let line = e.to_string();
        assert!(line.contains("do not match the tree") && line.contains("sent by http"), "{line}");
        assert!(line.contains("fetched 2 times"), "{line}");
        assert_eq!(server.seen.lock().len(), 2, "bounded");
        check(&*blob, &server, 0, LEN);
    }
}

#[test]
fn a_copy_past_the_cache_is_held_against_the_tree_too() {
    let (bench, server) = (Bench::new(), server());
    let blob = open_proven(&bench.cache(), &server);
    server.faults.lock().push_back(Fault::Lie);
    let mut buf = vec![0; 5000];
    blob.copy_at(&mut buf, LEAF as u64 - 2500).unwrap();
    assert!(buf == server.bytes[LEAF - 2500..][..5000]);
    assert_eq!(server.seen.lock()[0].0, 0, "whole leaves are fetched");
}

#[test]
fn bits_that_rot_in_the_cache_are_noticed_after_a_start() {
    for bench in benches() {
        let server = server();
        let cache = bench.cache();
        check(&*open_proven(&cache, &server), &server, 0, LEN);
        drop(cache);
        let cache = bench.cache();
        let blob = open_proven(&cache, &server);
        let before = server.seen.lock().len();
        check(&*blob, &server, 0, LEN);
        assert_eq!(server.seen.lock().len(), before, "all of it was kept");
        drop((blob, cache));
        flip(&media_of(&bench, &server), 2 * LEAF_BYTES + 9);
        let cache = bench.cache();
        let blob = open_proven(&cache, &server);
        check(&*blob, &server, 0, LEN);
        assert_eq!(cache.stats().mismatches.load(Relaxed), 1);
        assert!(server.seen.lock().len() > before, "what was wrong was fetched again");
        assert!(bench.notices.lock().iter().any(|line| line.contains("does not match the tree")));
    }
}

#[test]
fn what_was_cached_without_a_tree_or_by_another_is_not_used() {
    for bench in benches() {
        let server = server();
        let cache = bench.cache();
        let liar = Server::new(vec![7; LEN]);
        let plain = open(&cache, &liar);
        check(&*plain, &liar, 0, LEN);
        cache.flush();
        check(&*open_proven(&cache, &server), &server, 0, LEN);
        check(&*open_proven(&cache, &liar), &liar, 0, LEN);
        check(&*open_proven(&cache, &server), &server, 0, LEN);
        check(&*plain, &liar, 0, LEN);
    }
}

#[test]
fn a_length_that_is_not_that_of_the_tree_is_refused() {
    let (bench, server) = (Bench::new(), server());
    let source = source(&server).with_tree(Some(tree_of(b"short")));
    let e = CachedBlob::open(&bench.cache(), DIGEST, source, Some(LEN as u64)).err().unwrap();
    assert_eq!(e.kind(), Kind::Corrupt);
}

#[test]
fn a_line_of_the_pool_that_is_gone_leaves_its_leaf_unproved() {
    let (bench, server) = (Bench { pool: true, capacity: 40 * CHUNK as u64, ..Bench::new() }, server());
    for _ in 0..3 {
        let cache = bench.cache();
        let blob = open_proven(&cache, &server);
        // Far more than fits: lines go while others of their leaf stay.
        for at in (0..LEN - 100).step_by(10_007) {
            check(&*blob, &server, at, 100);
        }
        assert_eq!(cache.stats().mismatches.load(Relaxed), 0);
    }
}
