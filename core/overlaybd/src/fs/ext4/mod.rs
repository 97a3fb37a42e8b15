//! ext2, ext3 and ext4: super block, inodes by number, entries of directories.
//!
//! A journal that was not replayed is not looked at: the file system is taken as it lies there.

mod attributes;
mod map;

use super::bytes::{u16_at, u32_at};
use super::node::device_numbers;
use super::{Attribute, Device, Extent, Layout, Node, Type, RAW};
use crate::error::{Error, Kind, Result};
use crate::tar::Time;

const MAGIC: u16 = 0xEF53;
const ROOT: u64 = 2;

const FILETYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const META_GROUPS: u32 = 0x10;
const IS_64BIT: u32 = 0x80;
/// Features that change nothing here: extents, MMP, flexible groups, attributes in inodes of their own, checksum seed,
/// large directories, inline data, encryption, case folding; and the four above.
const UNDERSTOOD: u32 = FILETYPE
    | RECOVER
    | META_GROUPS
    | IS_64BIT
    | 0x40
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
/// Features that say which groups have a copy of the super block.
const SPARSE_SUPER: u32 = 0x1;
const SPARSE_SUPER2: u32 = 0x200;

/// Flags of an inode.
const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const ATTRIBUTE: u32 = 0x20_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// Bytes of an inode that every one has.
const OLD_INODE: u64 = 128;
/// Bytes of an inode that say all but its attributes.
const STAT: usize = 160;

pub(super) struct Ext4 {
    block_bytes: u64,
    blocks: u64,
    inodes: u64,
    inodes_per_group: u64,
    inode_bytes: u64,
    groups: Groups,
    filetype: bool,
    needs_recovery: bool,
}

/// Where the descriptions of groups lie.
struct Groups {
    /// Bytes of one.
    bytes: u64,
    /// The block of the super block, and that of the first group.
    super_block: u64,
    first_block: u64,
    blocks_per_group: u64,
    /// The block of descriptions from which on each is in the groups that it describes.
    first_meta: u64,
    /// Which groups have a copy of the super block: two of them, or those that a rule says, or all.
    two_copies: Option<[u64; 2]>,
    sparse: bool,
}

impl Groups {
    fn new(sb: &[u8; 1024], block_bytes: u64, incompatible: u32) -> Groups {
        let copies = [u64::from(u32_at(sb, 0x24C)), u32_at(sb, 0x250).into()];
        Groups {
            bytes: if incompatible & IS_64BIT != 0 { u16_at(sb, 0xFE).into() } else { 32 },
            super_block: u64::from(block_bytes == 1024),
            first_block: u32_at(sb, 0x14).into(),
            blocks_per_group: u32_at(sb, 0x20).into(),
            first_meta: if incompatible & META_GROUPS != 0 { u32_at(sb, 0x104).into() } else { u64::MAX },
            two_copies: (u32_at(sb, 0x5C) & SPARSE_SUPER2 != 0).then_some(copies),
            sparse: u32_at(sb, 0x64) & SPARSE_SUPER != 0,
        }
    }

    /// Whether a group begins with a copy of the super block.
    fn has_super(&self, group: u64) -> bool {
        let power_of = |base: u64| (1..=20).any(|n| base.checked_pow(n) == Some(group));
        match (group, self.two_copies) {
            (0, _) => true,
            (_, Some(copies)) => copies.contains(&group),
            (1, None) => true,
            _ => !self.sparse || [3, 5, 7].into_iter().any(power_of),
        }
    }

