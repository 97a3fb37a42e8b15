//! Distrust (`cache/store.rs`: `forget`, `cache/flight.rs`: `disown`): wrong bytes are dropped while others read them.
//!
//! Promised: who distrusts and reads again does not get the same wrong bytes for ever; what was dropped is not recorded
//! later by a write that was under way.

use std::sync::Arc;

use overlaybd::blob::Blob;
use overlaybd::sync::thread;

use crate::source::{Remote, CHUNK};
use crate::Model;

pub const MODELS: &[&Model] = &[
    &Model { name: "distrust", story: now, quick: 1, deep: 3 },
    &Model { name: "distrust-behind", story: behind, quick: 1, deep: 2 },
];

/// Times that a reader tries.
const TRIES: usize = 4;

/// The source lies in its first answer; two readers notice.
fn now() {
    two_readers(0);
}

/// The same while the answer is still to be written.
fn behind() {
    two_readers(1 << 20);
}

fn two_readers(behind: usize) {
    let remote = Remote::faulty(1, 0, 1);
    let (cache, blob) = remote.cached(1 << 20, behind);
    let other = Arc::clone(&blob);
    let thread = thread::Builder::new().spawn(move || insist(&*other)).expect("a thread");
    insist(&*blob);
    thread.join().expect("a reader that ends well");
    cache.flush();
    insist(&*blob);
    let mut bytes = vec![0; CHUNK];
    blob.read_at(&mut bytes, 0).expect("a read");
    assert!(bytes == Remote::right(0, CHUNK), "what was found wrong has come back");
}

/// Reads until the bytes are right.
fn insist(blob: &dyn Blob) {
    for _ in 0..TRIES {
        let mut bytes = vec![0xaa; CHUNK];
        blob.read_at(&mut bytes, 0).expect("a read");
        if bytes == Remote::right(0, CHUNK) {
            return;
        }
        assert!(blob.distrust(0, CHUNK as u64).expect("distrust"), "reading again gives other bytes");
    }
    panic!("wrong again and again");
}
