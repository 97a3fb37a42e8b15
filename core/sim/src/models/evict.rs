//! Eviction against readers (`cache/evict.rs`, `cache/room.rs`): chunks are taken away while they are read and fetched.
//!
//! Promised: right bytes, never those of a hole; reads do not fail for it; the table, the map and the file agree.

use std::sync::Arc;

use overlaybd::blob::Blob;
use overlaybd::sync::thread;

use crate::source::{check, Remote, CHUNK, KEY};
use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "evict", story: shrink, quick: 2, deep: 3 },
    &Model { name: "evict-fetch", story: against_fetch, quick: 2, deep: 3 },
    &Model { name: "evict-crowded", story: crowded, quick: 1, deep: 2 },
    &Model { name: "evict-closed", story: closed, quick: 1, deep: 2 },
];

const ROOM: u64 = 1 << 20;

/// All is taken away while one reads what is there.
fn shrink() {
    let remote = Remote::new(2);
    let (cache, blob) = remote.cached(ROOM, 0);
    check(&*blob, 0..2);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || check(&*other, 0..2)).expect("a thread");
    cache.shrink(0).expect("room");
    thread.join().expect("a reader that ends well");
    check(&*blob, 0..2);
    checked(&cache);
}

/// The same, of chunks of which one is there and one is being fetched.
fn against_fetch() {
    let remote = Remote::new(2);
    let (cache, blob) = remote.cached(ROOM, 0);
    check(&*blob, 0..1);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || check(&*other, 0..2)).expect("a thread");
    cache.shrink(0).expect("room");
    thread.join().expect("a reader that ends well");
    checked(&cache);
    check(&*blob, 0..2);
}

/// Two readers of different chunks in a cache that holds one: each fetch takes away what the other has.
fn crowded() {
    let remote = Remote::new(3);
    let (cache, blob) = remote.cached(3 * CHUNK as u64, 0);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || check(&*other, 0..1)).expect("a thread");
    check(&*blob, 1..2);
    check(&*blob, 2..3);
    thread.join().expect("a reader that ends well");
    assert!(cache.used_bytes() <= 3 * CHUNK as u64, "{} bytes used", cache.used_bytes());
    checked(&cache);
}

/// A blob is removed, or made small, while another thread opens it.
fn closed() {
    let remote = Remote::new(1);
    let (cache, blob) = remote.cached(ROOM, 0);
    check(&*blob, 0..1);
    drop(blob);
    let (own, source) = (Arc::clone(&cache), Arc::clone(&remote));
    let thread = thread::Builder::new().spawn(move || {
        let opened = overlaybd::cache::CachedBlob::over(&own, KEY, source as Arc<dyn Blob>).expect("a blob");
        check(&*opened.blob, 0..1);
        check(&*opened.blob, 0..1);
    });
    cache.evict(KEY).map_err(|e| assert_eq!(e.kind(), overlaybd::Kind::NotFound, "{e}")).unwrap_or_default();
    cache.shrink(0).expect("room");
    thread.expect("a thread").join().expect("a reader that ends well");
    if cache.entries().expect("entries").iter().any(|entry| entry.present > 0) {
        checked(&cache);
    }
}

/// What the map says is in the file.
fn checked(cache: &overlaybd::cache::ChunkCache) {
    let check = cache.check(KEY, false).expect("a check");
    assert!(check.is_right(), "{check:?}");
}
