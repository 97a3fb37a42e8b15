//! The two blobs of a turboOCI layer as one: its metadata and, from the next sector on, its target.
//!
//! So all that knows layers by a blob and offsets in it (stacks, traces, prefetch) need not know of targets.

use std::sync::Arc;

use super::META;
use crate::blob::{check_range, Blob};
use crate::error::{Error, Result};
use crate::limits::SECTOR;
use crate::lsmt::segment::Segment;

/// A target in whole sectors. A tar that ends in the middle of one is read as if that were filled up with zeros; what
/// lies beyond is out of bounds.
pub struct Target {
    inner: Arc<dyn Blob>,
    len: u64,
}

impl Target {
    /// Takes the uncompressed tar.
    pub fn new(inner: Arc<dyn Blob>) -> Target {
        let len = inner.len().next_multiple_of(SECTOR);
        Target { inner, len }
    }

    /// How much of `len` bytes from `offset` on is there, not filled up.
    fn there(&self, offset: u64, len: u64) -> u64 {
        self.inner.len().saturating_sub(offset).min(len)
    }

    fn read(&self, buf: &mut [u8], offset: u64, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        check_range(self, offset, buf.len())?;
        let (there, behind) = buf.split_at_mut(self.there(offset, buf.len() as u64) as usize);
        behind.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        read(there)
    }
}

impl Blob for Target {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(buf, offset, |buf| self.inner.read_at(buf, offset))
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(buf, offset, |buf| self.inner.copy_at(buf, offset))
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.inner.is_ready(offset, self.there(offset, len))
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        check_range(self, offset, len as usize)?;
        self.inner.prefetch(offset, self.there(offset, len))
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.inner.distrust(offset, self.there(offset, len))
    }
}

/// Metadata, then the target. The rest of the last sector of the metadata is zeros.
pub(super) struct Join {
    meta: Arc<dyn Blob>,
    target: Target,
    /// Where the target begins.
    base: u64,
}

/// A part of a range: of the metadata, or of the target, from the offset there on.
enum Part {
    Meta(u64),
    Gap,
    Target(u64),
}

impl Join {
    pub fn new(meta: Arc<dyn Blob>, target: Target) -> Join {
        let base = meta.len().next_multiple_of(SECTOR);
        Join { meta, target, base }
    }

    /// Entries whose tags are types, as entries into the joined blob: all of tag 0.
    ///
    /// # Errors
    /// `Corrupt` if one maps beyond the end of the metadata or of the target.
    pub fn place(&self, mut segments: Vec<Segment>) -> Result<Vec<Segment>> {
        let (base, end) = (self.base / SECTOR, self.target.len() / SECTOR);
        for (number, entry) in segments.iter_mut().enumerate() {
            let own = std::mem::take(&mut entry.tag) == META;
            if entry.zeroed {
                continue;
            }
            let Segment { offset, length, moffset, .. } = *entry;
            if own {
                // The data file of a writable layer may have lost its end, where the target begins now.
                if entry.mend() > self.meta.len() / SECTOR {
                    let what = format!(
                        "index entry {number} (sectors {offset}+{length}, mapped to {moffset}) reaches beyond the end \
                         of the metadata: a part of it is missing"
                    );
                    return Err(Error::corrupt(what).in_file(self.meta.name()));
                }
                continue;
            }
            if entry.mend() > end {
                let what = format!(
                    "index entry {number} (sectors {offset}+{length}, mapped to {moffset} of the target) reaches \
                     beyond the target's end at {end}: not the target of this layer, or not all of it"
                );
                return Err(Error::corrupt(what).in_file(self.target.name()));
            }
            entry.moffset += base;
        }
        Ok(segments)
    }

    /// The parts of a range, with their lengths; a range that leaves the blob is left to the target to refuse.
    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = (Part, u64)> {
        let (end, meta, base) = (offset.saturating_add(len), self.meta.len(), self.base);
        let bounds = [(0, meta), (meta, base), (base, u64::MAX)];
        bounds.into_iter().enumerate().filter_map(move |(which, (from, to))| {
            let (start, stop) = (offset.max(from), end.min(to));
            let part = match which {
                0 => Part::Meta(start),
                1 => Part::Gap,
                _ => Part::Target(start.saturating_sub(base)),
            };
            (start < stop).then(|| (part, stop - start))
        })
    }

