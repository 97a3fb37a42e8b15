//! Blobs of a registry for Python: `HttpClient`, `ChunkCache`, `RemoteBlob`, and the object that locates a blob.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use overlaybd::blob::{check_range, Blob};
use overlaybd::cache::{self, CachedBlob};
use overlaybd::fetch::{self, Client, ClientOptions, FetchStats, Headers, Http, Locate, Source};
use overlaybd::sys::os::{OsClock, OsDisk};
use overlaybd::{Error, Kind};

use crate::errors::to_py;

/// The client of everyone who brings none: one pool of connections for the process.
static DEFAULT_CLIENT: LazyLock<Arc<Client>> = LazyLock::new(|| Arc::new(Client::new(ClientOptions::default())));

/// A connection pool with its TLS and identity settings.
#[pyclass(frozen, module = "obdcore")]
pub struct HttpClient(Arc<Client>);

#[pymethods]
impl HttpClient {
    #[new]
    #[pyo3(signature = (*, user_agent = "", ca_file = None, insecure = false))]
    fn new(user_agent: &str, ca_file: Option<PathBuf>, insecure: bool) -> Self {
        let options = ClientOptions { user_agent: user_agent.to_owned(), ca_file, insecure };
        HttpClient(Arc::new(Client::new(options)))
    }
}

/// A Python object with the methods of `obdcore.Locator`.
struct PyLocator(Py<PyAny>);

impl Locate for PyLocator {
    fn locate(&self) -> overlaybd::Result<(String, Headers)> {
        Python::attach(|py| {
            let call = || self.0.bind(py).call_method0("locate")?.extract();
            call().map_err(|e| explain(py, &e))
        })
    }

    fn refused(
        &self,
        status: u16,
        headers: &[(String, String)],
        url: &str,
        sent: &[(String, String)],
    ) -> overlaybd::Result<bool> {
        Python::attach(|py| {
            let call = || {
                let args = (status, headers.to_vec(), url, sent.to_vec());
                self.0.bind(py).call_method1("refused", args)?.extract()
            };
            call().map_err(|e| explain(py, &e))
        })
    }
}

/// A Python exception as a core error. Its kind decides whether the core tries again: that of the
/// exception where it has one, else what passes (`Io`) for any `OSError`, and what does not for the rest.
fn explain(py: Python<'_>, e: &PyErr) -> Error {
    let named = e.value(py).getattr("kind").and_then(|kind| kind.extract::<String>());
    let kind = named.ok().and_then(|name| Kind::from_name(&name)).unwrap_or_else(|| {
        if e.is_instance_of::<PyOSError>(py) {
            Kind::Io
        } else if e.is_instance_of::<PyKeyboardInterrupt>(py) {
            Kind::Interrupted
        } else {
            Kind::Invalid
        }
    });
    Error::new(kind, "locating the blob").because(e.value(py).to_string())
}

/// Lines for the log that are kept until somebody asks for them.
const MAX_NOTICES: usize = 64;

/// A cache directory.
#[pyclass(frozen, module = "obdcore")]
pub struct ChunkCache {
    cache: Arc<cache::ChunkCache>,
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

/// A registry blob; other parts of the binding take the blob out of it.
#[pyclass(frozen, module = "obdcore")]
pub struct RemoteBlob {
    blob: Arc<dyn Blob>,
    fetch: Arc<FetchStats>,
}

impl RemoteBlob {
    /// The blob itself, to build an image on.
    pub fn blob(&self) -> Arc<dyn Blob> {
        Arc::clone(&self.blob)
    }
}

#[pymethods]
impl RemoteBlob {
    #[new]
    #[pyo3(signature = (name, digest, locator, *, size = 0, cache = None, client = None))]
    fn new(
        py: Python<'_>,
        name: &str,
        digest: &str,
        locator: Py<PyAny>,
        size: u64,
        cache: Option<&ChunkCache>,
        client: Option<&HttpClient>,
    ) -> PyResult<Self> {
        let http: Arc<dyn Http> = match client {
            Some(client) => Arc::clone(&client.0) as _,
            None => Arc::clone(&DEFAULT_CLIENT) as _,
        };
        let fetch = Arc::new(FetchStats::default());
        let clock = Arc::new(OsClock::default());
        let source = Source::new(name, http, Arc::new(PyLocator(locator)), clock, Arc::clone(&fetch));
        let len = (size > 0).then_some(size);
        let open = || -> overlaybd::Result<Arc<dyn Blob>> {
            match cache {
                Some(cache) => CachedBlob::open(&cache.cache, digest, source, len),
                None => Ok(Arc::new(fetch::RemoteBlob::open(source, len)?)),
            }
        };
        let blob = py.detach(open).map_err(to_py)?;
        Ok(RemoteBlob { blob, fetch })
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
        py.detach(|| self.blob.read_at(bytes, offset)).map_err(to_py)?;
        Ok(n)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("requests", self.fetch.requests.load(Relaxed))?;
        dict.set_item("failures", self.fetch.failures.load(Relaxed))?;
        dict.set_item("fetched_bytes", self.fetch.bytes.load(Relaxed))?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        format!("RemoteBlob({:?})", self.blob.name())
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HttpClient>()?;
    module.add_class::<ChunkCache>()?;
    module.add_class::<RemoteBlob>()
}
