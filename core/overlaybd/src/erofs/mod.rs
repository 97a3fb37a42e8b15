//! EROFS, written without mounting it: layers are applied to it as to ext4, and all layers together are one plain
//! file system.
//!
//! Content goes behind the end of what is there as it comes; inodes and directories follow when all is known. What was
//! there stays where it is: a directory that changed gets new content, an inode that changed is written over, and only
//! one that has outgrown its place moves. So a layer holds what is new and little else, and the root stays within the
//! 16 bits that the super block has for its number. The super block is written last.
//!
//! Nothing here asks the clock or chance. Images are made by strangers: what is read is checked.
//!
//! Format: erofs, "How layers are written".

mod append;
mod attributes;
mod directory;
mod format;
mod lower;
mod settle;
mod store;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_EROFS_HELD_BYTES;
use crate::lsmt::RemoteMap;
use append::Appender;
use attributes::Attributes;
use directory::Directory;
use format::{Inode, Super};
use lower::{Lower, Slot};

/// An EROFS on a device that can be written, see [`apply()`](crate::apply::apply). What was done is on the device after
/// [`Erofs::close`]; without that, the file system is as it was.
pub struct Erofs {
    device: Arc<dyn BlockDevice>,
    /// What was there; None if nothing.
    lower: Option<Lower>,
    block: Super,
    append: Appender,
    map: Option<Box<dyn RemoteMap>>,
    /// What is new, by number less [`tree::NEW`].
    new: Vec<File>,
    /// What was there and has changed, by number.
    changed: BTreeMap<u64, File>,
    directories: HashMap<u64, Directory>,
    /// Names in all of them.
    entries: usize,
    held: Held,
}

/// A file in memory: one that is new or has changed.
#[derive(Default)]
struct File {
    inode: Inode,
    /// None if they are as they were.
    attributes: Option<Box<Attributes>>,
    /// The target of a new symbolic link.
    link: Box<[u8]>,
    /// Where it lies; None for what is new.
    slot: Option<Slot>,
}

impl File {
    /// Bytes that it has in memory beside itself.
    fn held(&self) -> usize {
        self.link.len() + self.attributes.as_ref().map_or(0, |all| attributes::held(all))
    }
}

/// Bytes that all files have in memory beside themselves.
#[derive(Default)]
struct Held(usize);

impl Held {
    /// Counts `after` bytes of a file in the place of `before`.
    ///
    /// # Errors
    /// `Limit` if those of all files are too many.
    fn change(&mut self, before: usize, after: usize) -> Result<()> {
        self.0 = self.0 - before + after;
        if self.0 > MAX_EROFS_HELD_BYTES {
            let what = format!("a layer with {} bytes of attributes and symbolic links", self.0);
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(())
    }
}

impl Erofs {
    /// Opens the file system on `device`, or begins one if there is nothing.
    ///
    /// # Errors
    /// `ReadOnly`; `Unsupported` if there is something else, or it has features with which nothing can be added;
    /// `NoSpace` if the device is too small; `Corrupt`; those of the device.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        if device.read_only() {
            return Err(Error::new(Kind::ReadOnly, "the device is read-only"));
        }
        if device.size() < format::FIRST_END {
            let what = format!("a device of {} bytes is too small for an EROFS", device.size());
            return Err(Error::new(Kind::NoSpace, what));
        }
        let lower = Lower::open(device.clone())?;
        let block = lower.as_ref().map_or_else(Super::new, |lower| lower.block.clone());
        let end = if lower.is_some() { block.end() } else { format::FIRST_END };
        let append = Appender::new(device.clone(), end);
        let mut erofs = Erofs {
            device,
            lower,
            block,
            append,
            map: None,
            new: Vec::new(),
            changed: BTreeMap::new(),
            directories: HashMap::new(),
            entries: 0,
            held: Held::default(),
        };
        if erofs.lower.is_none() {
            erofs.begin();
        }
        Ok(erofs)
    }

    /// From now on, the content of files that archives hold in one piece is not stored but mapped.
    pub fn map_content(&mut self, map: Box<dyn RemoteMap>) {
        self.map = Some(map);
    }
}
