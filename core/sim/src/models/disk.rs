//! A disk in memory on which nothing goes wrong, but each operation is a moment of its own, and a long one several.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlaybd::error::{Error, Kind, Result};
use overlaybd::sync::{point, sim};
use overlaybd::sys::{Clock, Disk, File, Mode};

const PAGE: u64 = 4096;
/// Bytes that are read or written at a time.
const GRAIN: usize = 2048;

/// A disk. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct ModelDisk(Arc<Mutex<BTreeMap<PathBuf, Arc<Mutex<Node>>>>>);

#[derive(Debug, Default)]
struct Node {
    bytes: Vec<u8>,
    pages: BTreeSet<u64>,
    removed: bool,
    /// Who holds its lock, and whether alone.
    locks: Vec<(usize, bool)>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for ModelDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        point();
        let mut names = lock(&self.0);
        match (mode, names.contains_key(path)) {
            (Mode::New, true) => return Err(Error::new(Kind::Exists, "open").in_file(path)),
            (Mode::Read | Mode::Write, false) => return Err(Error::new(Kind::NotFound, "open").in_file(path)),
            _ => {}
        }
        let node = Arc::clone(names.entry(path.to_owned()).or_default());
        Ok(Arc::new(ModelFile { path: path.to_owned(), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        point();
        let mut names = lock(&self.0);
        let node = names.remove(from).ok_or_else(|| Error::new(Kind::NotFound, "rename").in_file(from))?;
        if let Some(old) = names.insert(to.to_owned(), node) {
            lock(&old).removed = true;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        point();
        let node = lock(&self.0).remove(path).ok_or_else(|| Error::new(Kind::NotFound, "remove").in_file(path))?;
        lock(&node).removed = true;
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn create_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let inside = |path: &PathBuf| Some(path.strip_prefix(dir).ok()?.to_string_lossy().into_owned());
        Ok(lock(&self.0).keys().filter_map(inside).collect())
    }

    fn free_bytes(&self, _: &Path) -> Result<u64> {
        Ok(1 << 40)
    }
}

#[derive(Debug)]
struct ModelFile {
    path: PathBuf,
    node: Arc<Mutex<Node>>,
}

impl ModelFile {
    fn me(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        let me = self.me();
        lock(&self.node).locks.retain(|(holder, _)| *holder != me);
    }
}

impl File for ModelFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        point();
        let node = lock(&self.node);
        let there = node.bytes.get(offset as usize..).unwrap_or_default();
        let len = there.len().min(buf.len()).min(GRAIN);
        buf[..len].copy_from_slice(&there[..len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        point();
        let mut node = lock(&self.node);
        let len = buf.len().min(GRAIN);
        let end = offset + len as u64;
        if node.bytes.len() < end as usize {
            node.bytes.resize(end as usize, 0);
        }
        node.bytes[offset as usize..end as usize].copy_from_slice(&buf[..len]);
        node.pages.extend(offset / PAGE..end.div_ceil(PAGE));
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.node).bytes.len() as u64)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.node).pages.len() as u64 * PAGE)
    }

    fn links(&self) -> io::Result<u64> {
        Ok(u64::from(!lock(&self.node).removed))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        point();
        let mut node = lock(&self.node);
        node.bytes.resize(len as usize, 0);
        node.pages.retain(|page| page * PAGE < len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        point();
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        for part in (offset..offset + len).step_by(PAGE as usize) {
            point();
            let mut node = lock(&self.node);
            let end = (part + PAGE).min(offset + len).min(node.bytes.len() as u64);
            if part < end {
                node.bytes[part as usize..end as usize].fill(0);
                node.pages.retain(|page| page * PAGE < part || page * PAGE >= end);
            }
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let node = lock(&self.node);
        let len = node.bytes.len() as u64;
        Ok(node.pages.range(offset / PAGE..).next().map(|page| (page * PAGE).max(offset)).filter(|at| *at < len))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let node = lock(&self.node);
        let page = (offset / PAGE..).find(|page| !node.pages.contains(page)).unwrap_or(0);
        Ok((page * PAGE).max(offset).min(node.bytes.len() as u64))
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        point();
        let me = self.me();
        let mut node = lock(&self.node);
        let others = || node.locks.iter().filter(|(holder, _)| *holder != me);
        let free = others().all(|(_, alone)| !alone && !exclusive);
        if free {
            node.locks.retain(|(holder, _)| *holder != me);
            node.locks.push((me, exclusive));
        }
        Ok(free)
    }
}

/// The world's time.
#[derive(Debug)]
pub struct ModelClock;

impl Clock for ModelClock {
    fn now(&self) -> Duration {
        sim::now().unwrap_or_default()
    }

    fn sleep(&self, time: Duration) {
        sim::sleep(time);
    }
}
