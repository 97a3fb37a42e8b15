//! A file system in memory that forgets what was not made durable, and fails on demand.
//!
//! What a process sees is not what a loss of power leaves: each file has its bytes as written and as durable, and
//! each sector gets to the disk as it was at some moment between, whatever the others do. Names become durable in the
//! order in which they were made. After a failed flush the system takes what it could not write for written, as Linux
//! does.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlaybd::error::{Error, Result};
use overlaybd::sync::sim;
use overlaybd::sys::{Disk, File, Mode};

use crate::file::SimFile;
use crate::inode::{eio, lock, Inode, Node, Op, PAGE};

/// What may go wrong, in thousandths of all operations of a kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail with EIO.
    pub reads: u64,
    /// Writes, changes of length and holes that fail with EIO.
    pub writes: u64,
    /// Reads and writes that do less than asked.
    pub short: u64,
    /// Flushes that fail.
    pub flushes: u64,
    /// Longest time of an operation.
    pub latency: Duration,
    /// Bytes that there are.
    pub capacity: u64,
}

/// A disk. Clones are the same one.
#[derive(Clone)]
pub struct SimDisk(Arc<Inner>);

struct Inner {
    tree: Mutex<Tree>,
    faults: Mutex<Faults>,
    handles: AtomicU64,
    boot: AtomicU64,
}

#[derive(Default)]
struct Tree {
    names: BTreeMap<PathBuf, Arc<Inode>>,
    durable: BTreeMap<PathBuf, Arc<Inode>>,
    changes: Vec<Change>,
}

/// A change of names that is not durable yet.
enum Change {
    Set(PathBuf, Arc<Inode>),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl SimDisk {
    /// An empty disk on which nothing goes wrong.
    pub fn new() -> Self {
        let faults = Faults { capacity: u64::MAX, ..Faults::default() };
        let (tree, faults) = (Mutex::default(), Mutex::new(faults));
        SimDisk(Arc::new(Inner { tree, faults, handles: AtomicU64::new(0), boot: AtomicU64::new(1) }))
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.0.faults) = faults;
    }

    /// The power goes, and comes back: what was not durable may be gone. No process may be alive.
    pub fn lose_power(&self) {
        self.0.boot.fetch_add(1, Ordering::Relaxed);
        let mut tree = lock(&self.0.tree);
        let kept = sim::draw(tree.changes.len() as u64 + 1) as usize;
        let changes = std::mem::take(&mut tree.changes);
        for change in changes.into_iter().take(kept) {
            change.apply(&mut tree.durable);
        }
        tree.names = tree.durable.clone();
        let mut links: BTreeMap<*const Inode, u64> = BTreeMap::new();
        for inode in tree.names.values() {
            *links.entry(Arc::as_ptr(inode)).or_default() += 1;
        }
        let inodes: Vec<_> = tree.names.values().cloned().collect();
        drop(tree);
        for inode in inodes {
            let mut node = lock(&inode.0);
            node.links = links[&Arc::as_ptr(&inode)];
            node.locks.clear();
            let pending = std::mem::take(&mut node.pending);
            node.persist_some(pending);
            (node.bytes, node.pages) = (node.durable.clone(), node.durable_pages.clone());
        }
    }

    /// A process is gone: what it had open is closed.
    pub fn close_all(&self, process: sim::Process) {
        for inode in lock(&self.0.tree).names.values() {
            lock(&inode.0).locks.retain(|(_, owner, _)| *owner != process);
        }
    }

