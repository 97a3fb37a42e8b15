//! A file, of whatever type, as its inode describes it.

use crate::tar::Time;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket or a pipe.
    Other,
}

/// Bytes of an inode that are kept with it: all that says where the content is.
pub(super) const RAW: usize = 128;

/// A file, of whatever type.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number in the file system.
    pub number: u64,
    /// Type and permissions, as `stat` gives them.
    pub mode: u16,
    /// Names that it has.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of its content.
    pub size: u64,
    /// Major and minor number, if it is a device.
    pub device: (u32, u32),
    /// When its content changed last.
    pub mtime: Time,
    /// When it was read last.
    pub atime: Time,
    /// When anything of it changed last.
    pub ctime: Time,
    /// Where its inode lies.
    pub(super) at: u64,
    pub(super) raw: [u8; RAW],
}

impl Node {
    /// The inode's first bytes as they lie on disk.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// What it is.
    pub fn kind(&self) -> Type {
        match self.mode & 0xF000 {
            0x8000 => Type::File,
            0x4000 => Type::Directory,
            0xA000 => Type::Link,
            _ => Type::Other,
        }
    }

    /// Whether it is a character or a block device.
    pub(super) fn is_device(&self) -> bool {
        matches!(self.mode & 0xF000, 0x2000 | 0x6000)
    }
}

/// Numbers of a device as Linux packs them into 32 bits.
pub(super) fn device_numbers(packed: u32) -> (u32, u32) {
    ((packed & 0xF_FF00) >> 8, packed & 0xFF | packed >> 12 & 0xF_FF00)
}
