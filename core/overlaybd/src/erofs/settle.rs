//! What was there and no longer fits its place: it moves, and all that names it has to follow.

use std::collections::HashSet;

use super::format::{COMPACT, EXTENDED, INLINE, PLAIN};
use super::{attributes, Erofs, File};
use crate::error::{Error, Kind, Result};
use crate::ext4::{DIR, FILE, LINK};
use crate::limits::MAX_EROFS_ENTRIES;
use crate::tar::Time;

/// Bytes that are copied at a time.
const PIECE: u64 = 1 << 20;

impl File {
    /// Whether it will be extended, and how many bytes its attributes will have, in the place that it has; None if it
    /// does not fit. `time` is that of compact inodes.
    pub(super) fn fit(&self, time: Time) -> Option<(bool, usize)> {
        let slot = self.slot?;
        let extended = slot.extended || !self.inode.is_compact(time);
        let Some(attributes) = &self.attributes else {
            return (extended == slot.extended).then_some((extended, slot.attributes));
        };
        // What follows the attributes stays where it is: they are filled up.
        let room = slot.bytes() + slot.attributes;
        let left = room.checked_sub(if extended { EXTENDED } else { COMPACT })?;
        let fits = left == attributes::len(attributes) || (left >= 12 && left >= attributes::len(attributes));
        fits.then_some((extended, left))
    }
}

impl Erofs {
    /// Makes ready what has to move: it is as if new then, but has a number already. Gives their numbers.
    ///
    /// # Errors
    /// `Limit` if that is the root; `Unsupported` for content that cannot move along; those of reading.
    pub(super) fn settle(&mut self) -> Result<HashSet<u64>> {
        let mut changed: Vec<u64> = self.directories.iter().filter(|(_, d)| d.changed).map(|(n, _)| *n).collect();
        changed.sort_unstable();
        for number in changed {
            self.file(number)?;
        }
        let (time, root) = (self.block.time(), self.block.root());
        let mut moved = HashSet::new();
        let numbers: Vec<u64> = self.changed.keys().copied().collect();
        for number in numbers {
            let Some(lower) = &self.lower else { break };
            let file = self.changed.get_mut(&number).ok_or_else(|| Error::corrupt("a file that was lost"))?;
            if number == root && file.fit(time).is_none() {
                // It cannot move: one that is compact keeps the time of the file system.
                file.inode.mtime = time;
            }
            let before = file.held();
            if file.fit(time).is_none() && file.attributes.is_none() {
                file.attributes = Some(Box::new(lower.attributes(number)?));
            }
            self.held.change(before, file.held())?;
            if file.fit(time).is_some() {
                continue;
            }
            if number == root {
                let what = match file.slot.is_some_and(|slot| slot.extended) || file.inode.is_compact(time) {
                    true => "attributes of the root that do not fit the place that the first layer has left for them",
                    false => "an owner or links of the root that do not fit the compact inode that it has below",
                };
                return Err(Error::new(Kind::Limit, what));
            }
            file.slot = None;
            match file.inode.kind() {
                DIR => self.directory(number)?.changed = true,
                LINK => {
                    (file.link, file.inode.layout) = (lower.link(number)?.into(), INLINE);
                    self.held.change(0, file.link.len())?;
                }
                FILE if file.inode.layout != PLAIN => self.copy(number)?,
                FILE => {}
                // Devices and the like have no content, whatever a damaged inode says.
                _ => (file.inode.layout, file.inode.size) = (PLAIN, 0),
            }
            moved.insert(number);
        }
        if !moved.is_empty() {
            self.change_holders(&moved)?;
        }
        Ok(moved)
    }

    /// Stores the content of a file once more, in consecutive blocks.
    fn copy(&mut self, number: u64) -> Result<()> {
        let Some(lower) = &self.lower else { return Ok(()) };
        let size = lower.inode(number)?.0.size;
        let place = self.append.block(size)?;
        let mut buf = vec![0; size.min(PIECE) as usize];
        let mut at = 0;
        while at < size {
            let piece = &mut buf[..(size - at).min(PIECE) as usize];
            lower.read_file(number, piece, at)?;
            self.append.write(piece)?;
            at += piece.len() as u64;
        }
        self.append.align()?;
        let inode = &mut self.file(number)?.inode;
        (inode.layout, inode.place) = (PLAIN, place);
        Ok(())
    }

    /// Marks as changed all directories that have something that moves, or are in it.
    fn change_holders(&mut self, moved: &HashSet<u64>) -> Result<()> {
        let root = self.block.root();
        let (mut seen, mut left) = (HashSet::from([root]), vec![root]);
        while let Some(number) = left.pop() {
            let directory = self.directory(number)?;
            let below = directory.entries.values().filter(|(_, kind)| *kind == DIR);
            let below: Vec<u64> = below.map(|(number, _)| *number).collect();
            let holds = directory.entries.values().any(|(number, _)| moved.contains(number));
            if holds || moved.contains(&directory.parent) {
                directory.changed = true;
                self.file(number)?;
            }
            left.extend(below.into_iter().filter(|number| seen.insert(*number)));
            if seen.len() > MAX_EROFS_ENTRIES {
                return Err(Error::new(Kind::Limit, format!("an EROFS of more than {MAX_EROFS_ENTRIES} directories")));
            }
        }
        Ok(())
    }
}
