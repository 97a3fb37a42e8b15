//! A new file system, always the same for a size: no clock and no chance in it.

use std::sync::Arc;

use super::handle::Handle;
use super::pages::reads_zero;
use super::{share, Ext4, FLAGS, LOST_AND_FOUND, ROOT, SIGNED_HASH};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};

const BLOCK_BYTES: u64 = 4096;
/// One inode for so many bytes.
const BYTES_PER_INODE: u64 = 16384;
/// A smaller one has no room for anything but itself.
const MIN_BYTES: u64 = 2 << 20;
/// Groups whose tables lie together (as a power of two), so that fewer places are read.
const GROUPS_TOGETHER: u8 = 4;

/// Bytes whose groups one block of descriptors describes.
const BYTES_PER_DESCRIPTORS: u64 = 8 << 30;
/// Blocks of descriptors set aside so that it can grow while in use: to 16 times its size, or to 64 GiB if that is
/// more. Each costs a block in the layer; beyond that the kernel finds other places.
const MIN_GROWTH_BLOCKS: u64 = 8;
const GROWTH: u64 = 16;
/// As many as the resize inode can have.
const MAX_GROWTH_BLOCKS: u64 = 1024;

/// As upstream's, but without the two backups only (`sparse_super2`): with those it could not grow while in use.
/// ext_attr, resize_inode, dir_index.
const COMPATIBLE: u32 = 0x8 | 0x10 | 0x20;
/// filetype, extent, 64bit, flex_bg.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize.
const READ_ONLY: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;

/// Inodes that have a meaning of their own.
const RESERVED: std::ops::RangeInclusive<u32> = 1..=10;
const UUID: [u8; 16] = [0xBD, 0xF7, 0xBB, 0x2E, 0xC2, 0x31, 0x43, 0xCE, 0x87, 0xC2, 0x29, 0x97, 0x92, 0x45, 0x8E, 0xF5];
const HALF_MD4: u8 = 1;

impl Ext4 {
    /// Makes a file system on all of `device`; what was on it is gone.
    ///
    /// # Errors
    /// `Invalid` if it is too small; `Unsupported` if libext2fs is not installed; `ReadOnly`; those of the device.
    pub fn create(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let size = device.size();
        if device.read_only() {
            return Err(Error::new(Kind::ReadOnly, "the device is read-only"));
        }
        if size < MIN_BYTES {
            return Err(Error::new(Kind::Invalid, format!("a device of {size} bytes is too small for ext4")));
        }
        if !reads_zero(&*device, 0, size)? {
            device.discard(0, size)?;
        }
        let blocks = size / BLOCK_BYTES;
        let mut handle = Handle::create(share(device), wanted(blocks))?;
        handle.set_super_block(0x68, &UUID);
        handle.set_super_block(0xFC, &[HALF_MD4]);
        // The library has what characters are on this machine.
        handle.set_super_block(FLAGS, &SIGNED_HASH.to_le_bytes());
        // When it was made and checked.
        handle.set_super_block(0x108, &[0; 4]);
        handle.set_super_block(0x40, &[0; 4]);
        for number in RESERVED {
            handle.count_inode(number, 1, number == ROOT);
        }
        let mut made = Ext4::with(handle)?;
        let mut root = super::Inode::new(made.inode_bytes, super::DIR | 0o755);
        made.begin_directory(ROOT, ROOT, &mut root)?;
        let resizable = u32::from_le_bytes(made.handle.super_block()[0x5C..0x60].try_into().unwrap_or_default()) & 0x10;
        if resizable != 0 {
            made.handle.create_resize_inode()?;
        }
        let (number, mut inode) = made.make_directory(ROOT, b"lost+found", 0o700)?;
        if number != LOST_AND_FOUND {
            return Err(Error::corrupt(format!("lost+found became inode {number}")));
        }
        made.set_inode(number, &mut inode)?;
        Ok(made)
    }
}

/// A super block that says what the new one is to be.
fn wanted(blocks: u64) -> [u8; 1024] {
    let mut block = [0; 1024];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let reserved = blocks / 20;
    let inodes = u32::try_from(blocks * BLOCK_BYTES / BYTES_PER_INODE).unwrap_or(u32::MAX);
    put(0x00, &inodes.to_le_bytes());
    put(0x04, &(blocks as u32).to_le_bytes());
    put(0x150, &((blocks >> 32) as u32).to_le_bytes());
    put(0x08, &(reserved as u32).to_le_bytes());
    put(0x154, &((reserved >> 32) as u32).to_le_bytes());
    put(0x18, &2u32.to_le_bytes());
    // Never to be checked because of mounts; errors do not stop it; the second revision; bytes of an inode.
    put(0x36, &(-1i16).to_le_bytes());
    put(0x3C, &1u16.to_le_bytes());
    put(0x4C, &1u32.to_le_bytes());
    put(0x58, &256u16.to_le_bytes());
    put(0x5C, &COMPATIBLE.to_le_bytes());
    put(0x60, &INCOMPATIBLE.to_le_bytes());
    put(0x64, &READ_ONLY.to_le_bytes());
    let growth = (blocks * BLOCK_BYTES).div_ceil(BYTES_PER_DESCRIPTORS) * (GROWTH - 1);
    put(0xCE, &(growth.clamp(MIN_GROWTH_BLOCKS, MAX_GROWTH_BLOCKS) as u16).to_le_bytes());
    put(0x174, &[GROUPS_TOGETHER]);
    block
}
