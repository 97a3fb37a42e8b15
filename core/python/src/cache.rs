//! `obdcore.ChunkCache`: the cache directory that remote blobs are read through.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use overlaybd::cache;
use overlaybd::sys::os::{OsClock, OsDisk};

use crate::errors::to_py;

/// Lines for the log that are kept until somebody asks for them.
const MAX_NOTICES: usize = 64;

/// A cache directory.
#[pyclass(frozen, module = "obdcore")]
pub struct ChunkCache {
    pub cache: Arc<cache::ChunkCache>,
    notices: Arc<Mutex<Vec<String>>>,
}

#[pymethods]
impl ChunkCache {
    #[new]
    #[pyo3(signature = (
        directory, capacity_bytes, chunk_bytes = 262_144, *, min_free_bytes = 1 << 30, pool_line_bytes = None,
        readahead = true
    ))]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        capacity_bytes: u64,
        chunk_bytes: u32,
        min_free_bytes: u64,
        pool_line_bytes: Option<u32>,
        readahead: bool,
    ) -> PyResult<Self> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&notices);
        // Not a call into Python: the cache may have to say something while its owner waits for it with the GIL held.
        let notice = move |line: &str| {
            let mut kept = kept.lock();
            if kept.len() < MAX_NOTICES {
                kept.push(line.to_owned());
            }
        };
        let options = cache::Options {
            chunk_bytes,
            min_free_bytes,
            pool_line_bytes,
            readahead,
            notice: Arc::new(notice),
            ..cache::Options::new(directory, capacity_bytes)
        };
        let open = || cache::ChunkCache::open(options, Arc::new(OsDisk), Arc::new(OsClock::default()));
        let cache = py.detach(open).map_err(to_py)?;
        Ok(ChunkCache { cache, notices })
    }

    fn flush(&self, py: Python<'_>) {
        py.detach(|| self.cache.flush());
    }

    fn notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.cache.stats();
        let dict = PyDict::new(py);
        for (name, counter) in [
            ("hits", &stats.hits),
            ("misses", &stats.misses),
            ("fetches", &stats.fetches),
            ("fetched_bytes", &stats.fetched_bytes),
            ("repairs", &stats.repairs),
            ("mismatches", &stats.mismatches),
            ("evictions", &stats.evictions),
            ("uncached", &stats.uncached),
            ("ahead_bytes", &stats.ahead_bytes),
            ("ahead_used_bytes", &stats.ahead_used_bytes),
        ] {
            dict.set_item(name, counter.load(Relaxed))?;
        }
        // The first time this looks at all files of the directory.
        dict.set_item("used_bytes", py.detach(|| self.cache.used_bytes()))?;
        Ok(dict)
    }

    fn entries<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let entries = py.detach(|| self.cache.entries()).map_err(to_py)?;
        let dict_of = |entry: cache::Entry| {
            let dict = PyDict::new(py);
            dict.set_item("digest", entry.digest)?;
            dict.set_item("size", entry.len)?;
            dict.set_item("chunk_bytes", entry.chunk_bytes)?;
            dict.set_item("chunks", entry.chunks)?;
            dict.set_item("present", entry.present)?;
            dict.set_item("bytes", entry.bytes)?;
            dict.set_item("tick", entry.tick)?;
            dict.set_item("pinned", entry.pinned)?;
            dict.set_item("in_use", entry.in_use)?;
            Ok(dict)
        };
        entries.into_iter().map(dict_of).collect()
    }

    #[pyo3(signature = (digest, *, repair = false))]
    fn check<'py>(&self, py: Python<'py>, digest: &str, repair: bool) -> PyResult<Bound<'py, PyDict>> {
        let found = py.detach(|| self.cache.check(digest, repair)).map_err(to_py)?;
        let dict = PyDict::new(py);
        dict.set_item("right", found.is_right())?;
        dict.set_item("checked", found.checked)?;
        dict.set_item("bad", found.bad)?;
        dict.set_item("digest_matches", found.digest_matches)?;
        dict.set_item("in_use", found.in_use)?;
        Ok(dict)
    }

    fn evict(&self, py: Python<'_>, digest: &str) -> PyResult<Option<u64>> {
        py.detach(|| self.cache.evict(digest)).map_err(to_py)
    }

    fn shrink(&self, py: Python<'_>, size: u64) -> PyResult<u64> {
        py.detach(|| self.cache.shrink(size)).map_err(to_py)
    }

    fn pin(&self, py: Python<'_>, digest: &str, pinned: bool) -> PyResult<bool> {
        py.detach(|| self.cache.pin(digest, pinned)).map_err(to_py)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ChunkCache>()
}
