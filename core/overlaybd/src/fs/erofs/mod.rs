//! EROFS as far as it is not compressed: plain, inline and chunk-based files.

mod attributes;

use super::bytes::{u16_at, u32_at, u64_at};
use super::node::device_numbers;
use super::{Attribute, Device, Extent, Layout, Node, Type, RAW};
use crate::error::{Error, Kind, Result};
use crate::tar::Time;

const MAGIC: u32 = 0xE0F5_E1E2;
/// Features beyond these change the layout of super block or inodes.
const UNDERSTOOD: u32 = 0x7F;

const SLOT: u64 = 32;
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
const CHUNKS: u16 = 4;

/// Format of a chunk-based file: chunks are described in eight bytes, not in four.
const INDEXES: u16 = 0x20;
const HOLE: u32 = u32::MAX;
/// Chunks of one file: 16 GiB of the smallest.
const MAX_CHUNKS: u64 = 4 << 20;
/// Bytes of chunk descriptions read at a time.
const BATCH: usize = 4096;

const DIRENT: usize = 12;

pub(super) struct Erofs {
    block_bits: u32,
    meta_at: u64,
    shared_at: u64,
    root: u64,
    /// The time of all files that have none of their own.
    built: Time,
}

impl Erofs {
    /// From the super block; None if it is none.
    pub fn open(sb: &[u8; 1024]) -> Result<Option<Self>> {
        if u32_at(sb, 0) != MAGIC {
            return Ok(None);
        }
        let incompatible = u32_at(sb, 80);
        if incompatible & !UNDERSTOOD != 0 {
            let what = format!("EROFS with features that are not understood ({:#x})", incompatible & !UNDERSTOOD);
            return Err(Error::new(Kind::Unsupported, what));
        }
        let block_bits = u32::from(sb[12]);
        if !(9..=16).contains(&block_bits) || sb[90] != 0 {
            return Err(Error::corrupt("EROFS super block: a block size that makes no sense").at(1024));
        }
        let meta_at = u64::from(u32_at(sb, 40)) << block_bits;
        let shared_at = u64::from(u32_at(sb, 44)) << block_bits;
        let built = Time { seconds: u64_at(sb, 24) as i64, nanos: u32_at(sb, 32).min(999_999_999) };
        Ok(Some(Erofs { block_bits, meta_at, shared_at, root: u16_at(sb, 14).into(), built }))
    }

    fn is_extended(node: &Node) -> bool {
        u16_at(&node.raw, 0) & 1 != 0
    }

    fn inode_bytes(node: &Node) -> u64 {
        if Self::is_extended(node) {
            64
        } else {
            32
        }
    }

    /// Bytes of extended attributes behind an inode.
    fn attribute_bytes(node: &Node) -> u64 {
        match u64::from(u16_at(&node.raw, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        }
    }

    /// Where an inode ends, extended attributes included.
    fn end_of(node: &Node) -> u64 {
        node.at + Self::inode_bytes(node) + Self::attribute_bytes(node)
    }

    fn chunks(&self, device: &Device, node: &Node, from: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        let format = u16_at(&node.raw, 16);
        let width = if format & INDEXES != 0 { 8 } else { 4 };
        let chunk = 1u64 << (self.block_bits + u32::from(format & 0x1F));
        if node.size.div_ceil(chunk) > MAX_CHUNKS {
            return Err(Error::new(Kind::Limit, "a file of too many chunks"));
        }
        let first = from / chunk;
        let mut at = Self::end_of(node).next_multiple_of(width as u64) + first * width as u64;
        let mut offset = first * chunk;
        while offset < node.size {
            let count = (node.size - offset).div_ceil(chunk).min((BATCH / width) as u64) as usize;
            let mut batch = vec![0; count * width];
            device.read(&mut batch, at)?;
            for entry in batch.chunks_exact(width) {
                let block = u32_at(entry, width - 4);
                if width == 8 && u16_at(entry, 2) != 0 && block != HOLE {
                    return Err(Error::new(Kind::Unsupported, "a file with parts on another device"));
                }
                let extent = Extent { offset, device: u64::from(block) << self.block_bits, len: chunk };
                if block != HOLE && !each(extent) {
                    return Ok(());
                }
                offset = offset.saturating_add(chunk);
            }
            at += batch.len() as u64;
        }
        Ok(())
    }
}

impl Layout for Erofs {
    fn name(&self) -> &'static str {
        "erofs"
    }

