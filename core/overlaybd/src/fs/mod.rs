//! Files inside an image, read without mounting it: ext4 and EROFS, read-only.
//!
//! Images are made by strangers: every number in them is checked, every loop has a bound. Checksums of metadata are not
//! looked at: those of the layers below hold all bytes.

pub(crate) mod bytes;
mod compare;
mod content;
mod detect;
mod device;
mod erofs;
mod ext4;
mod node;
pub mod partitions;
mod resolve;
#[cfg(test)]
mod tests;

pub use compare::first_difference;
pub use detect::{open_in, Found};
pub use device::{Named, Place, ReadAt};
pub use node::{Node, Type};

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::limits::MAX_DIR_BYTES;
use device::Device;
use node::RAW;

/// A part of a file, and where it lies. What no extent covers is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Offset in the device.
    pub device: u64,
    /// Bytes.
    pub len: u64,
}

/// An extended attribute: its whole name, such as `user.mime_type`, and its value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// What differs between file systems.
trait Layout: Send + Sync {
    /// What the kernel calls it.
    fn name(&self) -> &'static str;
    /// Whether a journal has to be replayed to make it whole.
    fn needs_recovery(&self) -> bool;
    fn root(&self) -> u64;
    /// Reads an inode.
    fn node(&self, device: &Device, number: u64) -> Result<Node>;
    /// Calls `each` for every extent from byte `from` of the file on, in ascending order, until it returns false. It
    /// may begin earlier.
    fn extents(&self, device: &Device, node: &Node, from: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<()>;
    /// Bytes of a directory that are read at a time.
    fn block_bytes(&self) -> u64;
    /// Calls `each` with name and number of every entry in one block of a directory, `.` and `..` included.
    fn entries(&self, block: &[u8], each: &mut dyn FnMut(&[u8], u64)) -> Result<()>;
    /// The extended attributes of a file.
    fn attributes(&self, device: &Device, node: &Node) -> Result<Vec<Attribute>>;
}

/// A file system, open for looking.
pub struct FileSystem {
    device: Device,
    layout: Box<dyn Layout>,
}

impl FileSystem {
    /// Opens what is on `device`: EROFS or ext2, ext3, ext4.
    ///
    /// # Errors
    /// `Unsupported` for anything else, and for features that change where things are; `Corrupt`; those of reading.
    pub fn open(device: Arc<dyn ReadAt>) -> Result<FileSystem> {
        let device = Device::new(device);
        let mut block = [0; 1024];
        if device.len() < 2048 {
            return Err(Error::new(Kind::Unsupported, "too small for a file system"));
        }
        device.read(&mut block, 1024)?;
        let layout: Box<dyn Layout> = match erofs::Erofs::open(&block)? {
            Some(erofs) => Box::new(erofs),
            None => match ext4::Ext4::open(&block)? {
                Some(ext4) => Box::new(ext4),
                None => return Err(detect::unknown(&device)),
            },
        };
        Ok(FileSystem { device, layout })
    }

    /// What the kernel calls it: `ext4` (for ext2 and ext3, too) or `erofs`.
    pub fn name(&self) -> &'static str {
        self.layout.name()
    }

    /// Whether it was in use when it was taken: its journal, which is not looked at, has what was written last.
    pub fn needs_recovery(&self) -> bool {
        self.layout.needs_recovery()
    }

    /// The root directory.
    ///
    /// # Errors
    /// `Corrupt`; those of reading.
    pub fn root(&self) -> Result<Node> {
        let root = self.node(self.layout.root())?;
        match root.kind() {
            Type::Directory => Ok(root),
            _ => Err(Error::corrupt("the root is no directory")),
        }
    }

    /// The file of that number, as a directory gives it.
    ///
    /// # Errors
    /// `Corrupt`; those of reading.
    pub fn node(&self, number: u64) -> Result<Node> {
        self.layout.node(&self.device, number)
    }

    /// Calls `each` with name and number of every entry of a directory, without `.` and `..`, until it returns false.
    ///
    /// # Errors
    /// `Corrupt`; `Limit` for a directory too large; `Invalid` for another type of file; those of reading.
    pub fn entries(&self, directory: &Node, mut each: impl FnMut(&[u8], u64) -> bool) -> Result<()> {
        if directory.kind() != Type::Directory {
            return Err(Error::new(Kind::Invalid, "not a directory"));
        }
        if directory.size > MAX_DIR_BYTES {
            return Err(Error::new(Kind::Limit, format!("directory of {} bytes", directory.size)));
        }
        let mut content = vec![0; directory.size as usize];
        self.read_metadata(directory, &mut content)?;
        let mut go_on = true;
        for block in content.chunks(self.layout.block_bytes() as usize) {
            self.layout.entries(block, &mut |name, number| {
                let real = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
                if go_on && real {
                    go_on = each(name, number);
                }
            })?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// The entry `name` of a directory.
    ///
    /// # Errors
    /// `NotFound`; those of [`FileSystem::entries`].
    pub fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Node> {
        let mut found = None;
        self.entries(directory, |entry, number| {
            if entry == name {
                found = Some(number);
            }
            found.is_none()
        })?;
        match found {
            Some(number) => self.node(number),
            None => Err(Error::new(Kind::NotFound, "no such file in the image")),
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `Invalid` for another type of file; `Corrupt` if it is longer than a path can be; those of reading.
    pub fn read_link(&self, link: &Node) -> Result<Vec<u8>> {
        if link.kind() != Type::Link {
            return Err(Error::new(Kind::Invalid, "not a symbolic link"));
        }
        if link.size > 4096 {
            return Err(Error::corrupt(format!("symbolic link of {} bytes", link.size)));
        }
        let mut target = vec![0; link.size as usize];
        self.read_metadata(link, &mut target)?;
        Ok(target)
    }

    /// The extended attributes of a file, in the order in which they are stored; access control lists as
    /// `system.posix_acl_access` and `system.posix_acl_default`, in the kernel's form.
    ///
    /// # Errors
    /// `Corrupt`; `Limit` for more than [`MAX_XATTR_BYTES`](crate::limits::MAX_XATTR_BYTES); `Unsupported` for names
    /// that are kept elsewhere; those of reading.
    pub fn attributes(&self, node: &Node) -> Result<Vec<Attribute>> {
        self.layout.attributes(&self.device, node)
    }
}
