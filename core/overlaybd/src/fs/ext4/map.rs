//! Where the content of a file of ext4 lies: extent trees, and blocks of pointers.

use std::ops::Range;

use super::super::bytes::{u16_at, u32_at};
use super::super::{Device, Extent, Node, Type};
use super::{Ext4, ATTRIBUTE, ENCRYPTED, EXTENTS, INLINE_DATA};
use crate::error::{Error, Kind, Result};

/// Where an inode says where its content is, and the bytes of that.
pub(super) const MAP: usize = 0x28;
const MAP_BYTES: usize = 60;

const TREE_MAGIC: u16 = 0xF30A;
const TREE_ENTRY: usize = 12;
/// Levels of an extent tree, by the format.
const MAX_DEPTH: u16 = 5;
/// Blocks of one file's map that are read in one go: enough for
/// [`MAX_FILE_EXTENTS`](crate::limits::MAX_FILE_EXTENTS) many times over, and an end to maps that refer to the same
/// block again and again.
const MAX_MAP_BLOCKS: usize = 4096;
/// Extents longer than this are of that much less, and not written yet.
const MAX_WRITTEN: u32 = 32768;

/// Calls `each` for the extents of a file from byte `from` on, until it returns false.
pub(super) fn extents(
    ext4: &Ext4,
    device: &Device,
    node: &Node,
    from: u64,
    each: &mut dyn FnMut(Extent) -> bool,
) -> Result<()> {
    let flags = u32_at(&node.raw, 0x20);
    let map = &node.raw[MAP..MAP + MAP_BYTES];
    let in_inode = Extent { offset: 0, device: node.at + MAP as u64, len: MAP_BYTES as u64 };
    if node.kind() == Type::Other {
        return Ok(());
    }
    if flags & ENCRYPTED != 0 {
        return Err(Error::new(Kind::Unsupported, "an encrypted file"));
    }
    if node.kind() == Type::Link && node.size < MAP_BYTES as u64 && flags & EXTENTS == 0 {
        each(in_inode);
        return Ok(());
    }
    if flags & INLINE_DATA != 0 {
        if node.kind() == Type::Directory || node.size > MAP_BYTES as u64 {
            return Err(Error::new(Kind::Unsupported, "a file whose content is among its attributes (inline_data)"));
        }
        each(in_inode);
        return Ok(());
    }
    let from = from / ext4.block_bytes;
    let mut walk = Walk { ext4, device, from, each, budget: MAX_MAP_BLOCKS };
    if flags & EXTENTS != 0 {
        return walk.tree(map, None, 0..1 << 32).map(drop);
    }
    let (mut next, end) = (0, node.size.div_ceil(ext4.block_bytes));
    let (direct, indirect) = map.split_at(48);
    let mut go_on = walk.pointers(direct, 0, &mut next, end)?;
    for (level, pointer) in (1..).zip(indirect.chunks_exact(4)) {
        go_on = go_on && walk.pointers(pointer, level, &mut next, end)?;
    }
    Ok(())
}

/// Whether an inode is the value of an attribute.
pub(super) fn is_value(node: &Node) -> bool {
    u32_at(&node.raw, 0x20) & ATTRIBUTE != 0
}

/// One walk over the map of a file.
struct Walk<'a> {
    ext4: &'a Ext4,
    device: &'a Device,
    /// The first block of the file that is of interest.
    from: u64,
    each: &'a mut dyn FnMut(Extent) -> bool,
    /// Blocks that may still be read.
    budget: usize,
}

impl Walk<'_> {
    fn read(&mut self, block: u64) -> Result<Vec<u8>> {
        self.budget = self
            .budget
            .checked_sub(1)
            .ok_or_else(|| Error::new(Kind::Limit, "a file whose map has too many blocks"))?;
        let mut bytes = vec![0; self.ext4.block_bytes as usize];
        self.device.read(&mut bytes, self.ext4.byte_of(block)?)?;
        Ok(bytes)
    }

    /// A node of an extent tree for blocks `within` of the file; false if the caller has had enough. What does not lie
    /// in its place is refused, so that the way to a block does not matter.
    fn tree(&mut self, node: &[u8], depth: Option<u16>, within: Range<u64>) -> Result<bool> {
        let wrong = || Error::corrupt("a node of an extent tree that is none");
        let (magic, entries, own) = (u16_at(node, 0), usize::from(u16_at(node, 2)), u16_at(node, 6));
        let room = node.len() / TREE_ENTRY - 1;
        if magic != TREE_MAGIC || entries > room || own > MAX_DEPTH || depth.is_some_and(|depth| own != depth) {
            return Err(wrong());
        }
        let mut free = within.start;
        let mut entries = node[TREE_ENTRY..].chunks_exact(TREE_ENTRY).take(entries).peekable();
        while let Some(entry) = entries.next() {
            let block_bytes = self.ext4.block_bytes;
            let first = u64::from(u32_at(entry, 0));
            let next = entries.peek().map_or(within.end, |next| u32_at(next, 0).into());
            if first < free || next <= first || next > within.end {
                return Err(wrong());
            }
            let go_on = if own == 0 {
                let stored = u32::from(u16_at(entry, 4));
                let is_written = stored <= MAX_WRITTEN;
                let len = u64::from(if is_written { stored } else { stored - MAX_WRITTEN });
                let block = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
                let device = self.ext4.byte_of(block)?;
                free = first + len;
                if free > next {
                    return Err(wrong());
                }
                let extent = Extent { offset: first * block_bytes, device, len: len * block_bytes };
                !is_written || (self.each)(extent)
            } else if next <= self.from {
                // All below is before what is of interest.
                true
            } else {
                let child = self.read(u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32)?;
                self.tree(&child, Some(own - 1), first..next)?
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A block of pointers, `level` levels above data, whose first one is for block `*next` of the file.
    fn pointers(&mut self, pointers: &[u8], level: u32, next: &mut u64, end: u64) -> Result<bool> {
        let block_bytes = self.ext4.block_bytes;
        let span = (block_bytes / 4).pow(level);
        for pointer in pointers.chunks_exact(4) {
            if *next >= end {
                return Ok(false);
            }
            let block = u64::from(u32_at(pointer, 0));
            if block == 0 || *next + span <= self.from {
                *next += span;
                continue;
            }
            let go_on = if level == 0 {
                *next += 1;
                let offset = (*next - 1) * block_bytes;
                (self.each)(Extent { offset, device: self.ext4.byte_of(block)?, len: block_bytes })
            } else {
                let child = self.read(block)?;
                self.pointers(&child, level - 1, next, end)?
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
