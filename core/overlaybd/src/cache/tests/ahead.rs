//! What is fetched before anybody wants it: asked for once, kept, and counted.

use super::{check, open, Bench, CHUNK};
use crate::error::Kind;
use crate::fetch::testing::{pattern, Server};

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
