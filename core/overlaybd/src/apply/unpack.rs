//! One member: what was there goes, what it says comes.

use std::io::Read;

use super::target::{Source, Target};
use super::walk::{not_there, Walk};
use super::{name, Layer};
use crate::error::{Error, Kind, Result};
use crate::ext4::{DIR, FILE};
use crate::tar::{shown, Archive, Entry, EntryKind};

/// Longest target of a symbolic link.
const MAX_TARGET: usize = 4095;
/// Longest name of an attribute, as the kernel takes it.
const MAX_ATTRIBUTE_NAME: usize = 255;
/// What names of attributes begin with. Others the kernel does not have, or not in a file system.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Access control lists, the only attributes of the kernel's own that are kept.
const LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

impl<T: Target> Layer<'_, T> {
    /// The root's own entry: it is there already, and takes what the entry says of it.
    pub(super) fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::new(Kind::Invalid, "the root can be nothing but a directory"));
        }
        self.describe(entry, self.target.root(), DIR, false)
    }

    /// Makes what `entry` is, under a name in a directory.
    pub(super) fn unpack<R: Read>(
        &mut self,
        entry: &Entry,
        parent: T::Number,
        name: &[u8],
        archive: &mut Archive<R>,
        buf: &mut [u8],
    ) -> Result<()> {
        let there = self.target.lookup(parent, name)?;
        if let (Some((number, DIR)), EntryKind::Directory) = (there, entry.kind) {
            self.mark_unpacked(parent, name);
            return self.describe(entry, number, DIR, false);
        }
        if there.is_some_and(|(number, _)| self.target.is_own(number)) {
            let what = "the file system has a directory of its own there, which has to stay";
            return Err(Error::new(Kind::Unsupported, what));
        }
        if entry.kind == EntryKind::HardLink {
            return self.link(entry, parent, name, there);
        }
        if let Some((number, kind)) = there {
            self.remove(parent, name, number, kind, false)?;
        }
        if entry.kind == EntryKind::Symlink {
            check_target(&entry.link)?;
        }
        let mut source = Source::new(archive, entry.size, buf);
        let number = self.target.create(parent, name, entry, &mut source)?;
        self.mark_unpacked(parent, name);
        if entry.kind == EntryKind::File {
            self.done.files += 1;
            self.done.bytes += source.bytes();
        }
        let kind = match entry.kind {
            EntryKind::File => FILE,
            EntryKind::Directory => DIR,
            // The only other thing that attributes depend on is that it is neither.
            _ => 0,
        };
        self.set_attributes(entry, number, kind)
    }

    /// Another name for a file that is there, be it of this layer or of one below.
    fn link(&mut self, entry: &Entry, parent: T::Number, name: &[u8], there: Option<(T::Number, u16)>) -> Result<()> {
        let target = name::clean(&entry.link)?;
        let missing = || not_there(&target).context("a hard link leads to");
        let (directory, last) = name::split(&target).ok_or_else(missing)?;
        let directory = self.walk(directory, Walk::Find)?.ok_or_else(missing)?;
        let (number, kind) = self.target.lookup(directory, last)?.ok_or_else(missing)?;
        if kind == DIR {
            let what = format!("a hard link leads to {}, which is a directory", shown(&target));
            return Err(Error::new(Kind::Invalid, what));
        }
        // It may be the same file under the name that it has already.
        if there.is_none_or(|(other, _)| other != number) {
            // Counted first, so that it stays even if what goes holds its other names.
            self.target.hold(number).map_err(|e| e.context(shown(&target)))?;
            if let Some((other, kind)) = there {
                self.remove(parent, name, other, kind, false)?;
            }
            self.target.add_name(parent, name, number, kind)?;
        }
        self.mark_unpacked(parent, name);
        // Some writers say attributes only where the file itself is.
        self.describe(entry, number, kind, true)
    }

    /// Gives something that is there the owner, permissions, times and attributes of an entry; `others` that it has
    /// may stay.
    fn describe(&mut self, entry: &Entry, number: T::Number, kind: u16, others: bool) -> Result<()> {
        self.target.describe(number, entry)?;
        if !others {
            self.target.clear_attributes(number, &entry.xattrs)?;
        }
        self.set_attributes(entry, number, kind)
    }

    /// Sets the attributes that the kernel would let somebody set; the others are passed over.
    fn set_attributes(&mut self, entry: &Entry, number: T::Number, kind: u16) -> Result<()> {
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for (name, value) in &entry.xattrs {
            let known = NAMESPACES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
            let possible = matches!(kind, FILE | DIR) || !name.starts_with(b"user.");
            let fits = name.len() <= MAX_ATTRIBUTE_NAME;
            if (known && possible && fits) || LISTS.contains(&name.as_slice()) {
                wanted.push((name.clone(), value.clone()));
            } else {
                self.done.note(|| format!("{}: attribute {} is passed over", shown(&entry.path), shown(name)));
            }
        }
        wanted.sort_unstable();
        self.target.set_attributes(number, &wanted)
    }
}

fn check_target(target: &[u8]) -> Result<()> {
    if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
        let what = format!("a symbolic link to {} ({} bytes), which cannot be", shown(target), target.len());
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(())
}
