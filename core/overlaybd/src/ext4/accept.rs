//! What the super block of an ext4 must say before libext2fs is given it. The library takes some of its numbers on
//! trust: with a first block other than the format's it writes behind its buffers, as fuzzing has shown.

use super::{CHECKSUMS, LOST_AND_FOUND};
use crate::error::{Error, Kind, Result};
use crate::fs::bytes::{u16_at, u32_at};
use crate::limits::MAX_EXT4_GROUPS;

/// Features without which nothing is written (`filetype`, `extent`; `dir_index`), and those beside them that are
/// understood. Not among them: inline data, encryption, case folding, clusters, quotas, attributes in inodes of their
/// own, and a journal that was not replayed.
const NEEDED_INCOMPATIBLE: u32 = 0x2 | 0x40;
const KNOWN_INCOMPATIBLE: u32 = NEEDED_INCOMPATIBLE | 0x10 | IS_64BIT | 0x200 | 0x2000;
const KNOWN_READ_ONLY: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | CHECKSUMS;
const NEEDED_COMPATIBLE: u32 = 0x20;
const RECOVER: u32 = 0x4;
const IS_64BIT: u32 = 0x80;

/// Whether all that makes a file system differ is understood.
///
/// # Errors
/// `Unsupported`, with what helps where something does.
pub(super) fn features(block: &[u8; 1024]) -> Result<()> {
    if u16_at(block, 0x38) != 0xEF53 {
        return Err(Error::new(Kind::Unsupported, "there is no ext4 file system on it: make one first"));
    }
    let (compatible, incompatible, read_only) = (u32_at(block, 0x5C), u32_at(block, 0x60), u32_at(block, 0x64));
    if incompatible & RECOVER != 0 {
        return Err(Error::new(Kind::Unsupported, "ext4 whose journal was not replayed: mount it once, or run e2fsck"));
    }
    let unknown = (incompatible & !KNOWN_INCOMPATIBLE, read_only & !KNOWN_READ_ONLY);
    let missing = (NEEDED_COMPATIBLE & !compatible, NEEDED_INCOMPATIBLE & !incompatible);
    if unknown != (0, 0) || missing != (0, 0) {
        let what = format!(
            "ext4 with features that are not written ({:#x}, {:#x}), or without needed ones ({:#x}, {:#x})",
            unknown.0, unknown.1, missing.0, missing.1
        );
        return Err(Error::new(Kind::Unsupported, what));
    }
    Ok(())
}

/// Whether the sizes and counts of a file system with such features go together, and it lies within its device.
///
/// # Errors
/// `Unsupported` for blocks or inodes of sizes that are not written; `Limit`; `Corrupt`, with what is wrong.
pub(super) fn geometry(block: &[u8; 1024], device_bytes: u64) -> Result<()> {
    let long = |at: usize| u64::from(u32_at(block, at));
    let unsupported = |what: String| Err(Error::new(Kind::Unsupported, what));
    if long(0x18) > 2 {
        return unsupported(format!("ext4 with blocks of 1024 << {} bytes", long(0x18)));
    }
    let (block_bytes, inode_bytes) = (1024 << long(0x18), u64::from(u16_at(block, 0x58)));
    if long(0x4C) == 0 || !inode_bytes.is_power_of_two() || !(128..=block_bytes).contains(&inode_bytes) {
        return unsupported("ext4 of the first revision, or with inodes of an odd size".into());
    }
    // The first revision has no such field.
    if long(0x54) < u64::from(LOST_AND_FOUND) {
        return Err(Error::corrupt(format!("ext4 whose files begin at inode {}, which is reserved", long(0x54))));
    }
    let blocks = long(0x4) | if u32_at(block, 0x60) & IS_64BIT != 0 { long(0x150) << 32 } else { 0 };
    let (first, per_group) = (long(0x14), long(0x20));
    // As many as a bitmap of one block has bits.
    let fits = |count: u64| count > 0 && count.is_multiple_of(8) && count <= 8 * block_bytes;
    let (inodes, kept) = (long(0x28), u64::from(u16_at(block, 0xCE)));
    let groups = blocks.saturating_sub(first).div_ceil(per_group.max(1));
    let checks = [
        (first == u64::from(block_bytes == 1024), "a first block", first),
        (fits(per_group), "blocks in a group", per_group),
        // Clusters, which are blocks here, have fields of their own.
        (long(0x1C) == long(0x18) && long(0x24) == per_group, "blocks in a group of clusters", long(0x24)),
        (fits(inodes), "inodes in a group", inodes),
        (first < blocks && blocks <= device_bytes / block_bytes, "blocks", blocks),
        (long(0) == groups * inodes, "inodes", long(0)),
        (kept <= block_bytes / 4, "blocks kept for growth", kept),
        (block[0x174] < 32, "a size of what groups are put together to", block[0x174].into()),
    ];
    if let Some((_, what, value)) = checks.into_iter().find(|(right, ..)| !right) {
        return Err(Error::corrupt(format!("an ext4 whose super block has {value} for {what}")));
    }
    if groups > MAX_EXT4_GROUPS {
        return Err(Error::new(Kind::Limit, format!("ext4 of {groups} groups of blocks")));
    }
    Ok(())
}
