//! Super block and inodes as they lie on disk.

use crate::ext4::{BLOCK as BLOCK_DEVICE, CHAR, DIR, FIFO, FILE, LINK};
use crate::fs::bytes::{u16_at, u32_at, u64_at};
use crate::tar::Time;

/// Bytes of a block, and of the unit in which inodes are numbered.
pub(super) const BLOCK: u64 = 4096;
pub(super) const SLOT: u64 = 32;

/// The super block: what says that it is one, where it lies, and its size.
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;
pub(super) const SUPER_AT: u64 = 1024;
pub(super) const SUPER_BYTES: usize = 128;

/// A new file system's root, behind the super block, and the room for its attributes: as upstream has it.
pub(super) const ROOT_AT: u64 = SUPER_AT + SUPER_BYTES as u64;
pub(super) const ROOT_ATTRIBUTES: usize = 16 << 10;

/// Where all else begins in a new file system.
pub(super) const FIRST_END: u64 = (ROOT_AT + (EXTENDED + ROOT_ATTRIBUTES) as u64).next_multiple_of(BLOCK);

/// Bytes of both forms of an inode.
pub(super) const COMPACT: usize = 32;
pub(super) const EXTENDED: usize = 64;

/// How content is laid out: in consecutive blocks, or with what would fill no block behind the inode.
pub(super) const PLAIN: u16 = 0;
pub(super) const INLINE: u16 = 2;

/// Features that do not change what is read: a checksum of the super block, and a filter for names of attributes.
const CHECKSUM: u32 = 0x1;
const FILTER: u32 = 0x4;

/// The super block.
#[derive(Clone)]
pub(super) struct Super(pub [u8; SUPER_BYTES]);

impl Super {
    /// That of a new file system, which has a root and nothing more.
    pub fn new() -> Self {
        let mut block = Super([0; SUPER_BYTES]);
        put(&mut block.0, 0, &MAGIC.to_le_bytes());
        block.0[12] = BLOCK.trailing_zeros() as u8;
        put(&mut block.0, 14, &((ROOT_AT / SLOT) as u16).to_le_bytes());
        block.set_inodes(1);
        block
    }

    pub fn block_bits(&self) -> u8 {
        self.0[12]
    }

    pub fn root(&self) -> u64 {
        u64::from(u16::from_le_bytes([self.0[14], self.0[15]]))
    }

    pub fn inodes(&self) -> u64 {
        u64_at(&self.0, 16)
    }

    pub fn set_inodes(&mut self, inodes: u64) {
        put(&mut self.0, 16, &inodes.to_le_bytes());
    }

    /// The time that compact inodes have.
    pub fn time(&self) -> Time {
        Time { seconds: u64_at(&self.0, 24).cast_signed(), nanos: u32_at(&self.0, 32) }
    }

    /// Where the file system ends.
    pub fn end(&self) -> u64 {
        u64::from(u32_at(&self.0, 36)) * BLOCK
    }

    pub fn set_blocks(&mut self, blocks: u32) {
        put(&mut self.0, 36, &blocks.to_le_bytes());
    }

    /// Where inodes are counted from.
    pub fn inodes_at(&self) -> u64 {
        u64::from(u32_at(&self.0, 40)) * BLOCK
    }

    /// Whether parts of it are on other devices.
    pub fn has_devices(&self) -> bool {
        u16::from_le_bytes([self.0[86], self.0[87]]) != 0
    }

    /// Drops what is not kept up to date.
    pub fn simplify(&mut self) {
        let features = u32_at(&self.0, 8) & !(CHECKSUM | FILTER);
        put(&mut self.0, 8, &features.to_le_bytes());
        put(&mut self.0, 4, &[0; 4]);
    }
}

/// What an inode says, whatever its form.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    pub links: u32,
    pub size: u64,
    pub layout: u16,
    /// The first block of content, or the number of a device.
    pub place: u32,
}

impl Inode {
    pub fn kind(&self) -> u16 {
        self.mode & crate::ext4::TYPE
    }

    /// Reads one: also whether it is extended, and the bytes of its attributes.
    pub fn parse(raw: &[u8; EXTENDED]) -> (Self, bool, usize) {
        let format = u16_at(raw, 0);
        let extended = format & 1 != 0;
        let count = usize::from(u16_at(raw, 2));
        let attributes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let mut inode =
            Inode { mode: u16_at(raw, 4), layout: format >> 1 & 7, place: u32_at(raw, 16), ..Inode::default() };
        if extended {
            inode.size = u64_at(raw, 8);
            (inode.uid, inode.gid) = (u32_at(raw, 24), u32_at(raw, 28));
            inode.mtime = Time { seconds: u64_at(raw, 32).cast_signed(), nanos: u32_at(raw, 40) };
            inode.links = u32_at(raw, 44);
        } else {
            inode.size = u32_at(raw, 8).into();
            inode.links = u16_at(raw, 6).into();
            (inode.uid, inode.gid) = (u16_at(raw, 24).into(), u16_at(raw, 26).into());
        }
        (inode, extended, attributes)
    }

