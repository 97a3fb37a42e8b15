//! Names in directories: looked up, added and removed in memory, stored when all is done or memory gets short.

use super::dir::{Directory, Entry};
use super::inode::{Inode, BLOCK, CHAR, DIR, FIFO, FILE, INDEX, LINK};
use super::{Ext4, Loaded};
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_DIR_BYTES, MAX_EXT4_ENTRIES};

/// Longest name in a directory.
const MAX_NAME: usize = 255;
/// A directory with more links than this says 1: nobody counts them.
const MAX_LINKS: u16 = 64_998;
/// What an empty directory counts for in memory.
const ENTRIES_PER_DIRECTORY: usize = 8;

/// What a directory has: name, inode and type, as in a mode.
pub(crate) type Named = (Box<[u8]>, u32, u16);

impl Ext4 {
    /// Inode and type (as in a mode) of what a directory has under a name.
    ///
    /// # Errors
    /// `Corrupt`; `Invalid` if it is no directory; those of the device.
    pub(crate) fn lookup(&mut self, directory: u32, name: &[u8]) -> Result<Option<(u32, u16)>> {
        let hash = self.hash(directory, name)?;
        let Some((number, kind)) = self.directory(directory)?.get(hash, name) else { return Ok(None) };
        Ok(Some((number, mode_of(kind))))
    }

    /// Name, inode and type of all that a directory has.
    ///
    /// # Errors
    /// Those of [`Ext4::lookup`].
    pub(crate) fn list(&mut self, directory: u32) -> Result<Vec<Named>> {
        let entries = self.directory(directory)?.entries();
        Ok(entries.map(|entry| (entry.name.clone(), entry.inode, mode_of(entry.kind))).collect())
    }

