//! `obdcore.RemoteBlob`: a blob of a registry, read by ranges, through a cache or not.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use overlaybd::blob::{check_range, Blob, FileBlob, MemoryBlob, ProvenBlob, SparingBlob, SwitchBlob};
use overlaybd::cache::{CachedBlob, Opened};
use overlaybd::fetch::{self, FetchStats, Outage, Source};
use overlaybd::merkle::Tree;
use overlaybd::sys::os::{OsClock, OsDisk};
use overlaybd::{Error, Kind};

use crate::cache::ChunkCache;
use crate::client::{HttpClient, PyLocator};
use crate::errors::to_py;
use crate::merkle::MerkleTree;

/// A registry blob; other parts of the binding take the blob out of it.
#[pyclass(frozen, module = "obdcore")]
pub struct RemoteBlob {
    blob: Arc<SwitchBlob>,
    /// What it is read through as long as it is not switched, if that is a cache.
    cached: Option<Arc<CachedBlob>>,
    fetch: Arc<FetchStats>,
    outage: Arc<Outage>,
    tree: Option<Arc<Tree>>,
    sparing: AtomicBool,
}

impl Drop for RemoteBlob {
    fn drop(&mut self) {
        // The last user of a cached blob writes down what was used: nothing to keep the interpreter for.
        let nothing = Arc::new(SwitchBlob::new(Arc::new(MemoryBlob::new("", Vec::new()))));
        let last = (std::mem::replace(&mut self.blob, nothing), self.cached.take());
        Python::attach(|py| py.detach(|| drop(last)));
    }
}

impl RemoteBlob {
    /// The blob itself, to build an image on.
    pub fn blob(&self) -> Arc<dyn Blob> {
        let blob = Arc::clone(&self.blob) as _;
        match self.sparing.load(Relaxed) {
            true => Arc::new(SparingBlob::new(blob)),
            false => blob,
        }
    }

    /// Fills a buffer from `offset` on, as far as the blob reaches, by one of the blob's ways of reading.
    fn read_into(
        &self,
        py: Python<'_>,
        buffer: &PyBuffer<u8>,
        offset: u64,
        read: impl Fn(&SwitchBlob, &mut [u8]) -> overlaybd::Result<()> + Sync,
    ) -> PyResult<usize> {
        if buffer.readonly() || !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("a writable contiguous buffer is needed"));
        }
        let n = self.blob.len().saturating_sub(offset).min(buffer.len_bytes() as u64) as usize;
        if n == 0 {
            return Ok(0); // the pointer of an empty buffer may be null
        }
        // SAFETY: the exporter keeps this memory in place and alive while `buffer` exists, it is writable, contiguous
        // and at least `n` bytes long. That nobody else touches it meanwhile is, as with every `readinto`, the
        // caller's duty.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), n) };
        py.detach(|| read(&self.blob, bytes)).map_err(to_py)?;
        Ok(n)
    }
}

#[pymethods]
impl RemoteBlob {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    #[pyo3(signature = (name, digest, locator, *, size = 0, cache = None, client = None, media = None, tree = None))]
    fn new(
        py: Python<'_>,
        name: &str,
        digest: &str,
        locator: Py<PyAny>,
        size: u64,
        cache: Option<&ChunkCache>,
        client: Option<&HttpClient>,
        media: Option<PathBuf>,
        tree: Option<&MerkleTree>,
    ) -> PyResult<Self> {
        let tree = tree.map(|tree| Arc::clone(&tree.tree));
        let http = HttpClient::of(client);
        let fetch = Arc::new(FetchStats::default());
        let clock = Arc::new(OsClock::default());
        let source = Source::new(name, http, Arc::new(PyLocator::new(locator)), clock, Arc::clone(&fetch));
        let source = source.with_tree(tree.clone());
        let outage = Arc::clone(source.outage());
        let len = (size > 0).then_some(size);
        let open = || match (cache, media) {
            (Some(cache), None) => CachedBlob::open(&cache.cache, digest, source, len),
            (Some(cache), Some(media)) => CachedBlob::open_in_layer(&cache.cache, &media, digest, source, len),
            (None, _) => fetch::RemoteBlob::open(source, len).map(|blob| Opened { blob: Arc::new(blob), cached: None }),
        };
        let Opened { blob, cached } = py.detach(open).map_err(to_py)?;
        Ok(RemoteBlob { blob: Arc::new(SwitchBlob::new(blob)), cached, fetch, outage, tree, sparing: false.into() })
    }

