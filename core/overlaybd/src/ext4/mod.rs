//! ext4, written without mounting it: libext2fs keeps super block, bitmaps, inodes, extents and attributes; directories
//! and the content of files are our own, for speed and so that the same calls give the same bytes.
//!
//! Nothing here asks the clock or chance. Images are made by strangers: what is read is checked.

mod accept;
mod channel;
mod content;
mod dir;
mod directories;
mod handle;
mod inode;
mod library;
mod make;
mod mapped;
mod pages;
mod taken;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod written;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::fs::bytes::u32_at;
use crate::lsmt::RemoteMap;
use dir::{Directory, Format};
use handle::Handle;
pub use library::version;
use pages::Pages;

pub(crate) use inode::{Inode, BLOCK, CHAR, DIR, FIFO, FILE, LINK, TYPE};

/// The root directory, and the directory that e2fsck wants.
pub(crate) const ROOT: u32 = 2;
pub(crate) const LOST_AND_FOUND: u32 = 11;

/// A feature bit of the super block: checksums of metadata.
const CHECKSUMS: u32 = 0x400;
/// Where the super block says whether characters have a sign when names are hashed, and how.
const FLAGS: usize = 0x160;
const SIGNED_HASH: u32 = 1;
const UNSIGNED_HASH: u32 = 2;

/// An ext4 file system on a device that can be written.
///
/// One thread uses it. What was done is on the device after [`Ext4::close`], and not wholly before.
pub struct Ext4 {
    handle: Handle,
    block_bytes: usize,
    inode_bytes: usize,
    format: Format,
    hash_version: u8,
    hash_seed: [u32; 4],
    /// Where free blocks are looked for.
    goal: u64,
    directories: HashMap<u32, Loaded>,
    /// Entries in all of them, and a clock for which was used last.
    entries: usize,
    clock: u64,
}

/// A directory in memory.
struct Loaded {
    directory: Directory,
    used: u64,
}