    /// Gives the file `number` of type `kind` a name that the directory does not have. Links are the caller's to count.
    ///
    /// # Errors
    /// `Invalid` for what is no name; those of [`Ext4::lookup`].
    pub(crate) fn add_name(&mut self, directory: u32, name: &[u8], number: u32, kind: u16) -> Result<()> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) || name.contains(&b'/') {
            let what = format!("{}: no name that a file can have", crate::tar::shown(name));
            return Err(Error::new(Kind::Invalid, what));
        }
        let hash = self.hash(directory, name)?;
        let entry = Entry { hash, inode: number, kind: kind_of(kind), name: name.into() };
        let block_bytes = self.block_bytes as u64;
        let into = self.directory(directory)?;
        if u64::from(into.blocks) * block_bytes > MAX_DIR_BYTES {
            return Err(Error::new(Kind::Limit, format!("a directory of more than {} entries", into.len)));
        }
        into.add(entry);
        self.entries += 1;
        self.make_room(0)
    }

    /// Takes a name away; what it led to is the caller's.
    ///
    /// # Errors
    /// Those of [`Ext4::lookup`].
    pub(crate) fn remove_name(&mut self, directory: u32, name: &[u8]) -> Result<()> {
        let hash = self.hash(directory, name)?;
        if self.directory(directory)?.remove(hash, name) {
            self.entries -= 1;
        }
        Ok(())
    }

    /// A new directory in another one. The inode is written later, by [`Ext4::set_inode`]; links are counted.
    ///
    /// # Errors
    /// `NoSpace`; those of [`Ext4::add_name`].
    pub(crate) fn make_directory(&mut self, parent: u32, name: &[u8], permissions: u16) -> Result<(u32, Inode)> {
        let (number, mut inode) = self.new_inode(DIR | permissions)?;
        self.begin_directory(number, parent, &mut inode)?;
        self.add_name(parent, name, number, DIR)?;
        self.count_links(parent, 1)?;
        Ok((number, inode))
    }

    /// Makes what `inode` is to be an empty directory below `parent`, and writes it.
    pub(super) fn begin_directory(&mut self, number: u32, parent: u32, inode: &mut Inode) -> Result<()> {
        inode.set_links(2);
        inode.set_extents(&[]);
        self.set_inode(number, inode)?;
        let directory = Directory::new(self.format, parent, self.hash_version);
        self.keep(number, directory)
    }

    /// Removes an empty directory from another one.
    ///
    /// # Errors
    /// Those of [`Ext4::lookup`].
    pub(crate) fn remove_directory(&mut self, parent: u32, name: &[u8], number: u32) -> Result<()> {
        self.remove_name(parent, name)?;
        self.release(number)?;
        self.count_links(parent, -1)
    }

    /// Drops what is in memory of a directory that is no more.
    pub(super) fn forget(&mut self, number: u32) {
        if let Some(gone) = self.directories.remove(&number) {
            self.entries -= gone.directory.len;
        }
    }

    /// Stores all directories that have changed, in the order of their numbers.
    pub(super) fn store_directories(&mut self) -> Result<()> {
        let mut numbers: Vec<u32> = self.directories.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().try_for_each(|number| self.store_directory(number))
    }

    fn count_links(&mut self, directory: u32, change: i32) -> Result<()> {
        let mut inode = self.inode(directory)?;
        let links = i32::from(inode.links());
        if links > 1 {
            let links = links + change;
            inode.set_links(if links > i32::from(MAX_LINKS) { 1 } else { links as u16 });
            self.set_inode(directory, &mut inode)?;
        }
        Ok(())
    }

    fn hash(&mut self, directory: u32, name: &[u8]) -> Result<u32> {
        let version = self.directory(directory)?.hash_version();
        Ok(self.handle.hash(version, name, &self.hash_seed).unwrap_or(0) & !1)
    }

    fn directory(&mut self, number: u32) -> Result<&mut Directory> {
        if !self.directories.contains_key(&number) {
            let directory = self.load_directory(number)?;
            self.keep(number, directory)?;
        }
        self.clock += 1;
        let loaded = self.directories.get_mut(&number).ok_or_else(|| Error::corrupt("a directory that vanished"))?;
        loaded.used = self.clock;
        Ok(&mut loaded.directory)
    }

    /// Keeps a directory in memory, and stores others if they are too many.
    fn keep(&mut self, number: u32, directory: Directory) -> Result<()> {
        self.make_room(directory.len)?;
        self.entries += directory.len;
        self.clock += 1;
        self.directories.insert(number, Loaded { directory, used: self.clock });
        Ok(())
    }

    /// Stores and drops the half of the directories that was not used for the longest time, if `more` entries and
    /// those that are there are too many. The one used last always stays.
    fn make_room(&mut self, more: usize) -> Result<()> {
        if self.entries + more + self.directories.len() * ENTRIES_PER_DIRECTORY <= MAX_EXT4_ENTRIES {
            return Ok(());
        }
        let mut by_age: Vec<(u64, u32)> =
            self.directories.iter().map(|(number, loaded)| (loaded.used, *number)).collect();
        by_age.sort_unstable();
        by_age.truncate(by_age.len() / 2);
        for (_, number) in by_age {
            self.store_directory(number)?;
            self.forget(number);
        }
        Ok(())
    }

    fn load_directory(&self, number: u32) -> Result<Directory> {
        let wrong = |e: Error| e.note(format!("directory of inode {number}"));
        let mut inode = self.inode(number)?;
        if inode.kind() != DIR {
            return Err(wrong(Error::new(Kind::Invalid, "it is no directory")));
        }
        let blocks = inode.size().div_ceil(self.block_bytes as u64);
        if inode.size() > MAX_DIR_BYTES {
            return Err(wrong(Error::new(Kind::Limit, format!("{} bytes", inode.size()))));
        }
        let mut content = Vec::new();
        for block in 0..blocks {
            let mut bytes = vec![0; self.block_bytes];
            let place = self.handle.block_of(number, &mut inode, block)?;
            if place == 0 {
                // Linux takes none either; and a size alone shall not cost memory.
                return Err(wrong(Error::corrupt(format!("a hole at block {block}"))));
            }
            self.handle.read_directory(number, place, &mut bytes)?;
            content.push(bytes);
        }
        let indexed = inode.flags() & INDEX != 0;
        let hash = |version, name: &[u8]| self.handle.hash(version, name, &self.hash_seed);
        Directory::load(self.format, &content, indexed, self.hash_version, hash).map_err(wrong)
    }

    /// Writes the blocks of a directory that have changed, and its inode if it grew or shrank.
    fn store_directory(&mut self, number: u32) -> Result<()> {
        // Taken out meanwhile, and put back: it needs the file system to be stored.
        let Some(mut loaded) = self.directories.remove(&number) else { return Ok(()) };
        let result = if loaded.directory.is_dirty() { self.store(number, &mut loaded.directory) } else { Ok(()) };
        self.directories.insert(number, loaded);
        result.map_err(|e| e.note(format!("directory of inode {number}")))
    }

    fn store(&mut self, number: u32, directory: &mut Directory) -> Result<()> {
        let mut inode = self.inode(number)?;
        let before = inode.clone();
        let had = inode.size().div_ceil(self.block_bytes as u64);
        let mut changed = Vec::new();
        directory.store(number, |block, content| {
            changed.push((block, content.to_vec()));
            Ok(())
        })?;
        changed.sort_unstable_by_key(|(block, _)| *block);
        let wants = u64::from(directory.blocks);
        if wants < had {
            self.handle.punch(number, &mut inode, wants)?;
        }
        for (block, mut content) in changed {
            let mut place = self.handle.block_of(number, &mut inode, block.into())?;
            if place == 0 {
                place = self.take_blocks(1)?.0;
                self.handle.set_block(number, &mut inode, block.into(), place)?;
                inode.add_sectors(self.block_bytes as u64 / 512);
            }
            self.handle.write_directory(number, place, &mut content)?;
        }
        inode.set_size(wants * self.block_bytes as u64);
        let flags = inode.flags() & !INDEX;
        inode.set_flags(if directory.is_indexed() { flags | INDEX } else { flags });
        if inode.0 != before.0 {
            self.set_inode(number, &mut inode)?;
        }
        Ok(())
    }
}

/// Types of files, as directories say them and as modes do.
const KINDS: [(u8, u16); 7] = [(1, FILE), (2, DIR), (3, CHAR), (4, BLOCK), (5, FIFO), (6, 0xC000), (7, LINK)];

fn kind_of(mode: u16) -> u8 {
    KINDS.iter().find(|(_, of)| *of == mode).map_or(0, |(kind, _)| *kind)
}

fn mode_of(kind: u8) -> u16 {
    KINDS.iter().find(|(of, _)| *of == kind & 7).map_or(0, |(_, mode)| *mode)
}
