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
    #[pyo3(signature = (directory, capacity_bytes, chunk_bytes = 262_144, *, min_free_bytes = 1 << 30))]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        capacity_bytes: u64,
        chunk_bytes: u32,
        min_free_bytes: u64,
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
            ("evictions", &stats.evictions),
            ("uncached", &stats.uncached),
        ] {
            dict.set_item(name, counter.load(Relaxed))?;
        }
        dict.set_item("used_bytes", self.cache.used_bytes())?;
        Ok(dict)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ChunkCache>()
}
