//! A cache in one file of fixed size, cut into lines: whose line lies where, which are free, which go first.
//!
//! Cached blobs stand on it as they stand on files of their own, with the line as their chunk. The file is allocated
//! once, so the cache takes neither more nor less of the disk, whatever happens.

mod index;
mod media;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::sync::Mutex;
use ring::digest::{digest, SHA256};

use super::map::Shape;
use super::open::set_lock;
use super::store::Home;
use super::Shared;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_CACHE_CHUNKS;
use crate::sys::{Disk, File, Mode};
use index::{Index, Key, Record};
pub(super) use media::PoolMedia;

/// Names of the two files.
const MEDIA: &str = "cache_media";
const INDEX: &str = "cache_media.map";
/// No blob: the line is free, or about to be written.
const NOBODY: u32 = 0;

/// The lines and their index. One process has it at a time.
pub(super) struct Pool {
    file: Arc<dyn File>,
    index: Index,
    /// Bytes of a line.
    pub line: u32,
    table: Mutex<Table>,
    /// Lines that are about to be written.
    promised: AtomicU64,
}

/// What a line holds: 16 bytes of memory each.
#[derive(Clone, Copy, Default)]
struct Line {
    blob: u32,
    /// Which line of the blob. Of [`NOBODY`]'s lines: whose it is to write and to give back, 0 if it is free.
    number: u32,
    crc: u32,
    tick: u32,
}

#[derive(Default)]
struct Table {
    lines: Vec<Line>,
    free: Vec<u32>,
    /// Blobs by key; a number stays with a key.
    numbers: HashMap<Key, u32>,
    /// The keys, and how often the blob is open: twice for a moment when it is closed and opened at once. Number 0
    /// is nobody's.
    blobs: Vec<(Key, u32)>,
    /// The last name given to an opening of a blob.
    openings: u32,
}

impl Table {
    fn number(&mut self, key: Key) -> u32 {
        *self.numbers.entry(key).or_insert_with(|| {
            self.blobs.push((key, 0));
            self.blobs.len() as u32 - 1
        })
    }
}

/// Names a blob of a shape: 16 bytes of a hash.
fn key_of(digest_text: &str, shape: Shape) -> Key {
    let text = [digest_text.as_bytes(), &shape.len.to_le_bytes()].concat();
    let hash = digest(&SHA256, &text);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.as_ref()[..16]);
    key
}

impl Pool {
    /// Opens the pool of a directory with what it holds, or makes one of `capacity` bytes in lines of `line` bytes.
    /// One that is there keeps its size and its lines.
    ///
    /// Errors: `Busy` if another process has it; `Limit`, `Invalid` for sizes that make no sense; those of the disk.
    pub fn open(disk: &dyn Disk, directory: &Path, capacity: u64, line: u32) -> Result<(Arc<Self>, u32)> {
        let index_file = disk.open(&directory.join(INDEX), Mode::Create)?;
        if !set_lock(&*index_file, true)? {
            return Err(Error::new(Kind::Busy, "another process uses it").in_file(index_file.path()));
        }
        let file = disk.open(&directory.join(MEDIA), Mode::Create)?;
        let (index, known) = match Index::probe(Arc::clone(&index_file)) {
            Some(index) => (index, true),
            None => (Index::create(index_file, line, lines_of(capacity, line)?)?, false),
        };
        let bytes = u64::from(index.line) * index.lines as u64;
        let fail = |e| Error::io("allocate", e).in_file(file.path());
        if file.len().map_err(fail)? != bytes {
            // What a file that was cut short has lost shows by the checksums.
            file.set_len(bytes).map_err(fail)?;
        }
        if file.allocated_bytes().map_err(fail)? < bytes {
            file.allocate(bytes).map_err(fail)?;
        }
        let mut table = Table { lines: vec![Line::default(); index.lines], ..Table::default() };
        table.blobs.push((Key::default(), 0));
        let (mut newest, mut taken) = (0, HashMap::new());
        if known {
            index.load(&mut |slot, record| {
                // A line that two slots claim was about to move when a crash came.
                if taken.insert((record.key, record.number), slot).is_none() {
                    let Record { key, number, crc, tick } = record;
                    newest = newest.max(tick);
                    table.lines[slot] = Line { blob: table.number(key), number, crc, tick };
                }
            })?;
        }
        table.free = (0..index.lines as u32).rev().filter(|&slot| table.lines[slot as usize].blob == NOBODY).collect();
        let line = index.line;
        let pool = Pool { file, index, line, table: Mutex::new(table), promised: AtomicU64::new(0) };
        Ok((Arc::new(pool), newest))
    }

