//! Putting on the device what is in memory: new inodes behind all content, then directories, and what has changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::format::{BLOCK, EXTENDED, INLINE, PLAIN, SLOT, SUPER_AT};
use super::tree::NEW;
use super::{attributes, Erofs, File};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::ext4::{DIR, LINK};
use crate::limits::MAX_DIR_BYTES;

/// An inode that gets a place.
struct Item {
    /// Its number in memory.
    number: u64,
    at: u64,
    attributes: usize,
}

/// What becomes of numbers in memory: those of what has no place yet, or has to move.
struct Numbers {
    new: Vec<u64>,
    moved: HashMap<u64, u64>,
}

impl Numbers {
    fn of(&self, number: u64) -> u64 {
        match number.checked_sub(NEW) {
            Some(index) => self.new.get(index as usize).copied().unwrap_or(0),
            None => self.moved.get(&number).copied().unwrap_or(number),
        }
    }
}

impl Erofs {
    /// Writes all that is held back, and makes it durable.
    ///
    /// # Errors
    /// `NoSpace`; `Limit`; those of the device.
    pub fn close(mut self) -> Result<()> {
        let moved = self.settle()?;
        let (mut items, numbers) = self.place(&moved)?;
        // Where the next content goes that does not stand behind its inode.
        let mut next = self.end_of(&items).next_multiple_of(BLOCK);
        for item in &mut items {
            self.place_content(item.number, &mut next)?;
        }
        let changed: Vec<u64> = self.changed.keys().copied().filter(|number| !moved.contains(number)).collect();
        for number in &changed {
            self.place_content(*number, &mut next)?;
        }
        self.append.block(next - self.append.position())?;
        for item in &items {
            self.write_inode(item, &numbers)?;
        }
        self.append.align()?;
        for number in items.iter().map(|item| item.number).chain(changed.iter().copied()) {
            let file = self.known(number)?;
            if file.inode.layout == PLAIN && self.has_content(number, file) {
                let content = self.content(number, &numbers)?;
                self.append.write(&content)?;
                self.append.align()?;
            }
        }
        if self.append.position() != next {
            return Err(Error::corrupt("inodes need other room than they say"));
        }
        self.append.flush()?;
        self.write_over(&changed)?;
        self.device.flush()
    }

    /// Gives everything new, and what moves, a place behind all content, in the order in which it came.
    fn place(&mut self, moved: &HashSet<u64>) -> Result<(Vec<Item>, Numbers)> {
        let base = self.block.inodes_at();
        let mut numbers = Numbers { new: vec![0; self.new.len()], moved: HashMap::new() };
        let mut moved: Vec<u64> = moved.iter().copied().collect();
        moved.sort_unstable();
        let new = (0..self.new.len() as u64).filter(|index| self.new[*index as usize].inode.links > 0);
        let all: Vec<u64> = new.map(|index| NEW + index).chain(moved).collect();
        let mut items = Vec::with_capacity(all.len());
        let mut at = self.append.position();
        for number in all {
            let behind = match self.known(number)?.inode.kind() {
                DIR => self.directory_bytes(number)?,
                LINK => self.known(number)?.link.len(),
                _ => 0,
            };
            let file = self.known_mut(number)?;
            let attributes = file.attributes.as_ref().map_or(0, |all| attributes::len(all));
            let (alone, whole) = (EXTENDED + attributes, EXTENDED + attributes + behind);
            let inline = whole as u64 <= BLOCK;
            if behind > 0 {
                file.inode.layout = if inline { INLINE } else { PLAIN };
                file.inode.size = behind as u64;
            }
            let len = if inline { whole } else { alone } as u64;
            at = at.next_multiple_of(SLOT);
            if at % BLOCK + len > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            let place = (at - base) / SLOT;
            match number.checked_sub(NEW) {
                Some(index) => numbers.new[index as usize] = place,
                None => drop(numbers.moved.insert(number, place)),
            }
            items.push(Item { number, at, attributes });
            at += len;
        }
        Ok((items, numbers))
    }

    fn end_of(&self, items: &[Item]) -> u64 {
        let Some(last) = items.last() else { return self.append.position() };
        let behind = self.known(last.number).map_or(0, |file| match file.inode.layout {
            INLINE => file.inode.size,
            _ => 0,
        });
        last.at + (EXTENDED + last.attributes) as u64 + behind
    }

