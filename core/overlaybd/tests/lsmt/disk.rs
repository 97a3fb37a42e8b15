//! A disk in memory whose power can fail: what was not flushed survives in parts, page by page.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use overlaybd::sys::{Disk, File, Mode};
use overlaybd::{Error, Kind, Result};

/// Bytes that are written back at a time, and the unit of holes.
const PAGE: u64 = 4096;

type Page = Box<[u8]>;

/// A generator of numbers that look random (xorshift).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// What a file holds: pages that exist, and the length.
#[derive(Clone, Debug, Default)]
struct State {
    pages: BTreeMap<u64, Page>,
    len: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Hole(u64, u64),
}

impl State {
    /// Carries out a change, as far as `on` lets it touch pages and the length.
    fn apply(&mut self, change: &Change, on: impl Fn(Option<u64>) -> bool) {
        match change {
            Change::Write(at, bytes) => {
                let mut done = 0;
                while done < bytes.len() {
                    let (number, from) = ((at + done as u64) / PAGE, ((at + done as u64) % PAGE) as usize);
                    let n = (PAGE as usize - from).min(bytes.len() - done);
                    if on(Some(number)) {
                        let page = self.pages.entry(number).or_insert_with(|| vec![0; PAGE as usize].into());
                        page[from..from + n].copy_from_slice(&bytes[done..done + n]);
                    }
                    done += n;
                }
                if on(None) {
                    self.len = self.len.max(at + bytes.len() as u64);
                }
            }
            Change::Length(len) => {
                if on(None) {
                    self.len = *len;
                    self.cut();
                }
            }
            Change::Hole(at, len) => {
                let end = at + len;
                for number in at / PAGE..end.div_ceil(PAGE) {
                    if !on(Some(number)) {
                        continue;
                    }
                    let (from, to) = (at.saturating_sub(number * PAGE), (end - number * PAGE).min(PAGE));
                    if (from, to) == (0, PAGE) {
                        self.pages.remove(&number);
                    } else if let Some(page) = self.pages.get_mut(&number) {
                        page[from as usize..to as usize].fill(0);
                    }
                }
            }
        }
    }

    /// Drops what lies beyond the length.
    fn cut(&mut self) {
        drop(self.pages.split_off(&self.len.div_ceil(PAGE)));
        if let Some(page) = self.pages.get_mut(&(self.len / PAGE)) {
            page[(self.len % PAGE) as usize..].fill(0);
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    now: State,
    durable: State,
    pending: Vec<Change>,
}

impl Node {
    fn change(&mut self, change: Change) {
        self.now.apply(&change, |_| true);
        self.pending.push(change);
    }

    /// The state after a power failure. Each page has got some of the changes since the last flush, in
    /// their order; with `ordered`, a length that grew covers only bytes that arrived (as ext4 does it).
    fn crash(&mut self, random: &mut Random, ordered: bool) {
        let count = self.pending.len() as u64;
        let reached = random.below(count + 1);
        let mut arrived: HashMap<Option<u64>, u64> = HashMap::from([(None, reached)]);
        let old_len = self.durable.len;
        for number in self.now.pages.keys().chain(self.durable.pages.keys()) {
            let grown = ordered && (number + 1) * PAGE > old_len;
            let upto = if grown { reached } else { random.below(count + 1) };
            arrived.insert(Some(*number), upto);
        }
        for (number, change) in self.pending.drain(..).enumerate() {
            self.durable.apply(&change, |part| arrived.get(&part).is_some_and(|upto| (number as u64) < *upto));
        }
        self.durable.cut();
        self.now = self.durable.clone();
    }
}

/// The disk. Names are durable at once.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, Arc<Mutex<Node>>>>>,
    boots: Arc<AtomicU64>,
}

impl MemDisk {
    /// Flushes fail: the system goes on showing what it could not write, and takes it for written.
    pub fn lose_writes(&self) {
        self.files.lock().unwrap().values().for_each(|node| node.lock().unwrap().pending.clear());
    }

    /// The system starts anew; nothing has been lost.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::Relaxed);
    }