    fn read(
        &self,
        mut buf: &mut [u8],
        offset: u64,
        read: impl Fn(&dyn Blob, &mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        check_range(self, offset, buf.len())?;
        for (part, len) in self.parts(offset, buf.len() as u64) {
            let (now, rest) = buf.split_at_mut(len as usize);
            match part {
                Part::Meta(at) => read(&*self.meta, now, at)?,
                Part::Gap => now.fill(0),
                Part::Target(at) => read(&self.target, now, at)?,
            }
            buf = rest;
        }
        Ok(())
    }
}

impl Blob for Join {
    fn name(&self) -> &str {
        self.meta.name()
    }

    fn len(&self) -> u64 {
        self.base + self.target.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(buf, offset, |blob, buf, at| blob.read_at(buf, at).map_err(|e| e.in_file(blob.name())))
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read(buf, offset, |blob, buf, at| blob.copy_at(buf, at).map_err(|e| e.in_file(blob.name())))
    }

    fn is_ready(&self, offset: u64, len: u64) -> bool {
        self.parts(offset, len).all(|(part, len)| match part {
            Part::Meta(at) => self.meta.is_ready(at, len),
            Part::Gap => true,
            Part::Target(at) => self.target.is_ready(at, len),
        })
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<u64> {
        let mut fetched = 0;
        for (part, len) in self.parts(offset, len) {
            fetched += match part {
                Part::Meta(at) => self.meta.prefetch(at, len)?,
                Part::Gap => 0,
                Part::Target(at) => self.target.prefetch(at, len)?,
            };
        }
        Ok(fetched)
    }

    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        let mut dropped = false;
        for (part, len) in self.parts(offset, len) {
            dropped |= match part {
                Part::Meta(at) => self.meta.distrust(at, len)?,
                Part::Gap => false,
                Part::Target(at) => self.target.distrust(at, len)?,
            };
        }
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::testing::Asked;
    use crate::error::Kind;

    #[test]
    fn both_parts_are_asked_for_what_is_in_them_and_nothing_between() {
        let (meta, target) = (Arc::new(Asked::new(vec![1; 600])), Arc::new(Asked::new(vec![2; 1000])));
        let join = Join::new(meta.clone(), Target::new(target.clone()));
        assert_eq!((join.name(), join.len()), ("asked", 2048));

        assert_eq!(join.prefetch(500, 1000).unwrap(), 100 + 476);
        assert_eq!((meta.take(), target.take()), (vec![("prefetch", 500, 100)], vec![("prefetch", 0, 476)]));
        assert_eq!(join.prefetch(600, 424).unwrap(), 0, "between them");
        assert_eq!(join.prefetch(1024 + 900, 124).unwrap(), 100, "at the end of the tar");
        assert_eq!((meta.take(), target.take()), (vec![], vec![("prefetch", 900, 100)]));
        assert_eq!(join.prefetch(2048, 1).unwrap_err().kind(), Kind::OutOfBounds);

        assert!(!join.is_ready(599, 1) && join.is_ready(600, 424) && !join.is_ready(600, 425));
        assert!(!join.is_ready(1723, 1) && join.is_ready(1724, 1));

        assert!(join.distrust(499, 1).unwrap());
        assert!(!join.distrust(500, 524).unwrap());
        assert!(join.distrust(599, 426).unwrap(), "the target's first byte may be another");
        assert!(!join.distrust(1024 + 500, 1).unwrap());
        let of_meta = vec![("distrust", 499, 1), ("distrust", 500, 100), ("distrust", 599, 1)];
        assert_eq!((meta.take(), target.take()), (of_meta, vec![("distrust", 0, 1), ("distrust", 500, 1)]));

        for from in ["read", "copy"] {
            let read = |buf: &mut [u8], at| match from {
                "copy" => join.copy_at(buf, at),
                _ => join.read_at(buf, at),
            };
            let mut bytes = [9; 600];
            read(&mut bytes, 500).unwrap();
            assert!(bytes[..100] == [1; 100] && bytes[100..524] == [0; 424] && bytes[524..] == [2; 76]);
            assert_eq!((meta.take(), target.take()), (vec![(from, 500, 100)], vec![(from, 0, 76)]));
            read(&mut bytes[..100], 1948).unwrap();
            assert!(bytes[..76] == [2; 76] && bytes[76..100] == [0; 24], "a tar is filled up with zeros");
            target.take();
        }
    }
}
