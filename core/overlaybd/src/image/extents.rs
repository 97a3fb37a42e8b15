//! The map of an image: what is data, what is zeros, what no layer holds.

use std::ops::Range;

use crate::device::{Extent, ExtentKind};
use crate::limits::SECTOR;
use crate::lsmt::Stack;

use super::layers::{Held, Layers};

/// Runs from byte `offset` on, at most `max`, covering at most `len` bytes inside the device.
pub(super) fn map(layers: &Layers, offset: u64, len: u64, max: usize) -> Vec<Extent> {
    let end = offset + len;
    let mut runs = Runs { runs: Vec::new(), at: offset, end, max, closed: false };
    layers.walk(offset / SECTOR..end.div_ceil(SECTOR), &mut |part| match part {
        Held::Upper { end, zeroed } => runs.push(kind_of(zeroed), end),
        Held::Below(range) => runs.push_lowers(layers.lowers.as_deref(), range),
    });
    runs.runs
}

fn kind_of(zeroed: bool) -> ExtentKind {
    if zeroed {
        ExtentKind::Zero
    } else {
        ExtentKind::Data
    }
}

/// Runs while they are collected: neighbours of one kind are one run.
struct Runs {
    runs: Vec<Extent>,
    at: u64,
    end: u64,
    max: usize,
    closed: bool,
}

impl Runs {
    /// Extends the map up to `sector` with `kind`; ignored once a run too many came.
    fn push(&mut self, kind: ExtentKind, sector: u64) {
        let end = (sector * SECTOR).min(self.end);
        let Some(len) = end.checked_sub(self.at).filter(|len| *len > 0 && !self.closed) else { return };
        let full = self.runs.len() >= self.max;
        match self.runs.last_mut() {
            Some(last) if last.kind == kind => last.len += len,
            _ if full => self.closed = true,
            _ => self.runs.push(Extent { len, kind }),
        }
        self.at = end;
    }

    /// Extends the map over a range of sectors that the upper does not hold.
    fn push_lowers(&mut self, lowers: Option<&Stack>, range: Range<u64>) {
        if range.is_empty() || self.closed {
            return;
        }
        if let Some(lowers) = lowers {
            lowers.index().lookup(range.clone(), |piece| {
                self.push(ExtentKind::Hole, piece.offset);
                self.push(kind_of(piece.zeroed), piece.end());
            });
        }
        self.push(ExtentKind::Hole, range.end);
    }
}
