//! EROFS as what layers are applied to.

use super::attributes::Attributes;
use super::directory::Directory;
use super::format::{device_number, Inode, BLOCK, INLINE, PLAIN};
use super::{attributes, Erofs, File};
use crate::apply::{Content, Named, Target};
use crate::error::{Error, Kind, Result};
use crate::ext4::{BLOCK as BLOCK_DEVICE, CHAR, DIR, FIFO, FILE, LINK, TYPE};
use crate::tar::{Entry, EntryKind};

impl Target for Erofs {
    /// For what was there, its number in the file system; for what is new, one above all of them.
    type Number = u64;

    fn root(&self) -> u64 {
        self.block.root()
    }

    fn capacity(&self) -> u64 {
        self.device.size()
    }

    fn is_own(&self, _number: u64) -> bool {
        false
    }

    fn lookup(&mut self, directory: u64, name: &[u8]) -> Result<Option<(u64, u16)>> {
        Ok(self.directory(directory)?.entries.get(name).copied())
    }

    fn list(&mut self, directory: u64) -> Result<Vec<Named<u64>>> {
        let entries = self.directory(directory)?.entries.iter();
        Ok(entries.map(|(name, (number, kind))| (name.clone(), *number, *kind)).collect())
    }

    fn read_link(&mut self, number: u64) -> Result<Vec<u8>> {
        if number >= super::tree::NEW {
            return Ok(self.file(number)?.link.to_vec());
        }
        let lower = self.lower.as_ref().ok_or_else(|| Error::corrupt("a link that is not there"))?;
        lower.link(number)
    }

    fn create(&mut self, directory: u64, name: &[u8], entry: &Entry, content: &mut dyn Content) -> Result<u64> {
        let kind = match entry.kind {
            EntryKind::File | EntryKind::HardLink => FILE,
            EntryKind::Directory => DIR,
            EntryKind::Symlink => LINK,
            EntryKind::CharDevice => CHAR,
            EntryKind::BlockDevice => BLOCK_DEVICE,
            EntryKind::Fifo => FIFO,
        };
        let mut file = File { inode: Inode { mode: kind, links: 1, ..Inode::default() }, ..File::default() };
        describe(entry, &mut file.inode);
        match kind {
            FILE => self.store(entry, content, &mut file.inode)?,
            DIR => file.inode.links = 2,
            LINK => {
                file.inode.size = entry.link.len() as u64;
                file.link = entry.link.as_slice().into();
                file.inode.layout = INLINE;
            }
            CHAR | BLOCK_DEVICE => {
                let (major, minor) = entry.device;
                let invalid = || Error::new(Kind::Invalid, format!("device {major}:{minor}: no such number"));
                file.inode.place = device_number(major, minor).ok_or_else(invalid)?;
            }
            _ => {}
        }
        let number = self.add_file(file)?;
        if kind == DIR {
            self.keep(number, Directory { parent: directory, changed: true, ..Directory::default() });
            self.count_links(directory, 1)?;
        }
        self.put_name(directory, name, number, kind)?;
        Ok(number)
    }

    fn describe(&mut self, number: u64, entry: &Entry) -> Result<()> {
        describe(entry, &mut self.file(number)?.inode);
        Ok(())
    }

    fn set_attributes(&mut self, number: u64, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.change_attributes(number, |all| attributes::set(all, wanted))
    }

    fn clear_attributes(&mut self, number: u64, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        self.change_attributes(number, |all| Ok(attributes::clear(all, wanted)))
    }

    fn hold(&mut self, number: u64) -> Result<()> {
        let links = &mut self.file(number)?.inode.links;
        *links = links.checked_add(1).ok_or_else(|| Error::new(Kind::Limit, "too many hard links"))?;
        Ok(())
    }

    fn add_name(&mut self, directory: u64, name: &[u8], number: u64, kind: u16) -> Result<()> {
        self.put_name(directory, name, number, kind)
    }

    fn remove_name(&mut self, directory: u64, name: &[u8], number: u64) -> Result<()> {
        self.drop_name(directory, name)?;
        self.release(number)
    }

    fn remove_directory(&mut self, parent: u64, name: &[u8], number: u64) -> Result<()> {
        self.drop_name(parent, name)?;
        self.release(number)?;
        self.count_links(parent, -1)
    }
}

impl Erofs {
    /// Has `change` change the attributes of a file, and say whether it did.
    fn change_attributes(&mut self, number: u64, change: impl FnOnce(&mut Attributes) -> Result<bool>) -> Result<()> {
        let file = self.file(number)?;
        let before = file.held();
        let (was_there, known) = (file.slot.is_some(), file.attributes.take());
        let was_known = known.is_some();
        let mut all = match (known, &self.lower) {
            (Some(known), _) => known,
            (None, Some(lower)) if was_there => Box::new(lower.attributes(number)?),
            _ => Box::default(),
        };
        // What did not change need not be written.
        if change(&mut all)? || was_known {
            let file = self.file(number)?;
            file.attributes = Some(all);
            let after = file.held();
            self.held.change(before, after)?;
        }
        Ok(())
    }

    /// Gives a new file its content, in consecutive blocks: stored, or mapped.
    fn store(&mut self, entry: &Entry, content: &mut dyn Content, inode: &mut Inode) -> Result<()> {
        inode.layout = PLAIN;
        inode.size = entry.size;
        if entry.size == 0 {
            return Ok(());
        }
        inode.place = self.append.block(entry.size)?;
        if let Some(map) = &mut self.map {
            if let Some(target) = content.take_place() {
                let at = self.append.position();
                self.append.skip(entry.size.div_ceil(BLOCK))?;
                return map.map(at, entry.size.next_multiple_of(512), target);
            }
        }
        let start = self.append.position();
        while let Some((offset, bytes)) = content.next()? {
            self.append.zeros(start + offset - self.append.position())?;
            self.append.write(bytes)?;
        }
        self.append.zeros(start + entry.size - self.append.position())?;
        self.append.align()
    }

    fn count_links(&mut self, directory: u64, change: i32) -> Result<()> {
        let links = &mut self.file(directory)?.inode.links;
        *links = links.saturating_add_signed(change);
        Ok(())
    }
}

fn describe(entry: &Entry, inode: &mut Inode) {
    // Permissions of a symbolic link have no meaning, and all see 0777.
    let permissions = if inode.kind() == LINK { 0o777 } else { entry.mode };
    inode.mode = inode.kind() | permissions & !TYPE;
    (inode.uid, inode.gid) = (entry.uid, entry.gid);
    inode.mtime = entry.mtime;
}
