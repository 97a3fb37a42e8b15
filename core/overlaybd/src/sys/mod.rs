//! The machine as the core sees it: files and time, behind small traits.
//!
//! `os` is the real machine, `fault` one that fails on demand. Tests and the simulator put their own in its place.

pub mod fault;
pub mod os;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};

/// An open file. Positions are always explicit, so one handle serves any number of threads.
pub trait File: Send + Sync + Debug {
    /// The name it was opened by, for messages.
    fn path(&self) -> &Path;
    /// `pread(2)`: up to `buf.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// `pwrite(2)`: may write less than asked.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True for a file of length zero.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Bytes that the file system has allocated to it.
    fn allocated_bytes(&self) -> io::Result<u64>;
    /// What the file system allocates at a time, as far as it says.
    fn block_bytes(&self) -> u64 {
        4096
    }
    /// Names that lead to it; 0 once it has been removed or replaced.
    fn links(&self) -> io::Result<u64> {
        Ok(1)
    }
    /// `ftruncate(2)`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Has the file system set aside room for the first `len` bytes, which must lie inside the file.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    /// `fdatasync(2)`.
    fn sync_data(&self) -> io::Result<()>;
    /// Has the system begin to write what is not on disk yet, without waiting for it: a hint.
    fn start_write_back(&self) {}
    /// Deallocates a range, which then reads as zeros; the length stays.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `SEEK_DATA`: first data at or after `offset`, None if there is none up to the end.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;
    /// `SEEK_HOLE`: first hole at or after `offset` (the end of the file counts as one).
    fn next_hole(&self, offset: u64) -> io::Result<u64>;
    /// Takes (or converts to) an advisory lock on the whole file without waiting; false if another
    /// holder is in the way, in which case a lock held before is kept (open-file-description lock).
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;
    /// Copies a range between files inside the kernel where that is possible; None where it is not,
    /// and nothing was copied.
    fn copy_to(&self, _offset: u64, _len: u64, _to: &dyn File, _to_offset: u64) -> io::Result<Option<()>> {
        Ok(None)
    }
    /// The descriptor, where there is one.
    fn fd(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Must exist; reads only.
    Read,
    /// Must exist; reads and writes.
    Write,
    /// Created with mode 0644 if missing; reads and writes.
    Create,
    /// Created with mode 0644; an existing file is an error (`O_EXCL`).
    New,
}

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Opens `path`; errors name it.
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>>;
    /// Atomically gives `from` the name `to`, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file; one that is not there is an error of kind `NotFound`.
    fn remove(&self, path: &Path) -> Result<()>;
    /// Makes the names in a directory durable (`fsync` of the directory).
    fn sync_dir(&self, dir: &Path) -> Result<()>;
    /// Creates a directory and its missing parents.
    fn create_dir(&self, dir: &Path) -> Result<()>;
    /// Names in a directory, unsorted, without `.` and `..`.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;
    /// Bytes free to an unprivileged user on the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> Result<u64>;
    /// A number that stays the same for as long as what was written is seen by all, synced or not; below 2^55. 0 if
    /// nobody can tell, or if it does not matter.
    fn boot(&self) -> u64 {
        0
    }
}

/// Time.
pub trait Clock: Send + Sync + Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Blocks the calling thread.
    fn sleep(&self, time: Duration);
}

/// Reads exactly `buf.len()` bytes, continuing after short reads and `EINTR`.
///
/// Errors: `Io` from the system; `Corrupt` if the file ends first, since callers ask only for what a
/// header or an index said is there.
pub fn read_exact(file: &dyn File, buf: &mut [u8], offset: u64) -> Result<()> {
    read_exact_with(file.path(), buf, offset, |buf, at| file.read_at(buf, at))
}

/// [`read_exact`] of the file `path` by a `read` of the caller's.
pub fn read_exact_with(
    path: &Path,
    mut buf: &mut [u8],
    mut offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> Result<()> {
    while !buf.is_empty() {
        match read(buf, offset) {
            Ok(0) => {
                let what = format!("file ends {} bytes early", buf.len());
                return Err(Error::corrupt(what).in_file(path).at(offset));
            }
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("read", e).in_file(path).at(offset)),
        }
    }
    Ok(())
}

/// Writes all of `buf`, continuing after short writes and `EINTR`.
pub fn write_all(file: &dyn File, mut buf: &[u8], mut offset: u64) -> Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(Error::new(crate::Kind::Io, "write made no progress").in_file(file.path()).at(offset)),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("write", e).in_file(file.path()).at(offset)),
        }
    }
    Ok(())
}
