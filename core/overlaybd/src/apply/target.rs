//! What layers are applied to: a file system, as far as an archive can change it.

use std::hash::Hash;
use std::io::Read;

use crate::error::Result;
use crate::tar::{Archive, Entry};

/// What a directory has: name, number and type, as in a mode.
pub type Named<N> = (Box<[u8]>, N, u16);

/// A file system. Files have numbers; a number that is free again may be another file's.
pub trait Target {
    /// What stands for a file.
    type Number: Copy + Eq + Ord + Hash;

    /// The root directory.
    fn root(&self) -> Self::Number;

    /// Bytes that it can hold, about.
    fn capacity(&self) -> u64;

    /// Whether a file is the file system's own directory, which no layer hides or replaces; there is one at most.
    fn is_own(&self, number: Self::Number) -> bool;

    /// Number and type of what a directory has under a name.
    ///
    /// # Errors
    /// `Corrupt`; those of the device, as of all others.
    fn lookup(&mut self, directory: Self::Number, name: &[u8]) -> Result<Option<(Self::Number, u16)>>;

    /// All that a directory has, in any order, without `.` and `..`.
    fn list(&mut self, directory: Self::Number) -> Result<Vec<Named<Self::Number>>>;

    /// Where a symbolic link leads.
    fn read_link(&mut self, number: Self::Number) -> Result<Vec<u8>>;

    /// Makes what `entry` is and no hard link, with all that it says but attributes, under a name that the directory
    /// does not have. A symbolic link's target can be one.
    ///
    /// # Errors
    /// `Invalid` for a name or a device that cannot be; `Limit`; `NoSpace`; those of `content`.
    fn create(
        &mut self,
        directory: Self::Number,
        name: &[u8],
        entry: &Entry,
        content: &mut dyn Content,
    ) -> Result<Self::Number>;

    /// Gives something owner, permissions and times of an entry.
    fn describe(&mut self, number: Self::Number, entry: &Entry) -> Result<()>;

    /// Sets extended attributes; those not named stay.
    ///
    /// # Errors
    /// `NoSpace` or `Limit` if they do not fit.
    fn set_attributes(&mut self, number: Self::Number, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;

    /// Takes extended attributes away, except those that have the names of `wanted`, which are to be set.
    fn clear_attributes(&mut self, number: Self::Number, wanted: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;

    /// Counts one more name of a file, which is to be added.
    ///
    /// # Errors
    /// `Limit` if it has too many.
    fn hold(&mut self, number: Self::Number) -> Result<()>;

    /// Adds a name that was counted, and that the directory does not have.
    ///
    /// # Errors
    /// Those of [`Target::create`].
    fn add_name(&mut self, directory: Self::Number, name: &[u8], number: Self::Number, kind: u16) -> Result<()>;

    /// Takes a name from a file that is no directory; with the last one it is gone.
    fn remove_name(&mut self, directory: Self::Number, name: &[u8], number: Self::Number) -> Result<()>;

    /// Removes an empty directory.
    fn remove_directory(&mut self, parent: Self::Number, name: &[u8], number: Self::Number) -> Result<()>;
}

/// What a new file is to hold.
pub trait Content {
    /// The next bytes, and where in the file they belong. Ascending; what lies between is holes.
    ///
    /// # Errors
    /// Those of the archive.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>>;

    /// Where in the uncompressed archive all of it lies, if it is in one piece there, none was read and there is any:
    /// a multiple of 512. Whoever takes the place gets no bytes.
    fn take_place(&mut self) -> Option<u64>;
}

/// The content of a member of an archive.
pub(super) struct Source<'a, R> {
    archive: &'a mut Archive<R>,
    buf: &'a mut [u8],
    /// Bytes of the file, and of those given so far.
    size: u64,
    bytes: u64,
}

impl<'a, R: Read> Source<'a, R> {
    /// That of the present member, which has `size` bytes, read in pieces of what `buf` holds.
    pub fn new(archive: &'a mut Archive<R>, size: u64, buf: &'a mut [u8]) -> Self {
        Source { archive, buf, size, bytes: 0 }
    }

    /// Bytes given so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<R: Read> Content for Source<'_, R> {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        let Some((offset, len)) = self.archive.read(self.buf)? else { return Ok(None) };
        self.bytes += len as u64;
        Ok(Some((offset, &self.buf[..len])))
    }

    fn take_place(&mut self) -> Option<u64> {
        let place = self.archive.take_place()?;
        self.bytes = self.size;
        Some(place)
    }
}
