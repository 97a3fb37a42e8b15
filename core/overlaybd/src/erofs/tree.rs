//! The tree in memory: files by number, loaded as they are touched, within a bound.

use super::directory::Directory;
use super::format::{Inode, ROOT_AT, ROOT_ATTRIBUTES, SLOT};
use super::lower::Slot;
use super::{Erofs, File};
use crate::error::{Error, Kind, Result};
use crate::ext4::DIR;
use crate::limits::{MAX_EROFS_ENTRIES, MAX_EROFS_FILES};
use crate::tar::shown;

/// Marks numbers of what is new. Numbers of what was there are far below: they are places on the device.
pub(super) const NEW: u64 = 1 << 63;
/// What an empty directory counts for in memory.
const ENTRIES_PER_DIRECTORY: usize = 4;
/// Longest name in a directory.
const MAX_NAME: usize = 255;

impl Erofs {
    /// Makes the root of a new file system: in its place, with room for attributes that later layers may bring.
    pub(super) fn begin(&mut self) {
        let root = ROOT_AT / SLOT;
        let slot = Slot { at: ROOT_AT, extended: true, attributes: ROOT_ATTRIBUTES };
        let inode = Inode { mode: DIR | 0o755, links: 2, ..Inode::default() };
        let file = File { inode, slot: Some(slot), ..File::default() };
        self.changed.insert(root, file);
        self.keep(root, Directory { parent: root, changed: true, ..Directory::default() });
    }

    /// A file that is to be changed.
    pub(super) fn file(&mut self, number: u64) -> Result<&mut File> {
        if let Some(index) = number.checked_sub(NEW) {
            return self.new.get_mut(index as usize).ok_or_else(|| nothing(number));
        }
        if !self.changed.contains_key(&number) {
            let lower = self.lower.as_ref().ok_or_else(|| nothing(number))?;
            let (inode, slot) = lower.inode(number)?;
            self.has_room_for_file()?;
            self.changed.insert(number, File { inode, slot: Some(slot), ..File::default() });
        }
        self.changed.get_mut(&number).ok_or_else(|| nothing(number))
    }

    /// A new file.
    pub(super) fn add_file(&mut self, file: File) -> Result<u64> {
        self.has_room_for_file()?;
        self.held.change(0, file.held())?;
        self.new.push(file);
        self.block.set_inodes(self.block.inodes().saturating_add(1));
        Ok(NEW + self.new.len() as u64 - 1)
    }

    /// A directory's entries.
    pub(super) fn directory(&mut self, number: u64) -> Result<&mut Directory> {
        if !self.directories.contains_key(&number) {
            let lower = self.lower.as_ref().filter(|_| number < NEW).ok_or_else(|| nothing(number))?;
            let directory = lower.directory(number)?;
            self.make_room(directory.entries.len())?;
            self.keep(number, directory);
        }
        self.directories.get_mut(&number).ok_or_else(|| nothing(number))
    }

    /// Puts a directory into memory.
    pub(super) fn keep(&mut self, number: u64, directory: Directory) {
        self.entries += directory.entries.len() + ENTRIES_PER_DIRECTORY;
        self.directories.insert(number, directory);
    }

    /// Adds a name that a directory does not have.
    pub(super) fn put_name(&mut self, directory: u64, name: &[u8], number: u64, kind: u16) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) || name.contains(&b'/') {
            let what = format!("{}: no name that a file can have", shown(name));
            return Err(Error::new(Kind::Invalid, what));
        }
        self.make_room(1)?;
        let into = self.directory(directory)?;
        into.entries.insert(name.into(), (number, kind));
        into.changed = true;
        self.entries += 1;
        Ok(())
    }

    /// Takes a name from a directory.
    pub(super) fn drop_name(&mut self, directory: u64, name: &[u8]) -> Result<()> {
        let from = self.directory(directory)?;
        if from.entries.remove(name).is_some() {
            from.changed = true;
            self.entries -= 1;
        }
        Ok(())
    }

    /// Takes one link from a file; with the last one it is gone.
    pub(super) fn release(&mut self, number: u64) -> Result<()> {
        let file = self.file(number)?;
        file.inode.links = file.inode.links.saturating_sub(1);
        if file.inode.links == 0 || file.inode.kind() == DIR {
            self.forget(number);
        }
        Ok(())
    }

    /// Drops what is in memory of something that is no more.
    fn forget(&mut self, number: u64) {
        let gone = match number.checked_sub(NEW) {
            // Without links it is passed over later.
            Some(index) => self.new.get_mut(index as usize).map(std::mem::take),
            None => self.changed.remove(&number),
        };
        self.held.0 -= gone.map_or(0, |file| file.held());
        if let Some(gone) = self.directories.remove(&number) {
            self.entries -= gone.entries.len() + ENTRIES_PER_DIRECTORY;
        }
        self.block.set_inodes(self.block.inodes().saturating_sub(1));
    }

    fn has_room_for_file(&self) -> Result<()> {
        if self.new.len() + self.changed.len() >= MAX_EROFS_FILES {
            return Err(Error::new(Kind::Limit, format!("a layer that changes more than {MAX_EROFS_FILES} files")));
        }
        Ok(())
    }

    /// Sees to it that so many more names can be in memory: directories that are as they were go.
    pub(super) fn make_room(&mut self, more: usize) -> Result<()> {
        if self.entries + more <= MAX_EROFS_ENTRIES {
            return Ok(());
        }
        self.directories.retain(|_, directory| directory.changed);
        self.entries = self.directories.values().map(|kept| kept.entries.len() + ENTRIES_PER_DIRECTORY).sum();
        if self.entries + more > MAX_EROFS_ENTRIES {
            let what = format!("changed directories with more than {MAX_EROFS_ENTRIES} names");
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(())
    }
}

fn nothing(number: u64) -> Error {
    Error::corrupt(format!("inode {number}: not there"))
}
