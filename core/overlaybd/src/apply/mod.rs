//! Applies an OCI layer, which is a tar, to the file system of a device: no mount, no root, no clock.
//!
//! Format: tar, part B, with what is told there of upstream's faults made right: the result is what the tar means. The
//! same archive on the same device gives the same bytes.

#[cfg(test)]
pub(crate) mod model;
mod name;
mod target;
#[cfg(test)]
mod tests;
mod tree;
#[cfg(test)]
mod turbo_tests;
mod unpack;
mod walk;

use std::collections::HashSet;
use std::io::Read;

use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_APPLY_EXTRA_BYTES, MAX_APPLY_NOTES};
use crate::tar::{shown, Archive, Entry};
use walk::Walk;

pub use target::{Content, Named, Target};

/// Bytes of content read at a time.
const PIECE: usize = 256 << 10;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Members of the archive.
    pub entries: u64,
    /// Files made, and bytes of their content.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// Whiteouts carried out, opaque directories included.
    pub whiteouts: u64,
    /// What was passed over, one line each; only the first ones.
    pub notes: Vec<String>,
}

impl Applied {
    fn note(&mut self, note: impl FnOnce() -> String) {
        if self.notes.len() < MAX_APPLY_NOTES {
            self.notes.push(note());
        }
    }
}

/// Applies all members of `archive` to a file system, in order. After each, `progress` is told where in the archive it
/// is, and of its input.
///
/// # Errors
/// Those of the archive, of the file system and of `progress`; `Invalid` for members that no file system can have. The
/// member's name and place are said. What was applied before stays.
pub fn apply<T: Target, R: Read>(
    target: &mut T,
    archive: &mut Archive<R>,
    progress: &mut dyn FnMut(u64, &R) -> Result<()>,
) -> Result<Applied> {
    archive.limit(target.capacity().saturating_mul(2).saturating_add(MAX_APPLY_EXTRA_BYTES));
    let mut layer = Layer { target, unpacked: HashSet::new(), last_parent: None, listed: 0, done: Applied::default() };
    let mut buf = vec![0; PIECE];
    while let Some(entry) = archive.next_entry()? {
        layer.done.entries += 1;
        layer.take(&entry, archive, &mut buf).map_err(|e| e.at(entry.offset).context(shown(&entry.path)))?;
        progress(archive.position(), archive.input())?;
    }
    Ok(layer.done)
}

/// A layer being applied.
struct Layer<'a, T: Target> {
    target: &'a mut T,
    /// Hashes of directory and name of what this layer unpacked: whiteouts do not touch it.
    unpacked: HashSet<u64>,
    /// The directory that the last member was in, as its name was spelled; members mostly have neighbours.
    last_parent: Option<(Vec<u8>, T::Number)>,
    /// Names looked at so far to remove them.
    listed: u64,
    done: Applied,
}

impl<T: Target> Layer<'_, T> {
    fn take<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>, buf: &mut [u8]) -> Result<()> {
        let path = name::clean(&entry.path)?;
        let Some((parent, name)) = name::split(&path) else { return self.root(entry) };
        // Of AUFS's own, or nobody's: such names are no files.
        if parent.split(|b| *b == b'/').any(|part| part.starts_with(b".wh.")) {
            self.done.note(|| format!("{}: below a whiteout, passed over", shown(&path)));
            return Ok(());
        }
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            let parent = self.parent(parent)?;
            return self.unpack(entry, parent, name, archive, buf);
        };
        let Some(parent) = self.walk(parent, Walk::Hide)? else {
            self.done.note(|| format!("{}: nothing of layers below is there any more", shown(&path)));
            return Ok(());
        };
        match hidden {
            b".wh..opq" => self.make_opaque(parent),
            // Others of theirs are for their own use, and hide nothing.
            _ if hidden.starts_with(b".wh.") => {
                self.done.note(|| format!("{}: not a whiteout that is known", shown(&path)));
                Ok(())
            }
            b"" | b"." | b".." => Err(Error::new(Kind::Invalid, "a whiteout of nothing")),
            _ => self.white_out(parent, hidden),
        }
    }
}