    /// Gives the content of a directory or a link a place, if it needs one.
    fn place_content(&mut self, number: u64, next: &mut u64) -> Result<()> {
        let file = self.known(number)?;
        let is_new = file.slot.is_none();
        if !self.has_content(number, file) || (is_new && file.inode.layout == INLINE) {
            return Ok(());
        }
        let size = if is_new { file.inode.size } else { self.directory_bytes(number)? as u64 };
        let inode = &mut self.known_mut(number)?.inode;
        let full = || Error::new(Kind::NoSpace, "an EROFS of more than 16 TiB");
        inode.layout = PLAIN;
        inode.size = size;
        inode.place = u32::try_from(*next / BLOCK).map_err(|_| full())?;
        *next += size.next_multiple_of(BLOCK);
        Ok(())
    }

    /// Whether content of it is in memory.
    fn has_content(&self, number: u64, file: &File) -> bool {
        match file.inode.kind() {
            DIR => self.directories.get(&number).is_some_and(|directory| directory.changed),
            LINK => !file.link.is_empty(),
            _ => false,
        }
    }

    fn content(&self, number: u64, numbers: &Numbers) -> Result<Vec<u8>> {
        let file = self.known(number)?;
        match self.directories.get(&number) {
            Some(directory) if file.inode.kind() == DIR => Ok(directory.encode(number, |other| numbers.of(other))),
            _ => Ok(file.link.to_vec()),
        }
    }

    fn directory_bytes(&self, number: u64) -> Result<usize> {
        let len = self.directories.get(&number).map_or(0, super::Directory::len);
        if len as u64 > MAX_DIR_BYTES {
            return Err(Error::new(Kind::Limit, format!("a directory of {len} bytes")));
        }
        Ok(len)
    }

    fn write_inode(&mut self, item: &Item, numbers: &Numbers) -> Result<()> {
        let file = self.known(item.number)?;
        let mut bytes = file.inode.encode(true, numbers.of(item.number), item.attributes);
        if let Some(all) = &file.attributes {
            bytes.extend(attributes::encode(all, item.attributes));
        }
        if file.inode.layout == INLINE {
            bytes.extend(self.content(item.number, numbers)?);
        }
        self.append.zeros(item.at - self.append.position())?;
        self.append.write(&bytes)
    }

    /// Writes what changed where it is, the root and the super block last.
    fn write_over(&mut self, changed: &[u64]) -> Result<()> {
        let time = self.block.time();
        let root = self.block.root();
        let mut over = Over { device: self.device.clone(), at: 0, block: Vec::new() };
        let others = changed.iter().filter(|number| **number != root);
        for number in others.chain(changed.iter().filter(|number| **number == root)) {
            let file = self.known(*number)?;
            let lost = || Error::corrupt(format!("inode {number}: without a place"));
            let (extended, attributes) = file.fit(time).ok_or_else(lost)?;
            let mut bytes = file.inode.encode(extended, *number, attributes);
            if let Some(all) = &file.attributes {
                bytes.extend(attributes::encode(all, attributes));
            }
            over.write(&bytes, file.slot.ok_or_else(lost)?.at)?;
        }
        let blocks = u32::try_from(self.append.position() / BLOCK);
        self.block.set_blocks(blocks.map_err(|_| Error::new(Kind::NoSpace, "an EROFS of more than 16 TiB"))?);
        self.block.simplify();
        over.write(&self.block.0, SUPER_AT)?;
        over.flush()
    }

    /// A file that is in memory.
    fn known(&self, number: u64) -> Result<&File> {
        let found = match number.checked_sub(NEW) {
            Some(index) => self.new.get(index as usize),
            None => self.changed.get(&number),
        };
        found.ok_or_else(|| Error::corrupt(format!("inode {number}: not in memory")))
    }

    fn known_mut(&mut self, number: u64) -> Result<&mut File> {
        let found = match number.checked_sub(NEW) {
            Some(index) => self.new.get_mut(index as usize),
            None => self.changed.get_mut(&number),
        };
        found.ok_or_else(|| Error::corrupt(format!("inode {number}: not in memory")))
    }
}

/// Changes of what was there: whole blocks are written, each once if its changes come together.
struct Over {
    device: Arc<dyn BlockDevice>,
    at: u64,
    /// The block at `at`, empty if none is held.
    block: Vec<u8>,
}

impl Over {
    fn write(&mut self, mut bytes: &[u8], mut at: u64) -> Result<()> {
        while !bytes.is_empty() {
            let start = at - at % BLOCK;
            if self.block.is_empty() || start != self.at {
                self.flush()?;
                self.block = vec![0; BLOCK as usize];
                self.at = start;
                self.device.read_at(&mut self.block, start)?;
            }
            let len = bytes.len().min((start + BLOCK - at) as usize);
            self.block[(at - start) as usize..][..len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            at += len as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.block.is_empty() {
            self.device.write_at(&self.block, self.at)?;
            self.block.clear();
        }
        Ok(())
    }
}