impl Ext4 {
    /// Opens the file system on `device`.
    ///
    /// # Errors
    /// `Unsupported` if there is none, for one with features that are not written, or if libext2fs is not installed;
    /// `ReadOnly`; `Corrupt`; those of the device.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        if device.read_only() {
            return Err(Error::new(Kind::ReadOnly, "the device is read-only"));
        }
        let mut block = [0; 1024];
        if device.size() < 4096 {
            return Err(Error::new(Kind::Unsupported, "too small for an ext4 file system"));
        }
        device.read_at(&mut block, 1024)?;
        accept::features(&block)?;
        accept::geometry(&block, device.size())?;
        let mut handle = Handle::open(share(device))?;
        correct_totals(&mut handle);
        say_how_hashed(&mut handle);
        Self::with(handle)
    }

    fn with(handle: Handle) -> Result<Self> {
        let block = handle.super_block();
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let block_bytes = 1024usize << word(0x18).min(2);
        let inode_bytes = usize::from(u16::from_le_bytes([block[0x58], block[0x59]]));
        let unsigned = if word(FLAGS) & UNSIGNED_HASH != 0 { dir::UNSIGNED } else { 0 };
        let hash_version = block[0xFC].min(2) + unsigned;
        let format = Format { block_bytes, checksums: word(0x64) & CHECKSUMS != 0 };
        let hash_seed = [word(0xEC), word(0xF0), word(0xF4), word(0xF8)];
        let directories = HashMap::new();
        let goal = 0;
        let (entries, clock) = (0, 0);
        Ok(Ext4 {
            handle,
            block_bytes,
            inode_bytes,
            format,
            hash_version,
            hash_seed,
            goal,
            directories,
            entries,
            clock,
        })
    }

    /// From now on the content of files that an archive holds in one piece is not stored but mapped.
    ///
    /// # Errors
    /// `Unsupported` for blocks that are no pages.
    pub fn map_content(&mut self, remote: Box<dyn RemoteMap>) -> Result<()> {
        if self.block_bytes != pages::PAGE {
            let what = format!("content cannot be mapped into an ext4 with blocks of {} bytes", self.block_bytes);
            return Err(Error::new(Kind::Unsupported, what));
        }
        self.handle.pages.borrow_mut().set_remote(remote);
        Ok(())
    }

    fn maps_content(&self) -> bool {
        self.handle.pages.borrow().has_remote()
    }

    /// Writes all that is held back, and makes it durable.
    ///
    /// # Errors
    /// Those of the device; `NoSpace`.
    pub fn close(mut self) -> Result<()> {
        self.store_directories()?;
        let pages = self.handle.pages.clone();
        let unused = self.unused_again()?;
        self.handle.close()?;
        let mut pages = pages.borrow_mut();
        pages.flush()?;
        unused.into_iter().try_for_each(|bytes| pages.device().discard(bytes.start, bytes.end - bytes.start))?;
        pages.device().flush()
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// `Corrupt`; those of the device.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode> {
        self.handle.read_inode(number, self.inode_bytes)
    }

    /// Writes an inode.
    ///
    /// # Errors
    /// Those of the device.
    pub(crate) fn set_inode(&mut self, number: u32, inode: &mut Inode) -> Result<()> {
        self.handle.write_inode(number, inode)
    }

    /// An inode for something new; all that it will say is to be set by [`Ext4::set_inode`].
    ///
    /// # Errors
    /// `NoSpace` if none is free; those of the device.
    pub(crate) fn new_inode(&mut self, mode: u16) -> Result<(u32, Inode)> {
        let number = self.handle.take_inode(ROOT, mode & TYPE == DIR)?;
        Ok((number, Inode::new(self.inode_bytes, mode)))
    }

    /// Sets extended attributes; those not named stay.
    ///
    /// # Errors
    /// `NoSpace` if they do not fit; those of the device.
    pub(crate) fn set_attributes(&mut self, number: u32, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.handle.set_attributes(number, attributes)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `Corrupt`; those of the device.
    pub(crate) fn read_link(&self, number: u32) -> Result<Vec<u8>> {
        let mut inode = self.inode(number)?;
        if inode.is_short_link() {
            return Ok(inode.short_link().to_vec());
        }
        let place = self.handle.block_of(number, &mut inode, 0)?;
        if inode.size() > self.block_bytes as u64 || place == 0 {
            return Err(Error::corrupt(format!("inode {number}: a symbolic link that leads nowhere")));
        }
        let mut target = vec![0; inode.size() as usize];
        self.handle.pages.borrow_mut().read(&mut target, place * self.block_bytes as u64)?;
        Ok(target)
    }

    /// Takes one name from a file; with the last one it is gone, and its room is free.
    ///
    /// # Errors
    /// `Corrupt`; those of the device.
    pub(crate) fn release(&mut self, number: u32) -> Result<()> {
        let mut inode = self.inode(number)?;
        let is_directory = inode.kind() == DIR;
        if !is_directory && inode.links() > 1 {
            inode.set_links(inode.links() - 1);
            return self.set_inode(number, &mut inode);
        }
        if is_directory {
            self.forget(number);
        }
        if inode.has_attribute_block() {
            self.handle.free_attributes(number, &mut inode)?;
        }
        if matches!(inode.kind(), FILE | DIR | LINK) && !inode.is_short_link() {
            self.handle.punch(number, &mut inode, 0)?;
        }
        self.set_inode(number, &mut Inode(vec![0; self.inode_bytes]))?;
        self.handle.count_inode(number, -1, is_directory);
        Ok(())
    }

    /// What was written and is used no more, in bytes: a layer need not store it. What was not written yet is dropped.
    fn unused_again(&mut self) -> Result<Vec<Range<u64>>> {
        let block_bytes = self.block_bytes as u64;
        let unused = |handle: &Handle, bytes: Vec<Range<u64>>| -> Vec<Range<u64>> {
            let of = |bytes: Range<u64>| handle.unused(bytes.start / block_bytes..bytes.end / block_bytes);
            let blocks = bytes.into_iter().flat_map(of);
            blocks.map(|blocks| blocks.start * block_bytes..blocks.end * block_bytes).collect()
        };
        let pages = self.handle.pages.clone();
        let dirty = pages.borrow().dirty();
        pages.borrow_mut().forget(&unused(&self.handle, dirty));
        let written = pages.borrow_mut().written()?;
        Ok(unused(&self.handle, written))
    }

    /// Free blocks, at most `wanted`, which are used now.
    fn take_blocks(&mut self, wanted: u32) -> Result<(u64, u32)> {
        let (start, len) = self.handle.take_blocks(self.goal, wanted)?;
        self.goal = start + u64::from(len);
        Ok((start, len))
    }
}

fn share(device: Arc<dyn BlockDevice>) -> channel::Shared {
    Rc::new(RefCell::new(Pages::new(device)))
}

/// Makes the super block's numbers of free blocks and inodes those of its groups: a file system that upstream's
/// `overlaybd-apply` has made says too many. The kernel does the same when it mounts.
fn correct_totals(handle: &mut Handle) {
    let (blocks, inodes) = handle.free();
    let block = handle.super_block();
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let is_64bit = word(0x60) & 0x80 != 0;
    let mut put = |at: usize, value: u32| {
        if word(at) != value {
            handle.set_super_block(at, &value.to_le_bytes());
        }
    };
    put(0x0C, blocks as u32);
    put(0x10, inodes as u32);
    if is_64bit {
        put(0x158, (blocks >> 32) as u32);
    }
}

/// Says that characters have a sign when names are hashed, where nothing is said of that: there, each kernel decides
/// for itself, and finds no names that were hashed otherwise.
fn say_how_hashed(handle: &mut Handle) {
    let block = handle.super_block();
    let flags = u32_at(&block, FLAGS);
    if flags & (SIGNED_HASH | UNSIGNED_HASH) == 0 {
        handle.set_super_block(FLAGS, &(flags | SIGNED_HASH).to_le_bytes());
    }
}
