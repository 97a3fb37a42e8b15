//! The data of a command: pieces of the shared region, in order, as one run of bytes.

use std::ops::Range;

use super::region::Region;
use crate::error::Result;

/// The data of a command that has been taken and not been completed, while it is served.
pub struct Data<'a> {
    region: &'a Region,
    pieces: &'a [Range<usize>],
}

impl<'a> Data<'a> {
    /// The data of a command of which this is the only owner: see [`Region::slice`].
    pub fn new(region: &'a Region, pieces: &'a [Range<usize>]) -> Self {
        Data { region, pieces }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The first `len` bytes if they lie in one piece.
    pub fn whole(&mut self, len: usize) -> Result<Option<&mut [u8]>> {
        match self.pieces.first() {
            Some(first) if first.len() >= len => {
                // SAFETY: the data is this command's until it is completed, and borrowed from here alone.
                unsafe { self.region.slice(first.start..first.start + len) }.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Copies bytes in from `at` on; how many found room.
    pub fn fill(&mut self, at: u64, from: &[u8]) -> Result<usize> {
        let mut done = 0;
        for range in parts(self.pieces, at, from.len()) {
            self.region.put(range.start, &from[done..done + range.len()])?;
            done += range.len();
        }
        Ok(done)
    }

    /// Copies bytes out from `at` on; how many there were.
    pub fn copy(&self, at: u64, to: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        for range in parts(self.pieces, at, to.len()) {
            let len = range.len();
            self.region.get(range.start, &mut to[done..done + len])?;
            done += len;
        }
        Ok(done)
    }

    /// Zeros all from `at` on: what is left there is of an earlier command, of whoever.
    pub fn clear(&mut self, at: u64) -> Result<()> {
        let mut skip = at;
        for piece in self.pieces {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            // SAFETY: as in `whole`.
            unsafe { self.region.slice(piece.start + skipped as usize..piece.end) }?.fill(0);
        }
        Ok(())
    }
}

/// The places of at most `len` bytes from `at` on.
fn parts(pieces: &[Range<usize>], at: u64, len: usize) -> impl Iterator<Item = Range<usize>> + '_ {
    let (mut skip, mut left) = (at, len);
    pieces.iter().filter_map(move |piece| {
        let skipped = skip.min(piece.len() as u64);
        skip -= skipped;
        let start = piece.start + skipped as usize;
        let step = (piece.end - start).min(left);
        left -= step;
        (step > 0).then_some(start..start + step)
    })
}
