//! An open file of the simulated disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::sync::sim;
use overlaybd::sys::File;

use crate::disk::SimDisk;
use crate::inode::{eio, lock, Inode, Node, Op, PAGE};

/// An open file.
pub struct SimFile {
    pub disk: SimDisk,
    pub inode: Arc<Inode>,
    pub handle: u64,
    pub path: PathBuf,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.inode.0).locks.retain(|(handle, ..)| *handle != self.handle);
    }
}

impl SimFile {
    fn change(&self, op: Op) {
        let mut node = lock(&self.inode.0);
        let Node { bytes, pages, .. } = &mut *node;
        op.apply(bytes, pages);
        node.pending.push(op);
    }
}

impl File for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let faults = self.disk.begin(|f| f.reads)?;
        let node = lock(&self.inode.0);
        let there = node.bytes.get(offset as usize..).unwrap_or_default();
        let mut len = there.len().min(buf.len());
        if len > 1 && faults.short > 0 && sim::draw(1000) < faults.short {
            len = 1 + sim::draw(len as u64 - 1) as usize;
        }
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let faults = self.disk.begin(|f| f.writes)?;
        let mut len = buf.len();
        if len > 1 && faults.short > 0 && sim::draw(1000) < faults.short {
            // A system that does less stops between pages.
            let end = (offset + 1 + sim::draw(len as u64 - 1)) / PAGE * PAGE;
            len = end.checked_sub(offset).filter(|len| *len > 0).map_or(len, |len| len as usize);
        }
        if faults.capacity != u64::MAX {
            let new = {
                let node = lock(&self.inode.0);
                let pages = offset / PAGE..(offset + len as u64).div_ceil(PAGE);
                pages.filter(|page| !node.pages.contains(page)).count() as u64
            };
            if new > 0 && self.disk.used() + new * PAGE > faults.capacity {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
        }
        self.change(Op::Write(offset, buf[..len].to_vec()));
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.begin(|f| f.reads)?;
        Ok(lock(&self.inode.0).bytes.len() as u64)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        self.disk.begin(|f| f.reads)?;
        Ok(lock(&self.inode.0).pages.len() as u64 * PAGE)
    }

    fn links(&self) -> io::Result<u64> {
        self.disk.begin(|f| f.reads)?;
        Ok(lock(&self.inode.0).links)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.begin(|f| f.writes)?;
        self.change(Op::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // What is written while the flush is under way need not be part of it.
        let count = lock(&self.inode.0).pending.len();
        let failed = self.disk.begin(|f| f.flushes);
        if sim::is_dead() {
            return Err(eio());
        }
        let mut node = lock(&self.inode.0);
        let count = count.min(node.pending.len());
        let rest = node.pending.split_off(count);
        let ops = std::mem::replace(&mut node.pending, rest);
        match failed {
            Ok(_) => {
                let Node { durable, durable_pages, .. } = &mut *node;
                ops.iter().for_each(|op| op.apply(durable, durable_pages));
                Ok(())
            }
            Err(e) => {
                // Some of it got there, the rest never will.
                node.persist_some(ops);
                Err(e)
            }
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.begin(|f| f.writes)?;
        self.change(Op::Hole(offset, len));
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.disk.begin(|f| f.reads)?;
        let node = lock(&self.inode.0);
        let len = node.bytes.len() as u64;
        Ok(node.pages.range(offset / PAGE..).next().map(|page| (page * PAGE).max(offset)).filter(|at| *at < len))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.disk.begin(|f| f.reads)?;
        let node = lock(&self.inode.0);
        let mut page = offset / PAGE;
        while node.pages.contains(&page) {
            page += 1;
        }
        Ok((page * PAGE).max(offset).min(node.bytes.len() as u64))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.disk.begin(|_| 0)?;
        let mut node = lock(&self.inode.0);
        let others = node.locks.iter().filter(|(handle, ..)| *handle != self.handle);
        let free = others.clone().count() == 0 || (!exclusive && others.clone().all(|(.., alone)| !alone));
        if free {
            node.locks.retain(|(handle, ..)| *handle != self.handle);
            node.locks.push((self.handle, sim::process(), exclusive));
        }
        Ok(free)
    }
}
