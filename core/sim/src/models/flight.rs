//! Single flight (`cache/flight.rs`, `cache/store.rs`, `cache/writer.rs`): readers who want the same at the same time.
//!
//! Promised: right bytes; nothing is fetched twice, at the same time or later; what fails for one is tried again by
//! who still wants it; nobody waits for ever.

use std::sync::Arc;

use overlaybd::blob::Blob;
use overlaybd::cache::ChunkCache;
use overlaybd::sync::thread;

use crate::source::{check, Remote, CHUNK};
use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "flight", story: shared, quick: 1, deep: 3 },
    &Model { name: "flight-behind", story: behind, quick: 1, deep: 2 },
    &Model { name: "flight-flush", story: flush, quick: 1, deep: 2 },
    &Model { name: "flight-fails", story: fails, quick: 1, deep: 3 },
    &Model { name: "flight-fill", story: fill, quick: 2, deep: 3 },
];

const ROOM: u64 = 1 << 20;

/// Two readers whose ranges overlap, written before the read returns.
fn shared() {
    two_readers(0);
}

/// The same, written by the cache's own thread.
fn behind() {
    two_readers(1 << 20);
}

fn two_readers(behind: usize) {
    let remote = Remote::new(2);
    let (cache, blob) = remote.cached(ROOM, behind);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || check(&*other, 1..2)).expect("a thread");
    check(&*blob, 0..2);
    thread.join().expect("a reader that ends well");
    cache.flush();
    assert!(blob.is_ready(0, 2 * CHUNK as u64), "what was fetched is kept");
    let fetches = remote.fetches();
    assert!(fetches <= 2, "{fetches} fetches");
    check(&*blob, 0..2);
    assert_eq!(remote.fetches(), fetches, "what is kept is not fetched again");
}

/// Two readers of the same, each of whom flushes the cache: what it has read is kept then, whoever fetched it.
fn flush() {
    let remote = Remote::new(1);
    let (cache, blob) = remote.cached(ROOM, 1 << 20);
    let kept = |cache: &ChunkCache, blob: &dyn Blob| {
        check(blob, 0..1);
        cache.flush();
        blob.is_ready(0, CHUNK as u64)
    };
    let (its, other) = (Arc::clone(&cache), Arc::clone(&blob));
    let thread = thread::Builder::new().spawn(move || kept(&its, &*other)).expect("a thread");
    let first = kept(&cache, &*blob);
    let second = thread.join().expect("a reader that ends well");
    assert!(first && second, "what was read before a flush is kept after it");
}

/// The first fetch fails: whose it was is told, others get their bytes.
fn fails() {
    let remote = Remote::faulty(2, 1, 0);
    let (cache, blob) = remote.cached(ROOM, 0);
    let other = Arc::clone(&blob);
    let read = |blob: &dyn Blob, offset: u64, len: usize| {
        let mut bytes = vec![0xaa; len];
        blob.read_at(&mut bytes, offset).map(|()| assert!(bytes == Remote::right(offset, len), "wrong bytes")).is_ok()
    };
    let thread = thread::Builder::new().spawn(move || read(&*other, CHUNK as u64, CHUNK)).expect("a thread");
    let first = read(&*blob, 0, 2 * CHUNK);
    let second = thread.join().expect("a reader that ends well");
    assert!(remote.fetches() <= 3, "{} fetches", remote.fetches());
    assert!(first || second || remote.fetches() <= 2, "a fetch that fails is told to those who waited for it");
    check(&*blob, 0..2);
    drop(cache);
}

/// A filling and a reader of what it is about to bring; when it returns all is in the file.
fn fill() {
    let remote = Remote::new(2);
    let (_cache, blob) = remote.cached(ROOM, 0);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || check(&*other, 1..2)).expect("a thread");
    blob.fill(0, 2 * CHUNK as u64).expect("a filling");
    assert!(blob.missing(0, 2 * CHUNK as u64).is_empty() && blob.is_ready(0, 2 * CHUNK as u64), "all is there");
    thread.join().expect("a reader that ends well");
    assert!(remote.fetches() <= 2, "{} fetches", remote.fetches());
    check(&*blob, 0..2);
}
