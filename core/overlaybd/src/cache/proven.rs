//! Chunks of an earlier run of a blob that has a tree: held against it before they are read.

use super::count;
use super::store::{Store, ABSENT, READY, RECORDED};
use crate::merkle::Tree;
use crate::sync::atomic::Ordering;

impl Store {
    /// As [`Store::verify`] by a tree, together with the chunks that share a leaf with it: without one of them none is
    /// proved, and all of them but those that are already are forgotten.
    pub(super) fn prove(&self, tree: &Tree, chunk: usize) -> Option<Vec<u8>> {
        let shape = self.shape;
        let wide = tree.widened(shape.start(chunk), shape.bytes(chunk, chunk + 1) as u64);
        let (first, end) = (shape.chunk_of(wide.start), shape.chunk_of(wide.end - 1) + 1);
        let mut bytes = vec![0; shape.bytes(first, end)];
        let (whole, right) = {
            let _guard = self.guard.read();
            let whole = (first..end).all(|c| self.state(c) != ABSENT);
            let read = whole && self.media.read(&mut bytes, wide.start).is_ok();
            (whole, read && tree.first_wrong(wide.start, &bytes).is_none())
        };
        if !right {
            if whole {
                count(&self.shared.stats.mismatches, 1);
                let path = self.media.path().display();
                let what = "what is cached does not match the tree of the layer, and is fetched again";
                self.shared.notice(format!("cache: {path} at {}: {what}", wide.start));
            }
            for c in (first..end).filter(|&c| whole || self.state(c) == RECORDED) {
                self.forget(c, c + 1, false);
            }
            return None;
        }
        let _flights = self.flights.lock();
        for c in (first..end).filter(|&c| self.state(c) == RECORDED) {
            self.set(c, READY);
            self.ticks[c].store(self.shared.space.tick(), Ordering::Relaxed);
        }
        let at = (shape.start(chunk) - wide.start) as usize;
        Some(bytes[at..at + shape.bytes(chunk, chunk + 1)].to_vec())
    }
}
