//! What is fetched before anybody wants it: asked for once, kept, and counted.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use super::{check, open, Bench, CHUNK, DIGEST};
use crate::cache::{CachedBlob, ChunkCache};
use crate::error::Kind;
use crate::fetch::testing::{pattern, source, Fault, Server};
use crate::fetch::LANE;
use crate::sys::Clock;

#[test]
fn prefetching_fetches_what_is_missing_and_nothing_twice() {
    let bench = Bench::new();
    let server = Server::new(pattern(300 * CHUNK));
    let blob = open(&bench.cache(), &server);
    check(&*blob, &server, 10 * CHUNK, CHUNK);
    assert_eq!(blob.prefetch(9 * CHUNK as u64 + 5, 3 * CHUNK as u64).unwrap(), 3 * CHUNK as u64);
    let seen: Vec<_> = server.seen.lock().iter().map(|(first, last, _)| (*first, *last)).collect();
    let chunks = |first: usize, end: usize| ((first * CHUNK) as u64, (end * CHUNK) as u64 - 1);
    assert_eq!(seen, [chunks(10, 11), chunks(9, 10), chunks(11, 13)]);
    assert_eq!(blob.prefetch(9 * CHUNK as u64, 4 * CHUNK as u64).unwrap(), 0);
    assert_eq!(blob.prefetch(0, 0).unwrap(), 0);
    assert_eq!(blob.prefetch(299 * CHUNK as u64, CHUNK as u64 + 1).unwrap_err().kind(), Kind::OutOfBounds);
    check(&*blob, &server, 9 * CHUNK, 4 * CHUNK);
    assert_eq!(server.requests(), 3, "a read after a prefetch asks nobody");
    drop(blob);
    // Also after a restart.
    let blob = open(&bench.cache(), &server);
    assert_eq!((blob.prefetch(9 * CHUNK as u64, 4 * CHUNK as u64).unwrap(), server.requests()), (0, 3));
}

fn reading_ahead() -> Bench {
    Bench { readahead: true, behind: 1 << 20, ..Bench::new() }
}

/// Returns once the condition holds; fails after a time that no machine needs.
pub(super) fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("waits in vain");
}

/// Bytes fetched in advance, and those of them that were wanted.
fn ahead(cache: &ChunkCache) -> (u64, u64) {
    (cache.stats().ahead_bytes.load(Relaxed), cache.stats().ahead_used_bytes.load(Relaxed))
}

