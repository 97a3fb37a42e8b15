//! ext2, ext3 and ext4: inodes by number, extent trees and block maps, directories.
//!
//! A journal that was not replayed is not looked at: the file system is taken as it lies there.

use super::bytes::{u16_at, u32_at};
use super::{Device, Extent, Layout, Node, Type, RAW};
use crate::error::{Error, Kind, Result};

const MAGIC: u16 = 0xEF53;
const ROOT: u64 = 2;

const FILETYPE: u32 = 0x2;
const IS_64BIT: u32 = 0x80;
/// Features that change nothing here: recovery, extents, MMP, flexible groups, large xattrs, checksum seed, large
/// directories, inline data, encryption, case folding; and the two above.
const UNDERSTOOD: u32 =
    FILETYPE | IS_64BIT | 0x4 | 0x40 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;

/// Flags of an inode.
const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// Where an inode says where its content is, and the bytes of that.
const BLOCK: usize = 0x28;
const BLOCK_BYTES: usize = 60;

const TREE_MAGIC: u16 = 0xF30A;
const TREE_ENTRY: usize = 12;
/// Levels of an extent tree, by the format.
const MAX_DEPTH: u16 = 5;
/// Blocks of one file's map that are read: enough for [`MAX_FILE_EXTENTS`](crate::limits::MAX_FILE_EXTENTS) many times
/// over, and an end to maps that refer to the same block again and again.
const MAX_MAP_BLOCKS: usize = 4096;
/// Extents longer than this are of that much less, and not written yet.
const MAX_WRITTEN: u32 = 32768;

pub(super) struct Ext4 {
    block_bytes: u64,
    blocks: u64,
    inodes: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    /// Where the group descriptors begin, and the bytes of one.
    groups_at: u64,
    group_bytes: u64,
    filetype: bool,
}

impl Ext4 {
    /// From the super block; None if it is none.
    pub fn open(sb: &[u8; 1024]) -> Result<Option<Self>> {
        if u16_at(sb, 0x38) != MAGIC {
            return Ok(None);
        }
        let incompatible = u32_at(sb, 0x60);
        if incompatible & !UNDERSTOOD != 0 {
            let what = format!("ext4 with features that are not understood ({:#x})", incompatible & !UNDERSTOOD);
            return Err(Error::new(Kind::Unsupported, what));
        }
        let bits = u32_at(sb, 0x18);
        let is_64bit = incompatible & IS_64BIT != 0;
        let old = u32_at(sb, 0x4C) == 0;
        let block_bytes = 1024u64 << bits.min(16);
        let ext4 = Ext4 {
            block_bytes,
            blocks: u64::from(u32_at(sb, 0x4)) | if is_64bit { u64::from(u32_at(sb, 0x150)) << 32 } else { 0 },
            inodes: u32_at(sb, 0).into(),
            inodes_per_group: u32_at(sb, 0x28).into(),
            inode_bytes: if old { 128 } else { u16_at(sb, 0x58).into() },
            groups_at: (u64::from(u32_at(sb, 0x14)) + 1) * block_bytes,
            group_bytes: if is_64bit { u16_at(sb, 0xFE).into() } else { 32 },
            filetype: incompatible & FILETYPE != 0,
        };
        let right = bits <= 6
            && ext4.inodes_per_group > 0
            && (128..=block_bytes).contains(&ext4.inode_bytes)
            && (32..=1024).contains(&ext4.group_bytes);
        if !right {
            return Err(Error::corrupt("ext4 super block: sizes that make no sense").at(1024));
        }
        Ok(Some(ext4))
    }

    fn byte_of(&self, block: u64) -> Result<u64> {
        if block == 0 || block >= self.blocks {
            return Err(Error::corrupt(format!("block {block} of a file system of {}", self.blocks)));
        }
        Ok(block * self.block_bytes)
    }
}