    /// Power fails, and comes back. Index files may have lost pages in their middle.
    pub fn crash(&self, random: &mut Random) {
        self.reboot();
        for (path, node) in &*self.files.lock().unwrap() {
            let ordered = path.extension().is_some_and(|e| e == "data");
            node.lock().unwrap().crash(random, ordered);
        }
    }

    /// Power fails, and comes back, when all has been written back but one page of this file.
    pub fn crash_without(&self, path: &Path, page: u64) {
        self.reboot();
        for (name, node) in &*self.files.lock().unwrap() {
            let mut guard = node.lock().unwrap();
            let node = &mut *guard;
            let left = node.durable.pages.get(&page).cloned().filter(|_| name == path && !node.pending.is_empty());
            node.pending.drain(..).for_each(|change| node.durable.apply(&change, |_| true));
            node.durable.pages.extend(left.map(|left| (page, left)));
            node.now = node.durable.clone();
        }
    }

    /// The content of a file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let file = self.open(path, Mode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        overlaybd::sys::read_exact(&*file, &mut bytes, 0).unwrap();
        bytes
    }

    /// Sets the content of a file; whole pages of zeros become holes.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let file = self.open(path, Mode::Create).unwrap();
        file.set_len(0).unwrap();
        for (number, page) in bytes.chunks(PAGE as usize).enumerate() {
            if page.iter().any(|b| *b != 0) {
                file.write_at(page, number as u64 * PAGE).unwrap();
            }
        }
        file.set_len(bytes.len() as u64).unwrap();
        file.sync_data().unwrap();
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: Mode) -> Result<Arc<dyn File>> {
        let mut files = self.files.lock().unwrap();
        let exists = files.contains_key(path);
        match mode {
            Mode::New if exists => return Err(Error::new(Kind::Exists, "open").in_file(path)),
            Mode::Read | Mode::Write if !exists => return Err(Error::new(Kind::NotFound, "open").in_file(path)),
            _ => {}
        }
        let node = files.entry(path.to_path_buf()).or_default().clone();
        Ok(Arc::new(MemFile { path: path.to_path_buf(), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = self.files.lock().unwrap();
        let node = files.remove(from).ok_or_else(|| Error::new(Kind::NotFound, "rename").in_file(from))?;
        files.insert(to.to_path_buf(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let gone = self.files.lock().unwrap().remove(path);
        gone.map(drop).ok_or_else(|| Error::new(Kind::NotFound, "remove").in_file(path))
    }

    fn sync_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn create_dir(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, _dir: &Path) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn free_bytes(&self, _dir: &Path) -> Result<u64> {
        Ok(u64::MAX)
    }

    fn boot(&self) -> u64 {
        1 + self.boots.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct MemFile {
    path: PathBuf,
    node: Arc<Mutex<Node>>,
}

impl File for MemFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let node = self.node.lock().unwrap();
        let n = node.now.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let (number, from) = ((offset + done as u64) / PAGE, ((offset + done as u64) % PAGE) as usize);
            let part = &mut buf[done..n.min(done + PAGE as usize - from)];
            match node.now.pages.get(&number) {
                Some(page) => part.copy_from_slice(&page[from..from + part.len()]),
                None => part.fill(0),
            }
            done += part.len();
        }
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.node.lock().unwrap().change(Change::Write(offset, buf.to_vec()));
        Ok(buf.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.lock().unwrap().now.len)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.node.lock().unwrap().now.pages.len() as u64 * PAGE)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.node.lock().unwrap().change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.node.lock().unwrap();
        let node = &mut *guard;
        node.pending.drain(..).for_each(|change| node.durable.apply(&change, |_| true));
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.node.lock().unwrap().change(Change::Hole(offset, len));
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let node = self.node.lock().unwrap();
        let page = node.now.pages.range(offset / PAGE..).next().map(|(number, _)| (number * PAGE).max(offset));
        Ok(page.filter(|at| *at < node.now.len))
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        let node = self.node.lock().unwrap();
        let mut number = offset / PAGE;
        while node.now.pages.contains_key(&number) {
            number += 1;
        }
        Ok((number * PAGE).max(offset).min(node.now.len))
    }

    fn try_lock(&self, _exclusive: bool) -> io::Result<bool> {
        Ok(true)
    }
}