#[test]
fn what_is_prefetched_and_then_read_is_counted() {
    let bench = Bench::new();
    let server = Server::new(pattern(20 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    blob.prefetch(0, 10 * CHUNK as u64).unwrap();
    cache.flush();
    assert_eq!(ahead(&cache), (10 * CHUNK as u64, 0));
    for _ in 0..2 {
        check(&*blob, &server, 3 * CHUNK, 2 * CHUNK);
        check(&*blob, &server, 12 * CHUNK, CHUNK);
    }
    assert_eq!(ahead(&cache), (10 * CHUNK as u64, 2 * CHUNK as u64));
}

#[test]
fn a_sequential_reader_needs_few_requests_and_others_fetch_no_more_than_they_read() {
    let bench = reading_ahead();
    let server = Server::new(pattern(300 * CHUNK));
    let cache = bench.cache();
    let len = Some(server.bytes.len() as u64);
    let blob = CachedBlob::open(&cache, DIGEST, source(&server), len).unwrap().cached.unwrap();
    for i in 0..300 {
        // The reader is never faster than the threads that read ahead, as it may be on a busy machine.
        wait_for(|| blob.store.flights.lock().is_empty());
        check(&*blob, &server, i * CHUNK, CHUNK);
    }
    assert!(server.requests() < 40, "{} requests", server.requests());
    assert_eq!(cache.stats().fetched_bytes.load(Relaxed), 300 * CHUNK as u64);
    // All of it was wanted, which is known of each fetch when it has been written.
    wait_for(|| ahead(&cache).0 == ahead(&cache).1);
    assert!(ahead(&cache).0 > 150 * CHUNK as u64);
    let other = CachedBlob::open(&cache, "sha256:ff", source(&server), len).unwrap().blob;
    server.seen.lock().clear();
    for i in (0..300).rev().step_by(3) {
        check(&*other, &server, i * CHUNK + 7, 1);
    }
    assert!(server.seen.lock().iter().all(|(first, last, _)| last - first + 1 == CHUNK as u64));
}

#[test]
fn what_a_reader_will_want_is_under_way_while_it_waits_for_nothing() {
    let bench = reading_ahead();
    let server = Server::new(pattern(100 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    check(&*blob, &server, 0, 3 * CHUNK);
    let gate = Arc::new(parking_lot::RwLock::new(()));
    let closed = gate.write();
    let waits = Arc::clone(&gate);
    *server.gate.lock() = Some(Arc::new(move || drop(waits.read())));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| check(&*blob, &server, 3 * CHUNK, CHUNK));
        wait_for(|| server.requests() == 3);
        drop(closed);
        second.join().unwrap();
    });
    let chunks = |first: usize, end: usize| ((first * CHUNK) as u64, (end * CHUNK) as u64 - 1);
    let mut seen: Vec<_> = server.seen.lock().iter().map(|(first, last, _)| (*first, *last)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [chunks(0, 3), chunks(3, 4), chunks(4, 8)]);
    // It ends with the reader.
    check(&*blob, &server, 70 * CHUNK, CHUNK);
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_fetch_in_advance_that_fails_harms_nobody() {
    let bench = reading_ahead();
    let server = Server::new(pattern(100 * CHUNK));
    let blob = open(&bench.cache(), &server);
    check(&*blob, &server, 0, CHUNK);
    for i in 1..100 {
        server.faults.lock().push_back(Fault::Fail(Kind::Denied));
        // The fault may also hit what the reader fetches itself.
        if blob.read_at(&mut vec![0; CHUNK], (i * CHUNK) as u64).is_err() {
            server.faults.lock().clear();
            check(&*blob, &server, i * CHUNK, CHUNK);
        }
    }
    server.faults.lock().clear();
    check(&*blob, &server, 0, 100 * CHUNK);
}

#[test]
fn readers_of_all_kinds_beside_one_another_get_right_bytes() {
    let bench = Bench { capacity: 150 * CHUNK as u64, ..reading_ahead() };
    let server = Server::new(pattern(400 * CHUNK));
    let cache = bench.cache();
    let blob = open(&cache, &server);
    std::thread::scope(|scope| {
        for reader in 0..6usize {
            let (blob, server) = (&blob, &server);
            scope.spawn(move || {
                for step in 0..390 {
                    let chunk = match reader {
                        0..3 => (reader * 130 + step) % 390,
                        3 => (step & !3) + 3 - (step & 3),
                        _ => step * 7919 % 390,
                    };
                    check(&**blob, server, chunk * CHUNK + 100, 2 * CHUNK);
                    if step % 50 == reader {
                        blob.distrust((chunk * CHUNK) as u64, 1).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn what_is_fetched_in_advance_does_not_wait_for_a_registry_that_is_away() {
    let bench = Bench::new();
    let server = Server::new(pattern(20 * CHUNK));
    let source = source(&server);
    source.outage().endure(Duration::from_secs(600));
    let blob = CachedBlob::open(&bench.cache(), DIGEST, source, Some(server.bytes.len() as u64)).unwrap().blob;
    server.lasting.lock().push(("https:", || Fault::Fail(Kind::Io)));
    blob.prefetch(0, CHUNK as u64).unwrap_err();
    let before = server.clock.now().as_secs();
    assert!(before < 5, "waited {before} s");
    // Who reads does.
    blob.read_at(&mut [0; 10], 0).unwrap_err();
    let waited = server.clock.now().as_secs() - before;
    assert!((595..610).contains(&waited), "waited {waited} s");
}

#[test]
fn a_reader_does_not_wait_for_a_filling_that_lets_others_go_first() {
    let reader_goes_first = || {
        let bench = Bench::new();
        let server = Server::new(pattern(20 * CHUNK));
        let len = server.bytes.len() as u64;
        let blob = CachedBlob::open(&bench.cache(), DIGEST, source(&server), Some(len)).unwrap().cached.unwrap();
        let other = LANE.urgent();
        std::thread::scope(|scope| {
            scope.spawn(|| blob.fill(0, len).unwrap());
            // That it waits cannot be seen, only that it has taken chunks before, which it is given the time for.
            for _ in 0..50 {
                if !blob.store.flights.lock().is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            check(&*blob, &server, 0, CHUNK);
            drop(other);
        });
        let first = server.seen.lock()[0].1;
        first == CHUNK as u64 - 1
    };
    // A machine that stands still for a second in between lets the filling go on.
    assert!((0..3).any(|_| reader_goes_first()));
}
