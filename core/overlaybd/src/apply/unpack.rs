//! One member: what was there goes, what it says comes.

use std::io::Read;

use super::walk::not_there;
use super::{name, Layer};
use crate::error::{Error, Kind, Result};
use crate::ext4::{Content, Inode, BLOCK, CHAR, DIR, FIFO, FILE, LINK, ROOT};
use crate::tar::{shown, Archive, Entry, EntryKind};

/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4095;
/// Longest target that is kept in the inode.
const SHORT_TARGET: usize = 59;
/// What names of attributes begin with. Others the kernel does not have, or not in a file system.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system.posix_acl_"];
/// Links that a file can have.
const MAX_FILE_LINKS: u16 = 65_000;

impl Layer<'_> {
    /// The root's own entry: it is there already, and takes what the entry says of it.
    pub(super) fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::new(Kind::Invalid, "the root can be nothing but a directory"));
        }
        let mut inode = self.ext4.inode(ROOT)?;
        self.describe(entry, ROOT, &mut inode)
    }

    /// Makes what `entry` is, under a name in a directory.
    pub(super) fn unpack<R: Read>(
        &mut self,
        entry: &Entry,
        parent: u32,
        name: &[u8],
        archive: &mut Archive<R>,
        buf: &mut [u8],
    ) -> Result<()> {
        let there = self.ext4.lookup(parent, name)?;
        if let (Some((number, DIR)), EntryKind::Directory) = (there, entry.kind) {
            self.mark_unpacked(parent, name);
            let mut inode = self.ext4.inode(number)?;
            return self.describe(entry, number, &mut inode);
        }
        if entry.kind == EntryKind::HardLink {
            return self.link(entry, parent, name, there);
        }
        if let Some((number, kind)) = there {
            self.remove(parent, name, number, kind, false)?;
        }
        let kind = match entry.kind {
            EntryKind::File | EntryKind::HardLink => FILE,
            EntryKind::Directory => DIR,
            EntryKind::Symlink => LINK,
            EntryKind::CharDevice => CHAR,
            EntryKind::BlockDevice => BLOCK,
            EntryKind::Fifo => FIFO,
        };
        if kind == DIR {
            let (number, mut inode) = self.ext4.make_directory(parent, name, 0)?;
            self.mark_unpacked(parent, name);
            return self.describe(entry, number, &mut inode);
        }
        let (number, mut inode) = self.ext4.new_inode(kind)?;
        self.ext4.add_name(parent, name, number, kind)?;
        self.mark_unpacked(parent, name);
        describe_inode(entry, &mut inode);
        match kind {
            FILE => {
                self.done.files += 1;
                let mut content = Content::default();
                while let Some((offset, len)) = archive.read(buf)? {
                    content.add(self.ext4, &buf[..len], offset)?;
                    self.done.bytes += len as u64;
                }
                content.finish(self.ext4, number, &mut inode, entry.size)?;
            }
            LINK => self.set_target(number, &mut inode, &entry.link)?,
            CHAR | BLOCK if !inode.set_device(entry.device.0, entry.device.1) => {
                let what = format!("device {}:{}: no such number", entry.device.0, entry.device.1);
                return Err(Error::new(Kind::Invalid, what));
            }
            _ => self.ext4.set_inode(number, &mut inode)?,
        }
        self.set_attributes(entry, number, kind)
    }

    /// Another name for a file that is there, be it of this layer or of one below.
    fn link(&mut self, entry: &Entry, parent: u32, name: &[u8], there: Option<(u32, u16)>) -> Result<()> {
        let target = name::clean(&entry.link)?;
        let missing = || not_there(&target).context("a hard link leads to");
        let (directory, last) = name::split(&target).ok_or_else(missing)?;
        let directory = self.walk(directory, false)?.ok_or_else(missing)?;
        let (number, kind) = self.ext4.lookup(directory, last)?.ok_or_else(missing)?;
        if kind == DIR {
            let what = format!("a hard link leads to {}, which is a directory", shown(&target));
            return Err(Error::new(Kind::Invalid, what));
        }
        let mut inode = match there {
            // The same file under the name that it has already.
            Some((other, _)) if other == number => self.ext4.inode(number)?,
            _ => {
                let mut inode = self.ext4.inode(number)?;
                if inode.links() >= MAX_FILE_LINKS {
                    return Err(Error::new(Kind::Limit, format!("{}: too many hard links", shown(&target))));
                }
                // Counted first, so that it stays even if what goes holds its other names.
                inode.set_links(inode.links() + 1);
                self.ext4.set_inode(number, &mut inode)?;
                if let Some((other, kind)) = there {
                    self.remove(parent, name, other, kind, false)?;
                }
                self.ext4.add_name(parent, name, number, kind)?;
                self.ext4.inode(number)?
            }
        };
        self.mark_unpacked(parent, name);
        self.describe(entry, number, &mut inode)
    }

    fn set_target(&mut self, number: u32, inode: &mut Inode, target: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            let what = format!("a symbolic link to {} ({} bytes), which cannot be", shown(target), target.len());
            return Err(Error::new(Kind::Invalid, what));
        }
        if target.len() <= SHORT_TARGET {
            inode.set_short_link(target);
            return self.ext4.set_inode(number, inode);
        }
        let mut content = Content::default();
        content.add(self.ext4, target, 0)?;
        content.finish(self.ext4, number, inode, target.len() as u64)
    }

    /// Gives something that is there the owner, permissions, times and attributes of an entry.
    fn describe(&mut self, entry: &Entry, number: u32, inode: &mut Inode) -> Result<()> {
        describe_inode(entry, inode);
        self.ext4.set_inode(number, inode)?;
        self.set_attributes(entry, number, inode.kind())
    }

    /// Sets the attributes that the kernel would let somebody set; the others are passed over.
    fn set_attributes(&mut self, entry: &Entry, number: u32, kind: u16) -> Result<()> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for (name, value) in &entry.xattrs {
            let known = NAMESPACES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
            let possible = matches!(kind, FILE | DIR) || !name.starts_with(b"user.");
            if known && possible {
                wanted.push((name.clone(), value.clone()));
            } else {
                self.done.note(|| format!("{}: attribute {} is passed over", shown(&entry.path), shown(name)));
            }
        }
        wanted.sort_unstable();
        self.ext4.set_attributes(number, &wanted)
    }
}

fn describe_inode(entry: &Entry, inode: &mut Inode) {
    // Permissions of a symbolic link have no meaning, and all see 0777.
    inode.set_permissions(if inode.kind() == LINK { 0o777 } else { entry.mode });
    inode.set_owner(entry.uid, entry.gid);
    inode.set_times(entry.mtime, entry.atime.unwrap_or(entry.mtime));
}
