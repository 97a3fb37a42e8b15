//! ext4 as what layers are applied to.

use super::content::Content;
use super::directories::Named;
use super::inode::{Inode, BLOCK, CHAR, DIR, FIFO, FILE, LINK};
use super::{Ext4, LOST_AND_FOUND, ROOT};
use crate::apply::{Content as Source, Target};
use crate::error::{Error, Kind, Result};
use crate::tar::{Entry, EntryKind};

/// Longest target that is kept in the inode.
const SHORT_TARGET: usize = 59;
/// Links that a file can have.
const MAX_FILE_LINKS: u16 = 65_000;

impl Target for Ext4 {
    type Number = u32;

    fn root(&self) -> u32 {
        ROOT
    }

    fn capacity(&self) -> u64 {
        self.handle.pages.borrow().device().size()
    }

    /// Whatever an archive says: without it the file system is not in order.
    fn is_own(&self, number: u32) -> bool {
        number == LOST_AND_FOUND
    }

    fn lookup(&mut self, directory: u32, name: &[u8]) -> Result<Option<(u32, u16)>> {
        Ext4::lookup(self, directory, name)
    }

    fn list(&mut self, directory: u32) -> Result<Vec<Named>> {
        Ext4::list(self, directory)
    }

    fn read_link(&mut self, number: u32) -> Result<Vec<u8>> {
        Ext4::read_link(self, number)
    }

    fn create(&mut self, directory: u32, name: &[u8], entry: &Entry, content: &mut dyn Source) -> Result<u32> {
        let kind = match entry.kind {
            EntryKind::File | EntryKind::HardLink => FILE,
            EntryKind::Directory => DIR,
            EntryKind::Symlink => LINK,
            EntryKind::CharDevice => CHAR,
            EntryKind::BlockDevice => BLOCK,
            EntryKind::Fifo => FIFO,
        };
        if kind == DIR {
            let (number, mut inode) = self.make_directory(directory, name, 0)?;
            describe(entry, &mut inode);
            self.set_inode(number, &mut inode)?;
            return Ok(number);
        }
        let (number, mut inode) = self.new_inode(kind)?;
        Ext4::add_name(self, directory, name, number, kind)?;
        describe(entry, &mut inode);
        match kind {
            FILE => {
                let mut stored = Content::default();
                let place = if self.maps_content() { content.take_place() } else { None };
                if let Some(place) = place {
                    stored.map_to(self, entry.size, place)?;
                }
                while let Some((offset, bytes)) = content.next()? {
                    stored.add(self, bytes, offset)?;
                }
                stored.finish(self, number, &mut inode, entry.size)?;
            }
            LINK if entry.link.len() > SHORT_TARGET => {
                if entry.link.len() >= self.block_bytes {
                    let what = format!("a symbolic link of {} bytes, which have to fit a block", entry.link.len());
                    return Err(Error::new(Kind::Invalid, what));
                }
                let mut stored = Content::default();
                stored.add(self, &entry.link, 0)?;
                stored.finish(self, number, &mut inode, entry.link.len() as u64)?;
            }
            LINK => {
                inode.set_short_link(&entry.link);
                self.set_inode(number, &mut inode)?;
            }
            CHAR | BLOCK if !inode.set_device(entry.device.0, entry.device.1) => {
                let what = format!("device {}:{}: no such number", entry.device.0, entry.device.1);
                return Err(Error::new(Kind::Invalid, what));
            }
            _ => self.set_inode(number, &mut inode)?,
        }
        Ok(number)
    }

    fn describe(&mut self, number: u32, entry: &Entry) -> Result<()> {
        let mut inode = self.inode(number)?;
        describe(entry, &mut inode);
        self.set_inode(number, &mut inode)
    }

    fn set_attributes(&mut self, number: u32, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        Ext4::set_attributes(self, number, attributes)
    }

    fn clear_attributes(&mut self, number: u32, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        if self.inode(number)?.has_attributes() {
            self.handle.clear_attributes(number, wanted)?;
        }
        Ok(())
    }

    fn hold(&mut self, number: u32) -> Result<()> {
        let mut inode = self.inode(number)?;
        if inode.links() >= MAX_FILE_LINKS {
            return Err(Error::new(Kind::Limit, "too many hard links"));
        }
        inode.set_links(inode.links() + 1);
        self.set_inode(number, &mut inode)
    }

    fn add_name(&mut self, directory: u32, name: &[u8], number: u32, kind: u16) -> Result<()> {
        Ext4::add_name(self, directory, name, number, kind)
    }

    fn remove_name(&mut self, directory: u32, name: &[u8], number: u32) -> Result<()> {
        Ext4::remove_name(self, directory, name)?;
        self.release(number)
    }

    fn remove_directory(&mut self, parent: u32, name: &[u8], number: u32) -> Result<()> {
        Ext4::remove_directory(self, parent, name, number)
    }
}

fn describe(entry: &Entry, inode: &mut Inode) {
    // Permissions of a symbolic link have no meaning, and all see 0777.
    inode.set_permissions(if inode.kind() == LINK { 0o777 } else { entry.mode });
    inode.set_owner(entry.uid, entry.gid);
    inode.set_times(entry.mtime, entry.atime.unwrap_or(entry.mtime));
}