    /// Whether the compact form can say it; its time is that of the file system.
    pub fn is_compact(&self, time: Time) -> bool {
        let small = |number: u32| u16::try_from(number).is_ok();
        let fits = small(self.uid) && small(self.gid) && small(self.links) && u32::try_from(self.size).is_ok();
        fits && self.mtime == time
    }

    /// The bytes of one with number `number` and so many bytes of attributes.
    pub fn encode(&self, extended: bool, number: u64, attributes: usize) -> Vec<u8> {
        let mut raw = vec![0; if extended { EXTENDED } else { COMPACT }];
        put(&mut raw, 0, &(self.layout << 1 | u16::from(extended)).to_le_bytes());
        let count = if attributes == 0 { 0 } else { (attributes - 12) / 4 + 1 };
        put(&mut raw, 2, &(count as u16).to_le_bytes());
        put(&mut raw, 4, &self.mode.to_le_bytes());
        put(&mut raw, 16, &self.place.to_le_bytes());
        put(&mut raw, 20, &(number as u32).to_le_bytes());
        if extended {
            put(&mut raw, 8, &self.size.to_le_bytes());
            put(&mut raw, 24, &self.uid.to_le_bytes());
            put(&mut raw, 28, &self.gid.to_le_bytes());
            put(&mut raw, 32, &self.mtime.seconds.to_le_bytes());
            put(&mut raw, 40, &self.mtime.nanos.to_le_bytes());
            put(&mut raw, 44, &self.links.to_le_bytes());
        } else {
            put(&mut raw, 6, &(self.links as u16).to_le_bytes());
            put(&mut raw, 8, &(self.size as u32).to_le_bytes());
            put(&mut raw, 24, &(self.uid as u16).to_le_bytes());
            put(&mut raw, 26, &(self.gid as u16).to_le_bytes());
        }
        raw
    }
}

/// The number of a device as the kernel stores it; None if there is no such.
pub(super) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some(minor & 0xFF | major << 8 | (minor & !0xFF) << 12)
}

/// Types as directories have them, and as modes have them.
const TYPES: [(u8, u16); 7] = [(1, FILE), (2, DIR), (3, CHAR), (4, BLOCK_DEVICE), (5, FIFO), (6, 0xC000), (7, LINK)];

/// The type that a directory has for a mode.
pub(super) fn type_of(mode: u16) -> u8 {
    TYPES.iter().find(|(_, kind)| *kind == mode & crate::ext4::TYPE).map_or(0, |(stored, _)| *stored)
}

/// The type bits of a mode that a directory means.
pub(super) fn mode_of(stored: u8) -> Option<u16> {
    TYPES.iter().find(|(other, _)| *other == stored).map(|(_, kind)| *kind)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_devices_are_those_of_the_kernel() {
        for (major, minor) in [(0, 0), (8, 1), (1, 3), (259, 255), (259, 256), (4095, 0xF_FFFF), (0x123, 0x4_5678)] {
            let stored = device_number(major, minor).unwrap();
            // As `new_decode_dev` of the kernel takes them apart.
            assert_eq!(((stored & 0xF_FF00) >> 8, (stored & 0xFF) | ((stored >> 12) & 0xF_FF00)), (major, minor));
        }
        assert_eq!((device_number(4096, 0), device_number(0, 1 << 20)), (None, None));
    }

    #[test]
    fn what_is_not_kept_up_to_date_is_no_longer_said() {
        let mut block = Super::new();
        put(&mut block.0, 4, &0xABCD_EF01u32.to_le_bytes());
        put(&mut block.0, 8, &0x8000_000Fu32.to_le_bytes());
        block.simplify();
        assert_eq!((u32_at(&block.0, 4), u32_at(&block.0, 8)), (0, 0x8000_000A));
        assert_eq!((block.0[..4].to_vec(), block.inodes()), (MAGIC.to_le_bytes().to_vec(), 1));
    }

    #[test]
    fn types_of_directories_and_modes_say_the_same() {
        for (stored, mode) in
            [(1, 0x8000), (2, 0x4000), (3, 0x2000), (4, 0x6000), (5, 0x1000), (6, 0xC000), (7, 0xA000)]
        {
            assert_eq!((type_of(mode | 0o7777), mode_of(stored)), (stored, Some(mode)));
        }
        assert_eq!((type_of(0o644), mode_of(0), mode_of(8)), (0, None, None));
    }
}
