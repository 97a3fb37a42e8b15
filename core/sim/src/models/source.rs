//! What a cache in a model fetches from: it notes each fetch, and whether two bring the same at the same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlaybd::blob::Blob;
use overlaybd::cache::{CachedBlob, ChunkCache, Options};
use overlaybd::error::{Error, Kind, Result};
use overlaybd::sync::{point, sim};

use crate::disk::{ModelClock, ModelDisk};

/// Bytes of a chunk of the caches here.
pub const CHUNK: usize = 4096;
/// The key of the blob.
pub const KEY: &str = "sha256:0123456789abcdef";

/// A remote blob.
pub struct Remote {
    chunks: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: Vec<(u64, u64)>,
    begun: usize,
    /// How many of the first fetches fail, and bring wrong bytes.
    failing: usize,
    lying: usize,
}

impl Remote {
    /// One of so many chunks.
    pub fn new(chunks: usize) -> Arc<Self> {
        Remote::faulty(chunks, 0, 0)
    }

    /// One whose first fetches fail, and the next ones bring wrong bytes.
    pub fn faulty(chunks: usize, failing: usize, lying: usize) -> Arc<Self> {
        Arc::new(Remote { chunks, state: Mutex::new(State { failing, lying, ..State::default() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches so far.
    pub fn fetches(&self) -> usize {
        self.state().begun
    }

    /// What is right.
    pub fn right(offset: u64, len: usize) -> Vec<u8> {
        (offset..offset + len as u64).map(|at| (at / 512 + 1) as u8).collect()
    }

    /// Opens it through a cache of its own: `capacity` in bytes, as much of it written behind.
    pub fn cached(self: &Arc<Self>, capacity: u64, behind: usize) -> (Arc<ChunkCache>, Arc<CachedBlob>) {
        let options = Options {
            chunk_bytes: CHUNK as u32,
            min_free_bytes: 0,
            write_behind_bytes: behind,
            readahead: false,
            notice: Arc::new(|line| sim::note(|| format!("notice: {line}"))),
            ..Options::new("/cache", capacity)
        };
        let cache = ChunkCache::open(options, Arc::new(ModelDisk::default()), Arc::new(ModelClock)).expect("a cache");
        let blob = Arc::clone(self) as Arc<dyn Blob>;
        let opened = CachedBlob::over(&cache, KEY, blob).expect("a blob");
        (cache, opened.cached.expect("one that is cached"))
    }
}

impl Blob for Remote {
    fn name(&self) -> &str {
        "remote"
    }

    fn len(&self) -> u64 {
        (self.chunks * CHUNK) as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buf.len() as u64;
        let begun = {
            let mut state = self.state();
            let same = state.under_way.iter().any(|(from, to)| offset < *to && *from < end);
            assert!(!same, "{offset}..{end} is fetched twice at the same time");
            state.under_way.push((offset, end));
            state.begun += 1;
            state.begun
        };
        sim::note(|| format!("fetch {begun}: {offset}..{end}"));
        point();
        let mut state = self.state();
        state.under_way.retain(|range| *range != (offset, end));
        if begun <= state.failing {
            return Err(Error::new(Kind::Io, "the fetch fails"));
        }
        buf.copy_from_slice(&Remote::right(offset, buf.len()));
        if begun <= state.failing + state.lying {
            buf.fill(0xee);
        }
        Ok(())
    }
}

/// Reads a range and compares it with what is right.
pub fn check(blob: &dyn Blob, chunks: std::ops::Range<usize>) {
    let offset = (chunks.start * CHUNK) as u64;
    let mut bytes = vec![0xaa; chunks.len() * CHUNK];
    blob.read_at(&mut bytes, offset).unwrap_or_else(|e| panic!("reading chunks {chunks:?}: {e}"));
    assert!(bytes == Remote::right(offset, bytes.len()), "wrong bytes in chunks {chunks:?}");
}