    #[getter]
    fn size(&self) -> u64 {
        self.blob.len()
    }

    fn read_at<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        // Before the buffer: its size must not be whatever a caller miscalculated.
        check_range(&*self.blob, offset, length).map_err(to_py)?;
        PyBytes::new_with(py, length, |buf| py.detach(|| self.blob.read_at(buf, offset)).map_err(to_py))
    }

    fn readinto_at(&self, py: Python<'_>, buffer: PyBuffer<u8>, offset: u64) -> PyResult<usize> {
        self.read_into(py, &buffer, offset, |blob, bytes| blob.read_at(bytes, offset))
    }

    fn copy_into(&self, py: Python<'_>, buffer: PyBuffer<u8>, offset: u64) -> PyResult<usize> {
        self.read_into(py, &buffer, offset, |blob, bytes| blob.copy_at(bytes, offset))
    }

    fn spare(&self) {
        self.sparing.store(true, Relaxed);
    }

    fn endure(&self, seconds: f64) -> PyResult<()> {
        let limit = Duration::try_from_secs_f64(seconds).map_err(|e| PyValueError::new_err(e.to_string()))?;
        self.outage.endure(limit);
        Ok(())
    }

    fn distrust(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<bool> {
        py.detach(|| self.blob.remote().distrust(offset, length)).map_err(to_py)
    }

    fn switch_to(&self, py: Python<'_>, path: PathBuf, on_failure: Py<PyAny>) -> PyResult<()> {
        let hear = move |error: &overlaybd::Error| {
            let line = error.to_string();
            // None while the interpreter ends: nobody is left to hear.
            Python::try_attach(|py| {
                if let Err(e) = on_failure.call1(py, (&line,)) {
                    e.write_unraisable(py, Some(on_failure.bind(py)));
                }
            });
        };
        let switch = || {
            let file: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &path)?);
            let file = match &self.tree {
                Some(tree) => Arc::new(ProvenBlob::new(file, Arc::clone(tree))?),
                None => file,
            };
            self.blob.switch_to(file, Box::new(hear))
        };
        py.detach(switch).map_err(to_py)
    }

    #[getter]
    fn local(&self) -> Option<&str> {
        self.blob.local().map(|blob| blob.name())
    }

    fn missing(&self, py: Python<'_>, offset: u64, length: u64) -> Vec<(u64, u64)> {
        match &self.cached {
            Some(cached) => py.detach(|| cached.missing(offset, length)),
            None => {
                let length = length.min(self.blob.len().saturating_sub(offset));
                if length > 0 {
                    vec![(offset, length)]
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn fill(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<()> {
        match &self.cached {
            Some(cached) => py.detach(|| cached.fill(offset, length)).map_err(to_py),
            None => {
                let e = Error::new(Kind::Unsupported, "it is read uncached: there is nothing to fill");
                Err(to_py(e.in_file(self.blob.name())))
            }
        }
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("requests", self.fetch.requests.load(Relaxed))?;
        dict.set_item("failures", self.fetch.failures.load(Relaxed))?;
        dict.set_item("fetched_bytes", self.fetch.bytes.load(Relaxed))?;
        dict.set_item("mismatches", self.fetch.mismatches.load(Relaxed))?;
        dict.set_item("statuses", self.fetch.statuses.lock().clone())?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("RemoteBlob({:?})", self.blob.name())
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RemoteBlob>()
}
