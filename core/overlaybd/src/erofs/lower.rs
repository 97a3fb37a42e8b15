//! What is on the device already: the merged tree of all lower layers, read as it is needed.

use std::sync::Arc;

use super::attributes::{self, Attributes};
use super::directory::Directory;
use super::format::{Inode, Super, BLOCK, EXTENDED, FIRST_END, MAGIC, SLOT, SUPER_AT, SUPER_BYTES};
use super::tree::NEW;
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::ext4::DIR;
use crate::fs::bytes::u16_at;
use crate::fs::{FileSystem, ReadAt};
use crate::limits::MAX_DIR_BYTES;

/// The bits of an inode's format that say its form and layout.
const KNOWN_FORMAT: u16 = 0xF;

/// The file system below.
pub(super) struct Lower {
    files: FileSystem,
    pub block: Super,
}

/// Where an inode lies, in which form, and the bytes of its attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub at: u64,
    pub extended: bool,
    pub attributes: usize,
}

impl Slot {
    /// Bytes of the inode without attributes.
    pub fn bytes(&self) -> usize {
        if self.extended {
            EXTENDED
        } else {
            EXTENDED / 2
        }
    }
}

impl Lower {
    /// Opens the file system on `device`; None if there is nothing at all.
    ///
    /// # Errors
    /// `Unsupported` for another one, and for features with which nothing can be added; `Corrupt`; those of the device.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Option<Self>> {
        let mut first = vec![0; FIRST_END as usize];
        device.read_at(&mut first, 0)?;
        let block = &first[SUPER_AT as usize..][..SUPER_BYTES];
        if block[..4] != MAGIC.to_le_bytes() {
            if first.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            return Err(Error::new(Kind::Unsupported, "the device has something that is no EROFS"));
        }
        let mut raw = [0; SUPER_BYTES];
        raw.copy_from_slice(block);
        let block = Super(raw);
        let unsupported =
            |what: &str| Err(Error::new(Kind::Unsupported, format!("EROFS {what}: nothing can be added")));
        if u32::from(block.block_bits()) != BLOCK.trailing_zeros() {
            return unsupported("whose blocks do not have 4096 bytes");
        }
        if block.has_devices() {
            return unsupported("with parts on other devices");
        }
        let files = FileSystem::open(Arc::new(Reader(device.clone())))?;
        if block.end() > device.size() || block.end() <= block.root() * SLOT + block.inodes_at() {
            let what = format!("EROFS super block: {} bytes on a device of {}", block.end(), device.size());
            return Err(Error::corrupt(what).at(SUPER_AT));
        }
        let lower = Lower { files, block };
        match lower.inode(lower.block.root())?.0.kind() {
            DIR => Ok(Some(lower)),
            _ => Err(Error::corrupt("the root is no directory")),
        }
    }

    /// An inode, and where it lies.
    ///
    /// # Errors
    /// `Corrupt`; those of the device.
    pub fn inode(&self, number: u64) -> Result<(Inode, Slot)> {
        let node = self.files.node(number)?;
        let mut raw = [0; EXTENDED];
        raw.copy_from_slice(&node.raw()[..EXTENDED]);
        if u16_at(&raw, 0) & !KNOWN_FORMAT != 0 {
            let what = format!("inode {number} of a form that is not understood ({:#x})", u16_at(&raw, 0));
            return Err(Error::new(Kind::Unsupported, what));
        }
        let (mut inode, extended, attributes) = Inode::parse(&raw);
        if !extended {
            inode.mtime = self.block.time();
        }
        let at = self.block.inodes_at() + number * SLOT;
        Ok((inode, Slot { at, extended, attributes }))
    }

    /// The content of a directory. Types that it does not say are looked up.
    ///
    /// # Errors
    /// `Corrupt`; `Limit`; those of the device.
    pub fn directory(&self, number: u64) -> Result<Directory> {
        let wrong = |e: Error| e.context(format!("directory {number}"));
        let node = self.files.node(number)?;
        if node.mode & crate::ext4::TYPE != DIR {
            return Err(wrong(Error::corrupt("no directory, but said to be one")));
        }
        if node.size > MAX_DIR_BYTES {
            return Err(wrong(Error::new(Kind::Limit, format!("{} bytes", node.size))));
        }
        let mut content = vec![0; node.size as usize];
        self.files.read_at(&node, &mut content, 0)?;
        let mut directory = Directory::parse(&content).map_err(wrong)?;
        let numbers = directory.entries.values().map(|(number, _)| *number).chain([directory.parent]);
        // Those stand for what is not on the device yet.
        if let Some(number) = numbers.max().filter(|number| *number >= NEW) {
            return Err(wrong(Error::corrupt(format!("inode {number}: not there"))));
        }
        for (number, kind) in directory.entries.values_mut().filter(|(_, kind)| *kind == 0) {
            *kind = self.inode(*number)?.0.kind();
        }
        Ok(directory)
    }

    /// Fills `buf` from offset `at` of a file on.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for one that is compressed; those of the device.
    pub fn read_file(&self, number: u64, buf: &mut [u8], at: u64) -> Result<()> {
        self.files.read_at(&self.files.node(number)?, buf, at)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `Corrupt`; those of the device.
    pub fn link(&self, number: u64) -> Result<Vec<u8>> {
        self.files.read_link(&self.files.node(number)?)
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// `Corrupt`; `Limit`; `Unsupported` for names that are kept elsewhere; those of the device.
    pub fn attributes(&self, number: u64) -> Result<Attributes> {
        let mut found = Attributes::new();
        attributes::set(&mut found, &self.files.attributes(&self.files.node(number)?)?)?;
        Ok(found)
    }
}

/// A device as what a file system lies on.
struct Reader(Arc<dyn BlockDevice>);

impl ReadAt for Reader {
    fn len(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.0.read_at(buf, offset)
    }
}