    /// Bytes of lines that hold something.
    pub fn used_bytes(&self) -> u64 {
        let table = self.table.lock();
        (table.lines.len() - table.free.len()) as u64 * u64::from(self.line)
    }

    fn lines_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.line))
    }

    /// Gives a line back.
    fn release(&self, table: &mut Table, slot: u32) -> Result<()> {
        let line = std::mem::take(&mut table.lines[slot as usize]);
        if line.blob != NOBODY {
            self.index.erase(slot as usize)?;
        }
        table.free.push(slot);
        Ok(())
    }

    /// Last uses of the lines whose blobs nobody has open.
    fn ages(&self, ages: &mut Vec<(u32, u64)>) {
        let table = self.table.lock();
        let idle = table.lines.iter().filter(|line| line.blob != NOBODY && table.blobs[line.blob as usize].1 == 0);
        ages.extend(idle.map(|line| (line.tick, u64::from(self.line))));
    }

    /// Frees lines of blobs that nobody has open, last used at `cut` or before; how many bytes.
    fn take_idle(&self, cut: u32, amount: u64) -> Result<u64> {
        let mut table = self.table.lock();
        let mut taken = 0;
        for slot in 0..table.lines.len() {
            let line = table.lines[slot];
            if taken < amount && line.blob != NOBODY && table.blobs[line.blob as usize].1 == 0 && line.tick <= cut {
                self.release(&mut table, slot as u32)?;
                taken += u64::from(self.line);
            }
        }
        Ok(taken)
    }
}

/// How many lines of `line` bytes the capacity has.
fn lines_of(capacity: u64, line: u32) -> Result<usize> {
    let lines = capacity / u64::from(line);
    if lines == 0 || lines > MAX_CACHE_CHUNKS {
        let what = format!("{capacity} bytes in lines of {line}: 1 to {MAX_CACHE_CHUNKS} lines are possible");
        return Err(Error::new(Kind::Limit, what));
    }
    Ok(lines as usize)
}

impl Shared {
    /// Promises lines for `bytes`, freed by eviction if need be: oldest last use first.
    pub fn promise_lines(&self, pool: &Arc<Pool>, bytes: u64) -> Result<bool> {
        let _making = self.space.making.lock();
        let wanted = pool.lines_for(bytes) + pool.promised.load(Ordering::Relaxed);
        let (free, all) = {
            let table = pool.table.lock();
            (table.free.len() as u64, table.lines.len() as u64)
        };
        if free < wanted {
            // Some more, so as not to do this for each fetch.
            let amount = (wanted - free + all / 16) * u64::from(pool.line);
            let mut ages = Vec::new();
            pool.ages(&mut ages);
            let mut stores = self.open_stores();
            stores.retain(|store| matches!(store.home, Home::Pool(_)));
            for store in &stores {
                store.ages(|tick, bytes| ages.push((tick, bytes)));
            }
            let Some(cut) = super::evict::cut(ages, amount) else { return Ok(false) };
            let mut taken = pool.take_idle(cut, amount)?;
            for store in &stores {
                if taken < amount {
                    taken += store.take_away(cut, amount - taken, super::evict::BATCH)?.0;
                }
            }
            if (pool.table.lock().free.len() as u64) < wanted {
                return Ok(false);
            }
        }
        pool.promised.fetch_add(pool.lines_for(bytes), Ordering::Relaxed);
        Ok(true)
    }

    /// Takes back a promise, whose lines have been taken by now if they were needed.
    pub fn settle_lines(&self, pool: &Pool, bytes: u64) {
        pool.promised.fetch_sub(pool.lines_for(bytes), Ordering::Relaxed);
    }
}