    /// What a file holds, without asking the disk; None if there is none.
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let inode = lock(&self.0.tree).names.get(path).cloned()?;
        let bytes = lock(&inode.0).bytes.clone();
        Some(bytes)
    }

    /// A bit of a file whose name is among those that `may` rot flips, on the disk too. False if there is none.
    pub fn rot(&self, may: impl Fn(&Path) -> bool) -> bool {
        let files: Vec<_> = {
            let tree = lock(&self.0.tree);
            tree.names.iter().filter(|(name, _)| may(name)).map(|(_, inode)| inode.clone()).collect()
        };
        if files.is_empty() {
            return false;
        }
        let inode = &files[sim::draw(files.len() as u64) as usize];
        let mut node = lock(&inode.0);
        let pages: Vec<u64> = node.pages.iter().copied().collect();
        if pages.is_empty() {
            return false;
        }
        let at = (pages[sim::draw(pages.len() as u64) as usize] * PAGE + sim::draw(PAGE)) as usize;
        let bit = 1 << sim::draw(8);
        let Node { bytes, durable, .. } = &mut *node;
        [bytes, durable].into_iter().filter_map(|copy| copy.get_mut(at)).for_each(|byte| *byte ^= bit);
        true
    }

    /// A file whose name is among those that `may` be damaged is cut short, or gone.
    pub fn damage(&self, may: impl Fn(&Path) -> bool) {
        let mut tree = lock(&self.0.tree);
        let names: Vec<PathBuf> = tree.names.keys().filter(|name| may(name)).cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = &names[sim::draw(names.len() as u64) as usize];
        if sim::draw(2) == 0 {
            Change::Remove(name.clone()).apply(&mut tree.names);
            Change::Remove(name.clone()).apply(&mut tree.durable);
        } else {
            let mut node = lock(&tree.names[name].0);
            let len = sim::draw(node.bytes.len() as u64 + 1);
            let Node { bytes, pages, durable, durable_pages, .. } = &mut *node;
            Op::Length(len).apply(bytes, pages);
            Op::Length(len).apply(durable, durable_pages);
        }
    }

    /// An operation: takes time, and fails so often.
    pub fn begin(&self, rate: impl Fn(&Faults) -> u64) -> io::Result<Faults> {
        let faults = *lock(&self.0.faults);
        let micros = faults.latency.as_micros() as u64;
        if micros > 0 && sim::draw(8) == 0 {
            sim::sleep(Duration::from_micros(sim::draw(micros)));
        } else {
            sim::step();
        }
        if sim::is_dead() || (rate(&faults) > 0 && sim::draw(1000) < rate(&faults)) {
            return Err(eio());
        }
        Ok(faults)
    }

    pub fn used(&self) -> u64 {
        let tree = lock(&self.0.tree);
        tree.names.values().map(|inode| lock(&inode.0).pages.len() as u64 * PAGE).sum()
    }

    fn change(&self, change: Change) {
        let mut tree = lock(&self.0.tree);
        change.apply(&mut tree.names);
        tree.changes.push(change);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Arc<Inode>>) {
        match self {
            Change::Set(path, inode) => drop(names.insert(path.clone(), Arc::clone(inode))),
            Change::Remove(path) => drop(names.remove(path)),
            Change::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a simulated disk")
    }
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::io(what, error).in_file(path)
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        self.begin(|f| f.reads).map_err(|e| failed("open", path, e))?;
        let found = lock(&self.0.tree).names.get(path).cloned();
        let inode = match (found, mode) {
            (Some(_), Mode::New) => {
                return Err(failed("open", path, io::Error::from_raw_os_error(libc::EEXIST)));
            }
            (Some(inode), _) => inode,
            (None, Mode::Read | Mode::Write) => {
                return Err(failed("open", path, io::Error::from_raw_os_error(libc::ENOENT)));
            }
            (None, _) => {
                let inode = Arc::new(Inode::default());
                lock(&inode.0).links = 1;
                self.change(Change::Set(path.to_owned(), Arc::clone(&inode)));
                inode
            }
        };
        let handle = self.0.handles.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(SimFile { disk: self.clone(), inode, handle, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.begin(|f| f.writes).map_err(|e| failed("rename", from, e))?;
        let (moved, replaced) = {
            let tree = lock(&self.0.tree);
            (tree.names.get(from).cloned(), tree.names.get(to).cloned())
        };
        if moved.is_none() {
            return Err(failed("rename", from, io::Error::from_raw_os_error(libc::ENOENT)));
        }
        if let Some(replaced) = replaced {
            lock(&replaced.0).links = 0;
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.begin(|f| f.writes).map_err(|e| failed("remove", path, e))?;
        let Some(inode) = lock(&self.0.tree).names.get(path).cloned() else {
            return Err(failed("remove", path, io::Error::from_raw_os_error(libc::ENOENT)));
        };
        lock(&inode.0).links = 0;
        self.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.begin(|f| f.flushes).map_err(|e| failed("flush", dir, e))?;
        let mut tree = lock(&self.0.tree);
        let changes = std::mem::take(&mut tree.changes);
        changes.iter().for_each(|change| change.apply(&mut tree.durable));
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> Result<()> {
        self.begin(|f| f.writes).map(drop).map_err(|e| failed("mkdir", dir, e))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.begin(|f| f.reads).map_err(|e| failed("list", dir, e))?;
        let tree = lock(&self.0.tree);
        let inside = tree.names.keys().filter(|name| name.parent() == Some(dir));
        Ok(inside.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let faults = self.begin(|f| f.reads).map_err(|e| failed("statfs", dir, e))?;
        Ok(faults.capacity.saturating_sub(self.used()))
    }

    fn boot(&self) -> u64 {
        self.0.boot.load(Ordering::Relaxed)
    }
}
