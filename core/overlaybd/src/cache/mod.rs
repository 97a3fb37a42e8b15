//! Chunk cache on disk: keeps what was fetched, fetches what is missing once, stays within its room.
//!
//! One sparse media file per blob, one side file (the map) that says which chunks of it are there and
//! what their checksums are. A chunk is read from the media without checks once it has been checked in
//! this run; a chunk that the map has from an earlier run is checked when it is first wanted. So a crash,
//! a lost file or a flipped bit costs a fetch, never a wrong byte.

mod ahead;
mod blob;
mod buffers;
mod care;
mod evict;
mod fill;
mod flight;
mod import;
mod late;
mod map;
mod media;
mod open;
mod origin;
mod pool;
mod proven;
mod room;
mod sequence;
mod space;
mod store;
mod strikes;
#[cfg(test)]
mod tests;
mod writer;

pub use blob::{CachedBlob, Opened};
pub use care::{Check, Entry};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use crate::sync::Mutex;

use crate::error::{Error, Kind, Result};
use crate::limits::{CACHE_CHUNK_BYTES, READAHEAD_THREADS};
use crate::serve::pool::Pool as Threads;
use crate::sys::{Clock, Disk, File, Mode};
use buffers::Buffers;
use open::Cell;
use pool::Pool;
use space::Space;
use store::Store;
use writer::Writer;

/// What a cache is to be like.
#[derive(Clone)]
pub struct Options {
    /// Where media and maps lie; created if missing. Empty: nowhere, only blobs in layer directories are kept.
    pub directory: PathBuf,
    /// Bytes on disk that the directory may take.
    pub capacity_bytes: u64,
    /// Unit of fetching and keeping: a power of two in [`CACHE_CHUNK_BYTES`]. Blobs that are there with
    /// another size keep it.
    pub chunk_bytes: u32,
    /// Keeps everything in one preallocated file of `capacity_bytes`, in lines of this many bytes (a power of two
    /// in [`CACHE_CHUNK_BYTES`]); chunks are fetched in groups of `chunk_bytes` then. None: a file for each blob.
    pub pool_line_bytes: Option<u32>,
    /// Bytes that must stay free on the file system.
    pub min_free_bytes: u64,
    /// Bytes that may wait in memory to be written; 0 writes them before the fetching read returns.
    pub write_behind_bytes: usize,
    /// Whether to fetch in advance what sequential readers will want.
    pub readahead: bool,
    /// Called with a line for the log when the cache cannot do its work.
    pub notice: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// The usual settings for a directory: chunks of 256 KiB, 1 GiB left free, 64 MiB written behind.
    pub fn new(directory: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        Options {
            directory: directory.into(),
            capacity_bytes,
            chunk_bytes: 256 << 10,
            pool_line_bytes: None,
            min_free_bytes: 1 << 30,
            write_behind_bytes: 64 << 20,
            readahead: true,
            notice: Arc::new(|_| {}),
        }
    }
}

/// Counters of one cache.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Reads answered from the media alone.
    pub hits: AtomicU64,
    /// Reads that had to wait for a fetch, their own or another's.
    pub misses: AtomicU64,
    /// Fetches, each one GET if all went well.
    pub fetches: AtomicU64,
    /// Bytes that these brought.
    pub fetched_bytes: AtomicU64,
    /// Chunks found wrong, by checksum or by a reader, and dropped.
    pub repairs: AtomicU64,
    /// Runs of chunks found in the media that did not match the tree of their blob, and were dropped.
    pub mismatches: AtomicU64,
    /// Chunks dropped to make room.
    pub evictions: AtomicU64,
    /// Fetches whose bytes were served but could not be kept.
    pub uncached: AtomicU64,
    /// Of the bytes fetched, those that nobody waited for: by readahead and from traces.
    pub ahead_bytes: AtomicU64,
    /// Of these, those that somebody wanted later.
    pub ahead_used_bytes: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What all blobs of a cache share.
struct Shared {
    options: Options,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    stats: CacheStats,
    space: Space,
    buffers: Buffers,
    /// Where all of them lie, if not in files of their own.
    pool: Option<Arc<Pool>>,
    /// Blobs that are open in this process, by digest, or by path if in a layer directory.
    stores: Mutex<BTreeMap<String, Cell>>,
}