    /// The block that describes `group`, and where in it.
    fn place(&self, group: u64, block_bytes: u64) -> (u64, u64) {
        let in_block = block_bytes / self.bytes;
        let (number, index) = (group / in_block, group % in_block);
        if number < self.first_meta {
            return (self.super_block + 1 + number, index * self.bytes);
        }
        let first = number * in_block;
        let mut block = self.first_block + first * self.blocks_per_group + u64::from(self.has_super(first));
        // Where blocks of 1 KiB are counted from the one before the super block.
        block += u64::from(number == 0 && block_bytes == 1024 && self.first_block == 0);
        (block, index * self.bytes)
    }
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
            inode_bytes: if old { OLD_INODE } else { u16_at(sb, 0x58).into() },
            groups: Groups::new(sb, block_bytes, incompatible),
            filetype: incompatible & FILETYPE != 0,
            needs_recovery: incompatible & RECOVER != 0,
        };
        let right = bits <= 6
            && ext4.inodes_per_group > 0
            && (OLD_INODE..=block_bytes).contains(&ext4.inode_bytes)
            && ext4.inode_bytes.is_power_of_two()
            && (32..=1024).contains(&ext4.groups.bytes)
            && ext4.groups.bytes.is_power_of_two();
        if !right {
            return Err(Error::corrupt("ext4 super block: sizes that make no sense").at(1024));
        }
        Ok(Some(ext4))
    }

    fn byte_of(&self, block: u64) -> Result<u64> {
        let byte = block.checked_mul(self.block_bytes).filter(|_| block > 0 && block < self.blocks);
        byte.ok_or_else(|| Error::corrupt(format!("block {block} of a file system of {}", self.blocks)))
    }

    /// Where an inode lies.
    fn place(&self, device: &Device, number: u64) -> Result<u64> {
        if number == 0 || number > self.inodes {
            return Err(Error::corrupt(format!("inode {number} of a file system of {}", self.inodes)));
        }
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let (block, at) = self.groups.place(group, self.block_bytes);
        let mut descriptor = vec![0; self.groups.bytes as usize];
        // The first one may be in the first block of all.
        let block = if block == 0 { 0 } else { self.byte_of(block)? };
        device.read(&mut descriptor, block + at)?;
        let high = if self.groups.bytes >= 64 { u64::from(u32_at(&descriptor, 0x28)) << 32 } else { 0 };
        let table = self.byte_of(u64::from(u32_at(&descriptor, 8)) | high)?;
        table.checked_add(index * self.inode_bytes).ok_or_else(|| Error::corrupt("an inode beyond all devices"))
    }

    /// Bytes of an inode that say all but its attributes; what it does not have is zeros.
    fn stat(&self, device: &Device, at: u64) -> Result<[u8; STAT]> {
        let mut raw = [0; STAT];
        device.read(&mut raw[..self.inode_bytes.min(STAT as u64) as usize], at)?;
        if self.inode_bytes > OLD_INODE {
            let known = OLD_INODE as usize + usize::from(u16_at(&raw, 0x80));
            raw[known.clamp(OLD_INODE as usize, STAT)..].fill(0);
        }
        Ok(raw)
    }
}

/// A time: seconds, of which the two lowest bits of `extra` are the highest, and nanoseconds above those.
fn time(raw: &[u8], seconds: usize, extra: usize) -> Time {
    let more = u32_at(raw, extra);
    let seconds = i64::from(u32_at(raw, seconds) as i32) + (i64::from(more & 3) << 32);
    Time { seconds, nanos: (more >> 2).min(999_999_999) }
}

/// A number of 32 bits whose halves lie apart.
fn halves(raw: &[u8], low: usize, high: usize) -> u32 {
    u32::from(u16_at(raw, low)) | u32::from(u16_at(raw, high)) << 16
}

impl Layout for Ext4 {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn needs_recovery(&self) -> bool {
        self.needs_recovery
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn node(&self, device: &Device, number: u64) -> Result<Node> {
        let at = self.place(device, number)?;
        let all = self.stat(device, at)?;
        let mut raw = [0; RAW];
        raw.copy_from_slice(&all[..RAW]);
        let mut node = Node {
            number,
            mode: u16_at(&all, 0),
            links: u16_at(&all, 0x1A).into(),
            uid: halves(&all, 2, 0x78),
            gid: halves(&all, 0x18, 0x7A),
            size: u32_at(&all, 4).into(),
            device: (0, 0),
            mtime: time(&all, 0x10, 0x88),
            atime: time(&all, 0x8, 0x8C),
            ctime: time(&all, 0xC, 0x84),
            at,
            raw,
        };
        if matches!(node.kind(), Type::File | Type::Directory) {
            node.size |= u64::from(u32_at(&all, 0x6C)) << 32;
        }
        if node.is_device() {
            let (old, new) = (u32_at(&all, map::MAP), u32_at(&all, map::MAP + 4));
            node.device = if old != 0 { (old >> 8 & 0xFF, old & 0xFF) } else { device_numbers(new) };
        }
        Ok(node)
    }

    fn extents(&self, device: &Device, node: &Node, from: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        map::extents(self, device, node, from, each)
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

    fn attributes(&self, device: &Device, node: &Node) -> Result<Vec<Attribute>> {
        attributes::attributes(self, device, node)
    }
}
