//! Files inside an image, found without mounting it: ext4 and EROFS, read-only.
//!
//! Images are made by strangers: every number in them is checked, every loop has a bound.

mod bytes;
mod erofs;
mod ext4;
pub mod partitions;
mod resolve;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_DIR_BYTES, MAX_FILE_EXTENTS, SECTOR};
use crate::lsmt::Stack;

/// Where a file system lies: bytes that can be read at any offset.
pub trait ReadAt: Send + Sync {
    /// Bytes.
    fn len(&self) -> u64;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf`. The range lies inside.
    ///
    /// # Errors
    /// Those of the bytes' source.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;
}

impl ReadAt for Stack {
    fn len(&self) -> u64 {
        self.virtual_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (start, end) = (offset - offset % SECTOR, (offset + buf.len() as u64).next_multiple_of(SECTOR));
        if start == offset && end == offset + buf.len() as u64 {
            return Stack::read_at(self, buf, offset);
        }
        let mut sectors = vec![0; (end - start) as usize];
        Stack::read_at(self, &mut sectors, start)?;
        buf.copy_from_slice(&sectors[(offset - start) as usize..][..buf.len()]);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        buf.copy_from_slice(&self[offset as usize..][..buf.len()]);
        Ok(())
    }
}

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
const RAW: usize = 128;

/// A file, of whatever type.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number in the file system.
    pub number: u64,
    /// Type and permissions, as `stat` gives them.
    pub mode: u16,
    /// Bytes of its content.
    pub size: u64,
    /// Where its inode lies.
    at: u64,
    raw: [u8; RAW],
}

impl Node {
    /// What it is.
    pub fn kind(&self) -> Type {
        match self.mode & 0xF000 {
            0x8000 => Type::File,
            0x4000 => Type::Directory,
            0xA000 => Type::Link,
            _ => Type::Other,
        }
    }
}

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

/// What differs between file systems.
trait Layout: Send + Sync {
    fn root(&self) -> u64;
    /// Reads an inode.
    fn node(&self, device: &Device, number: u64) -> Result<Node>;
    /// Calls `each` for every extent, in ascending order, until it returns false.
    fn extents(&self, device: &Device, node: &Node, each: &mut dyn FnMut(Extent) -> bool) -> Result<()>;
    /// Bytes of a directory that are read at a time.
    fn block_bytes(&self) -> u64;
    /// Calls `each` with name and number of every entry in one block of a directory, `.` and `..` included.
    fn entries(&self, block: &[u8], each: &mut dyn FnMut(&[u8], u64)) -> Result<()>;
}

/// A device whose ranges are checked.
struct Device(Arc<dyn ReadAt>);

impl Device {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.0.len()) {
            return Err(Error::corrupt("something that should lie beyond the end of the device").at(offset));
        }
        self.0.read_at(buf, offset)
    }
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
        let device = Device(device);
        let mut block = [0; 1024];
        if device.0.len() < 2048 {
            return Err(Error::new(Kind::Unsupported, "too small for a file system"));
        }
        device.read(&mut block, 1024)?;
        let layout: Box<dyn Layout> = match erofs::Erofs::open(&block)? {
            Some(erofs) => Box::new(erofs),
            None => match ext4::Ext4::open(&block)? {
                Some(ext4) => Box::new(ext4),
                None => return Err(Error::new(Kind::Unsupported, "neither ext4 nor EROFS")),
            },
        };
        Ok(FileSystem { device, layout })
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

    /// Where the content of a file lies, in ascending order, without what is zeros; cut at its size. At most
    /// [`MAX_FILE_EXTENTS`]: of a file in more pieces, the first ones.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` for what is compressed or on another device; those of reading.
    pub fn extents(&self, node: &Node) -> Result<Vec<Extent>> {
        let mut found: Vec<Extent> = Vec::new();
        let mut next = 0;
        let mut wrong = false;
        self.layout.extents(&self.device, node, &mut |mut extent| {
            wrong |= extent.offset < next;
            if wrong || extent.offset >= node.size {
                return false;
            }
            extent.len = extent.len.min(node.size - extent.offset);
            next = extent.offset + extent.len;
            let inside = extent.device.checked_add(extent.len).is_some_and(|end| end <= self.device.0.len());
            wrong |= !inside;
            match found.last_mut() {
                Some(last) if last.offset + last.len == extent.offset && last.device + last.len == extent.device => {
                    last.len += extent.len;
                }
                _ => found.push(extent),
            }
            !wrong && found.len() < MAX_FILE_EXTENTS
        })?;
        if wrong {
            return Err(Error::corrupt(format!("file {}: its parts make no sense", node.number)));
        }
        Ok(found)
    }

    /// Fills `buf` from offset `offset` of a file on.
    ///
    /// # Errors
    /// `OutOfBounds` beyond the file's end; those of [`FileSystem::extents`].
    pub fn read_at(&self, node: &Node, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= node.size);
        let Some(end) = end else {
            return Err(Error::new(Kind::OutOfBounds, format!("beyond the {} bytes of a file", node.size)).at(offset));
        };
        buf.fill(0);
        for extent in self.extents(node)? {
            let (from, to) = (extent.offset.max(offset), (extent.offset + extent.len).min(end));
            if from < to {
                let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                self.device.read(part, extent.device + from - extent.offset)?;
            }
        }
        Ok(())
    }

    /// Calls `each` with name and number of every entry of a directory, without `.` and `..`, until it returns false.
    ///
    /// # Errors
    /// `Corrupt`; `Limit` for a directory too large; `Invalid` for another type of file; those of reading.
    pub fn entries(&self, directory: &Node, mut each: impl FnMut(&[u8], u64) -> bool) -> Result<()> {
        if directory.kind() != Type::Directory {
            return Err(Error::new(Kind::Invalid, format!("file {} is no directory", directory.number)));
        }
        if directory.size > MAX_DIR_BYTES {
            return Err(Error::new(Kind::Limit, format!("directory of {} bytes", directory.size)));
        }
        let mut content = vec![0; directory.size as usize];
        self.read_at(directory, &mut content, 0)?;
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
    /// `Corrupt` if it is longer than a path can be; those of reading.
    pub fn read_link(&self, link: &Node) -> Result<Vec<u8>> {
        if link.size > 4096 {
            return Err(Error::corrupt(format!("symbolic link of {} bytes", link.size)));
        }
        let mut target = vec![0; link.size as usize];
        self.read_at(link, &mut target, 0)?;
        Ok(target)
    }
}