    fn needs_recovery(&self) -> bool {
        false
    }

    fn root(&self) -> u64 {
        self.root
    }

    fn node(&self, device: &Device, number: u64) -> Result<Node> {
        let at = number.checked_mul(SLOT).and_then(|at| at.checked_add(self.meta_at));
        let at = at.ok_or_else(|| Error::corrupt(format!("inode {number} of an EROFS")))?;
        let mut raw = [0; RAW];
        device.read(&mut raw[..32], at)?;
        let mut node = Node {
            number,
            mode: u16_at(&raw, 4),
            links: u16_at(&raw, 6).into(),
            uid: u16_at(&raw, 24).into(),
            gid: u16_at(&raw, 26).into(),
            size: u32_at(&raw, 8).into(),
            device: (0, 0),
            mtime: self.built,
            atime: self.built,
            ctime: self.built,
            at,
            raw,
        };
        if Self::is_extended(&node) {
            device.read(&mut node.raw[..64], at)?;
            let raw = &node.raw;
            let mtime = Time { seconds: u64_at(raw, 32) as i64, nanos: u32_at(raw, 40).min(999_999_999) };
            (node.mtime, node.atime, node.ctime) = (mtime, mtime, mtime);
            (node.links, node.uid, node.gid, node.size) =
                (u32_at(raw, 44), u32_at(raw, 24), u32_at(raw, 28), u64_at(raw, 8));
        }
        if node.is_device() {
            node.device = device_numbers(u32_at(&node.raw, 16));
        }
        Ok(node)
    }

    fn extents(&self, device: &Device, node: &Node, from: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()> {
        if node.kind() == Type::Other {
            return Ok(());
        }
        let start = u64::from(u32_at(&node.raw, 16)) << self.block_bits;
        match u16_at(&node.raw, 0) >> 1 & 7 {
            PLAIN => {
                each(Extent { offset: 0, device: start, len: node.size });
            }
            INLINE => {
                // The last block, full or not, is behind the inode.
                let tail = node.size.saturating_sub(1) >> self.block_bits << self.block_bits;
                let go_on = tail == 0 || each(Extent { offset: 0, device: start, len: tail });
                if go_on && tail < node.size {
                    each(Extent { offset: tail, device: Self::end_of(node), len: node.size - tail });
                }
            }
            CHUNKS => return self.chunks(device, node, from, each),
            _ => return Err(Error::new(Kind::Unsupported, "a compressed file of an EROFS")),
        }
        Ok(())
    }

    fn block_bytes(&self) -> u64 {
        1 << self.block_bits
    }

    fn entries(&self, block: &[u8], each: &mut dyn FnMut(&[u8], u64)) -> Result<()> {
        let broken = || Error::corrupt("a block of a directory whose entries do not fit");
        if block.len() < DIRENT {
            return Err(broken());
        }
        let names_at = usize::from(u16_at(block, 8));
        if names_at < DIRENT || names_at > block.len() {
            return Err(broken());
        }
        let entries: Vec<&[u8]> = block[..names_at].chunks_exact(DIRENT).collect();
        for (i, entry) in entries.iter().enumerate() {
            let start = usize::from(u16_at(entry, 8));
            let end = entries.get(i + 1).map_or(block.len(), |next| u16_at(next, 8).into());
            let name = block.get(start..end).filter(|_| start >= names_at).ok_or_else(broken)?;
            // The last name is followed by zeros.
            let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            each(&name[..len], u64_at(entry, 0));
        }
        Ok(())
    }

    fn attributes(&self, device: &Device, node: &Node) -> Result<Vec<Attribute>> {
        attributes::attributes(self, device, node)
    }
}