/// A cache directory. Shared by all blobs of the process, and safe beside other processes.
pub struct ChunkCache {
    shared: Arc<Shared>,
    writer: Writer,
    ids: AtomicUsize,
    /// Fetches for sequential readers. None waits in a queue: whoever waited for it would wait longer.
    ahead: Threads,
}

impl ChunkCache {
    /// Opens the directory. What it holds is looked at later, when somebody has to know.
    ///
    /// Errors: `Invalid` for settings that make no sense; those of the disk.
    pub fn open(options: Options, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        for chunk in [Some(options.chunk_bytes), options.pool_line_bytes].into_iter().flatten() {
            if !chunk.is_power_of_two() || !CACHE_CHUNK_BYTES.contains(&chunk) {
                let what = format!("chunk size {chunk}: must be a power of two in {CACHE_CHUNK_BYTES:?}");
                return Err(Error::new(Kind::Invalid, what));
            }
        }
        if !options.directory.as_os_str().is_empty() {
            disk.create_dir(&options.directory)?;
        }
        let (space, buffers) = (Space::default(), Buffers::default());
        let (mut options, mut pool) = (options, None);
        if let Some(line) = options.pool_line_bytes {
            match Pool::open(&*disk, &options.directory, options.capacity_bytes, line) {
                Ok((opened, newest)) => {
                    space.raise_tick(newest);
                    pool = Some(opened);
                }
                Err(e) => {
                    // A pool of another process, or a full disk, must not keep images from opening.
                    (options.notice)(&format!("cache {}: all is read uncached: {e}", options.directory.display()));
                    options.directory = PathBuf::new();
                }
            }
        }
        let write_behind = options.write_behind_bytes;
        let shared = Arc::new(Shared {
            options,
            disk,
            clock,
            stats: CacheStats::default(),
            space,
            buffers,
            pool,
            stores: Mutex::default(),
        });
        let writer = Writer::new(Arc::clone(&shared), write_behind);
        let ahead = Threads::new("obd-ahead", READAHEAD_THREADS, 1, |_| {});
        Ok(Arc::new(ChunkCache { shared, writer, ids: AtomicUsize::new(0), ahead }))
    }

    /// Counters since the start.
    pub fn stats(&self) -> &CacheStats {
        &self.shared.stats
    }

    /// Bytes that the directory takes on disk, as far as known.
    pub fn used_bytes(&self) -> u64 {
        if let Some(pool) = &self.shared.pool {
            return pool.used_bytes();
        }
        self.shared.look();
        self.shared.space.used()
    }

    /// Returns when everything that was fetched before has been written (or given up).
    pub fn flush(&self) {
        self.writer.flush();
    }
}

impl Shared {
    fn media_path(&self, digest: &str) -> PathBuf {
        self.options.directory.join(digest)
    }

    fn map_path(&self, digest: &str) -> PathBuf {
        self.options.directory.join(format!("{digest}.map"))
    }

    /// Opens a file for reading; None if there is none, which is not the same as one that cannot be opened just now.
    fn open_if_there(&self, path: &Path) -> Result<Option<Arc<dyn File>>> {
        match self.disk.open(path, Mode::Read) {
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn notice(&self, line: impl AsRef<str>) {
        (self.options.notice)(line.as_ref());
    }

    /// Whether it is a directory of files, one for each blob.
    fn is_plain(&self) -> bool {
        self.pool.is_none() && !self.options.directory.as_os_str().is_empty()
    }

    fn directory(&self) -> &Path {
        &self.options.directory
    }
}

/// Whether a name is a digest (`<algorithm>:<hex>`), and so may become the name of a file.
fn is_digest(name: &str) -> bool {
    let plain = |s: &str, extra: fn(u8) -> bool| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || extra(b));
    name.len() <= 200
        && name.split_once(':').is_some_and(|(algorithm, hex)| {
            plain(algorithm, |b| b.is_ascii_lowercase()) && plain(hex, |b| matches!(b, b'a'..=b'f'))
        })
}
