//! Fills the media in the background, for whoever wants to have all of a blob.

use super::blob::{CachedBlob, For, Turn, MAX_TURNS};
use crate::error::{Error, Kind, Result};
use crate::fetch::{Stream, LANE};
use crate::limits::MAX_YIELD;

/// Bytes that a filling fetches at a time: a reader who wants some of them waits for that much, and they are written
/// while they are in the cache of the processor that received them.
const FILL_BYTES: usize = 256 << 10;

/// A filling under way.
#[derive(Default)]
pub(super) struct Fill {
    /// Up to where it goes on fetching.
    pub stop: u64,
    /// The rest of the last answer.
    pub stream: Option<Stream>,
}

impl CachedBlob {
    /// The parts of a range, in whole chunks, that would have to be fetched: offset and length of each, in order.
    pub fn missing(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let Some((first, end)) = self.chunks(offset, len) else { return Vec::new() };
        let shape = self.store.shape;
        let runs = self.store.absent(first, end);
        runs.iter().map(|run| (shape.start(run.start), shape.bytes(run.start, run.end) as u64)).collect()
    }

    /// Has all chunks that a range touches in the media, checked: fetches what is missing, by one GET for each run
    /// if all goes well, and checks what is recorded. Readers wait for a part of it only. Returns when all is
    /// written, so that a reader of the file finds it.
    ///
    /// Errors: those of the source; `Io` if the disk does not keep what was fetched.
    pub fn fill(&self, offset: u64, len: u64) -> Result<()> {
        let Some((first, end)) = self.chunks(offset, len) else { return Ok(()) };
        let shape = self.store.shape;
        let mut fill = Fill { stop: 0, stream: None };
        let (mut at, stop, mut turns) = (shape.start(first), shape.start(end), 0);
        while at < stop {
            if at >= fill.stop {
                let absent = self.store.absent(shape.chunk_of(at), end);
                let ahead = absent.first().filter(|run| shape.start(run.start) <= at);
                fill = Fill { stop: ahead.map_or(0, |run| shape.start(run.end)), stream: None };
            }
            if !self.store.is_present(at, 1) {
                // Before the chunk is this filling's: who wants it meanwhile must not wait for those who go first.
                LANE.give_way(MAX_YIELD);
            }
            at = match self.turn(at, end, FILL_BYTES, For::Fill(&mut fill))? {
                Turn::Ready(until) => until,
                Turn::Bytes(bytes, start) => {
                    let end = start + bytes.len() as u64;
                    self.store.shared.buffers.put(bytes);
                    end
                }
                Turn::Again if turns < MAX_TURNS => {
                    turns += 1;
                    continue;
                }
                Turn::Again => return Err(self.not_kept(at)),
            };
            turns = 0;
        }
        self.store.settle(first, end);
        match self.store.absent(first, end).first() {
            None => Ok(()),
            Some(run) => Err(self.not_kept(shape.start(run.start))),
        }
    }

    fn not_kept(&self, at: u64) -> Error {
        let what = "what was fetched could not be kept: the disk is full or fails";
        Error::new(Kind::Io, what).in_file(self.store.media.path()).at(at)
    }
}
