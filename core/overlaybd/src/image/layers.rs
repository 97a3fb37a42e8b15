//! The layers of an image at one moment, and how a request goes through them.

use std::ops::Range;
use std::sync::Arc;

use crate::sync::RwLock;

use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR;
use crate::lsmt::{Stack, Upper};

/// Layers as they are between two snapshots.
pub(super) struct Layers {
    /// Topmost first: the one that is written to, and below it the one that a snapshot froze, until it is sealed
    /// and one of the lowers.
    pub uppers: Vec<Arc<Upper>>,
    pub lowers: Option<Arc<Stack>>,
    /// Whether a snapshot has made these but is not finished: a restart would not find what goes to the upper.
    pub unfinished: bool,
}

impl Layers {
    /// The layer that is written to.
    pub fn upper(&self) -> Result<&Arc<Upper>> {
        self.uppers.first().ok_or_else(|| Error::new(Kind::ReadOnly, "the image has no upper"))
    }

    /// Reads whole sectors; `offset` is in bytes.
    pub fn read_sectors(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read_below(0, buf, offset)
    }

    /// As [`Layers::read_sectors`], of what lies below the first `depth` uppers.
    fn read_below(&self, depth: usize, buf: &mut [u8], offset: u64) -> Result<()> {
        match (self.uppers.get(depth), &self.lowers) {
            (Some(upper), _) => upper.read_at(buf, offset, |gap, at| self.read_below(depth + 1, gap, at)),
            (None, Some(lowers)) => lowers.read_at(buf, offset),
            (None, None) => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Reads any range: the sectors at the edges by way of a bounce buffer.
    pub fn read(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let skip = (offset % SECTOR) as usize;
        if skip != 0 || (buf.len() as u64) < SECTOR {
            let take = buf.len().min(SECTOR as usize - skip);
            let mut edge = [0; SECTOR as usize];
            self.read_sectors(&mut edge, offset - skip as u64)?;
            buf[..take].copy_from_slice(&edge[skip..skip + take]);
            buf = &mut buf[take..];
            offset += take as u64;
        }
        let whole = buf.len() - buf.len() % SECTOR as usize;
        let (body, tail) = buf.split_at_mut(whole);
        if !body.is_empty() {
            self.read_sectors(body, offset)?;
        }
        self.read(tail, offset + whole as u64)
    }

    /// Writes whole sectors; `offset` is in bytes.
    pub fn write_sectors(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.upper()?.write_at(buf, offset, |gap, at| self.read_below(1, gap, at))
    }

    /// Writes any range: where it does not end at sectors' edges, the rest of those is read first. The caller
    /// keeps other writes off meanwhile.
    pub fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let start = offset - offset % SECTOR;
        let end = (offset + buf.len() as u64).next_multiple_of(SECTOR);
        if end == start {
            return Ok(());
        }
        let mut sectors = vec![0; (end - start) as usize];
        let last = sectors.len() - SECTOR as usize;
        self.read_sectors(&mut sectors[..SECTOR as usize], start)?;
        if last > 0 {
            self.read_sectors(&mut sectors[last..], end - SECTOR)?;
        }
        sectors[(offset - start) as usize..][..buf.len()].copy_from_slice(buf);
        self.write_sectors(&sectors, start)
    }

    /// Discards any range: parts of sectors become zeros. As [`Layers::write`] for the caller.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        let (first, last) = (offset.next_multiple_of(SECTOR), end - end % SECTOR);
        if first >= last {
            return self.write(&vec![0; len as usize], offset);
        }
        self.write(&vec![0; (first - offset) as usize], offset)?;
        self.write(&vec![0; (end - last) as usize], last)?;
        self.upper()?.discard(first, last - first)
    }

    /// Calls `gap` for each part of a range of sectors that none of the uppers from `depth` on holds, and `held`
    /// for the others, in ascending order.
    pub fn walk(&self, range: Range<u64>, visit: &mut dyn FnMut(Held)) {
        self.walk_below(0, range, visit);
    }

    fn walk_below(&self, depth: usize, range: Range<u64>, visit: &mut dyn FnMut(Held)) {
        if range.is_empty() {
            return;
        }
        let Some(upper) = self.uppers.get(depth) else { return visit(Held::Below(range)) };
        let mut pieces = Vec::new();
        upper.lookup(range.clone(), |piece| pieces.push(piece));
        let mut at = range.start;
        for piece in pieces {
            self.walk_below(depth + 1, at..piece.offset, visit);
            visit(Held::Upper { end: piece.end(), zeroed: piece.zeroed });
            at = piece.end();
        }
        self.walk_below(depth + 1, at..range.end, visit);
    }

    /// Whether a read would be answered without a network; bytes.
    pub fn is_ready(&self, offset: u64, len: u64) -> bool {
        let Some(lowers) = &self.lowers else { return true };
        if self.uppers.is_empty() {
            return lowers.is_ready(offset, len);
        }
        let mut ready = true;
        self.walk(offset / SECTOR..offset.saturating_add(len).div_ceil(SECTOR), &mut |part| {
            if let Held::Below(range) = part {
                ready = ready && lowers.is_ready(range.start * SECTOR, (range.end - range.start) * SECTOR);
            }
        });
        ready
    }
}

/// Who holds a part of a range, in sectors.
pub(super) enum Held {
    /// An upper, from where the part before ended on.
    Upper { end: u64, zeroed: bool },
    /// The lowers, or nobody.
    Below(Range<u64>),
}

/// The layers that count now. A read takes them once and stays with them; nobody waits for it.
pub(super) enum Present {
    /// Of an image without an upper: they never change.
    Fixed(Layers),
    /// Exchanged by a snapshot.
    Live(RwLock<Arc<Layers>>),
}

impl Present {
    pub fn new(layers: Layers) -> Present {
        if layers.uppers.is_empty() {
            Present::Fixed(layers)
        } else {
            Present::Live(RwLock::new(Arc::new(layers)))
        }
    }

    /// Calls `f` with the present layers.
    #[inline]
    pub fn with<T>(&self, f: impl FnOnce(&Layers) -> T) -> T {
        match self {
            Present::Fixed(layers) => f(layers),
            Present::Live(layers) => {
                let layers = Arc::clone(&layers.read());
                f(&layers)
            }
        }
    }

    /// Puts other layers in their place.
    pub fn replace(&self, layers: Layers) {
        if let Present::Live(present) = self {
            let old = std::mem::replace(&mut *present.write(), Arc::new(layers));
            drop(old); // and with it perhaps a large index, while nobody waits for the lock
        }
    }
}