/// One walk over the map of a file.
struct Walk<'a> {
    ext4: &'a Ext4,
    device: &'a Device,
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

    /// A node of an extent tree; false if the caller has had enough.
    fn tree(&mut self, node: &[u8], depth: Option<u16>) -> Result<bool> {
        let (magic, entries, own) = (u16_at(node, 0), usize::from(u16_at(node, 2)), u16_at(node, 6));
        let room = node.len() / TREE_ENTRY - 1;
        if magic != TREE_MAGIC || entries > room || own > MAX_DEPTH || depth.is_some_and(|depth| own != depth) {
            return Err(Error::corrupt("a node of an extent tree that is none"));
        }
        for entry in node[TREE_ENTRY..].chunks_exact(TREE_ENTRY).take(entries) {
            let block_bytes = self.ext4.block_bytes;
            let go_on = if own == 0 {
                let len = u32::from(u16_at(entry, 4));
                let block = u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32;
                let offset = u64::from(u32_at(entry, 0)) * block_bytes;
                let device = self.ext4.byte_of(block)?;
                len > MAX_WRITTEN || (self.each)(Extent { offset, device, len: u64::from(len) * block_bytes })
            } else {
                let child = self.read(u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32)?;
                self.tree(&child, Some(own - 1))?
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
        for pointer in pointers.chunks_exact(4) {
            if *next >= end {
                return Ok(false);
            }
            let block = u64::from(u32_at(pointer, 0));
            let go_on = match (block, level) {
                (0, _) => {
                    *next += (block_bytes / 4).pow(level);
                    true
                }
                (_, 0) => {
                    *next += 1;
                    let offset = (*next - 1) * block_bytes;
                    (self.each)(Extent { offset, device: self.ext4.byte_of(block)?, len: block_bytes })
                }
                _ => {
                    let child = self.read(block)?;
                    self.pointers(&child, level - 1, next, end)?
                }
            };
            if !go_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Layout for Ext4 {
    fn root(&self) -> u64 {
        ROOT
    }

    fn node(&self, device: &Device, number: u64) -> Result<Node> {
        if number == 0 || number > self.inodes {
            return Err(Error::corrupt(format!("inode {number} of a file system of {}", self.inodes)));
        }
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let mut descriptor = vec![0; self.group_bytes as usize];
        device.read(&mut descriptor, self.groups_at + group * self.group_bytes)?;
        let high = if self.group_bytes >= 64 { u64::from(u32_at(&descriptor, 0x28)) << 32 } else { 0 };
        let at = self.byte_of(u64::from(u32_at(&descriptor, 8)) | high)? + index * self.inode_bytes;
        let mut raw = [0; RAW];
        device.read(&mut raw, at)?;
        let mut node = Node { number, mode: u16_at(&raw, 0), size: u32_at(&raw, 4).into(), at, raw };
        if matches!(node.kind(), Type::File | Type::Directory) {
            node.size |= u64::from(u32_at(&raw, 0x6C)) << 32;
        }
        Ok(node)
    }

    fn extents(&self, device: &Device, node: &Node, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let flags = u32_at(&node.raw, 0x20);
        let map = &node.raw[BLOCK..BLOCK + BLOCK_BYTES];
        let in_inode = Extent { offset: 0, device: node.at + BLOCK as u64, len: BLOCK_BYTES as u64 };
        match node.kind() {
            Type::Other => return Ok(()),
            Type::Link if node.size < BLOCK_BYTES as u64 && flags & EXTENTS == 0 => {
                each(in_inode);
                return Ok(());
            }
            _ => {}
        }
        if flags & INLINE_DATA != 0 {
            if node.kind() == Type::Directory || node.size > BLOCK_BYTES as u64 {
                return Err(Error::new(Kind::Unsupported, "a file whose content is among its attributes"));
            }
            each(in_inode);
            return Ok(());
        }
        let mut walk = Walk { ext4: self, device, each, budget: MAX_MAP_BLOCKS };
        if flags & EXTENTS != 0 {
            return walk.tree(map, None).map(drop);
        }
        let (mut next, end) = (0, node.size.div_ceil(self.block_bytes));
        let (direct, indirect) = map.split_at(48);
        let mut go_on = walk.pointers(direct, 0, &mut next, end)?;
        for (level, pointer) in (1..).zip(indirect.chunks_exact(4)) {
            go_on = go_on && walk.pointers(pointer, level, &mut next, end)?;
        }
        Ok(())
    }

    fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    fn entries(&self, block: &[u8], each: &mut dyn FnMut(&[u8], u64)) -> Result<()> {
        let mut rest = block;
        while rest.len() >= 8 {
            let stored = usize::from(u16_at(rest, 4));
            // In a block of 64 KiB its length does not fit.
            let len = if matches!(stored, 0 | 65535) { block.len() } else { stored };
            let name_len = if self.filetype { usize::from(rest[6]) } else { usize::from(u16_at(rest, 6)) };
            if len < 8 || len > rest.len() || 8 + name_len > len {
                return Err(Error::corrupt("an entry of a directory that does not fit"));
            }
            let number = u32_at(rest, 0);
            if number != 0 {
                each(&rest[8..8 + name_len], number.into());
            }
            rest = &rest[len..];
        }
        Ok(())
    }
}
