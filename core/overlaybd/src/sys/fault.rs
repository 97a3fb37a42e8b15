//! A disk that fails on demand: wraps another and makes one chosen operation go wrong.
//!
//! For tests, and for rehearsing what a full or a dying disk does to a device.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use super::{Disk, File, Mode};
use crate::error::Result;

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens but this errno.
    Errno(i32),
    /// A write writes only so many bytes, and the next operation fails with this errno: what a file
    /// system does when it runs full. Other operations fail at once.
    Short(usize, i32),
}

/// When and how: shared by a [`FaultDisk`], its files and whoever plans.
#[derive(Debug)]
struct Plan {
    seen: AtomicU64,
    at: u64,
    fault: Fault,
    follow_up: AtomicBool,
    no_holes: bool,
    hides_holes: bool,
    longest: u64,
}

impl Plan {
    /// One of a fault that never comes.
    fn new() -> Self {
        let (seen, follow_up) = (AtomicU64::new(0), AtomicBool::new(false));
        let (at, fault, longest) = (u64::MAX, Fault::Errno(0), u64::MAX);
        Plan { seen, at, fault, follow_up, no_holes: false, hides_holes: false, longest }
    }

    /// Counts an operation that changes something; Some if it is to go wrong.
    fn next(&self) -> Option<Fault> {
        if self.follow_up.swap(false, Ordering::Relaxed) {
            let (Fault::Errno(errno) | Fault::Short(_, errno)) = self.fault;
            return Some(Fault::Errno(errno));
        }
        (self.seen.fetch_add(1, Ordering::Relaxed) == self.at).then_some(self.fault)
    }

    /// Refuses a file of so many bytes, if it is too long.
    fn check_len(&self, len: u64) -> io::Result<()> {
        if len > self.longest {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        Ok(())
    }

    /// As `next`, for operations that cannot fall short.
    fn fail(&self) -> io::Result<()> {
        match self.next() {
            Some(Fault::Errno(errno) | Fault::Short(_, errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

/// A disk whose `at`-th operation that changes a file (write, length, flush, hole), counted from 0 over
/// all files opened through it, goes wrong. All others pass.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    inner: Arc<dyn Disk>,
    plan: Arc<Plan>,
}

impl FaultDisk {
    /// Plans one fault.
    pub fn new(inner: Arc<dyn Disk>, at: u64, fault: Fault) -> Self {
        FaultDisk { inner, plan: Arc::new(Plan { at, fault, ..Plan::new() }) }
    }

    /// A disk of which nothing goes wrong but that no file can have a hole punched, as on some file systems.
    pub fn without_holes(inner: Arc<dyn Disk>) -> Self {
        FaultDisk { inner, plan: Arc::new(Plan { no_holes: true, ..Plan::new() }) }
    }

    /// A disk of which nothing goes wrong but that a file is said to be data from its first byte to its last, which is
    /// what Linux says for file systems that do not know.
    pub fn hiding_holes(inner: Arc<dyn Disk>) -> Self {
        FaultDisk { inner, plan: Arc::new(Plan { hides_holes: true, ..Plan::new() }) }
    }

    /// A disk of which nothing goes wrong but that no file can be longer than so many bytes.
    pub fn with_longest_file(inner: Arc<dyn Disk>, bytes: u64) -> Self {
        FaultDisk { inner, plan: Arc::new(Plan { longest: bytes, ..Plan::new() }) }
    }

    /// Operations counted so far: whether the fault has come is `counted() > at`.
    pub fn counted(&self) -> u64 {
        self.plan.seen.load(Ordering::Relaxed)
    }
}

impl Disk for FaultDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        Ok(Arc::new(FaultFile { inner: self.inner.open(path, mode)?, plan: self.plan.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.inner.sync_dir(dir)
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        self.inner.free_bytes(dir)
    }

    fn boot(&self) -> u64 {
        self.inner.boot()
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn File>,
    plan: Arc<Plan>,
}

impl File for FaultFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.plan.check_len(offset + buf.len() as u64)?;
        match self.plan.next() {
            None => self.inner.write_at(buf, offset),
            Some(Fault::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(len, _)) => {
                self.plan.follow_up.store(true, Ordering::Relaxed);
                self.inner.write_at(&buf[..len.clamp(1, buf.len())], offset)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.inner.allocated_bytes()
    }

    fn block_bytes(&self) -> u64 {
        self.inner.block_bytes()
    }

    fn links(&self) -> io::Result<u64> {
        self.inner.links()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.plan.check_len(len)?;
        self.plan.fail()?;
        self.inner.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.plan.fail()?;
        self.inner.allocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plan.fail()?;
        self.inner.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.plan.no_holes {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        self.plan.fail()?;
        self.inner.punch_hole(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        if self.plan.hides_holes {
            return Ok((offset < self.inner.len()?).then_some(offset));
        }
        self.inner.next_data(offset)
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        if self.plan.hides_holes {
            return self.inner.len();
        }
        self.inner.next_hole(offset)
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.inner.try_lock(exclusive)
    }
}
