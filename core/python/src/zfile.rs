//! Zfiles for Python: `ZFileReader`, `zfile_compress`, `zfile_decompress`, `zfile_detect`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sys::os::OsDisk;
use overlaybd::tar::{self, TarSink};
use overlaybd::zfile::{is_zfile, Algorithm, Builder, Info, Options, Reader};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::to_py;
use crate::{files, progress};

/// Opens a file and takes the tar off, if there is one.
fn unwrapped(path: &std::path::Path) -> overlaybd::Result<Arc<dyn Blob>> {
    tar::unwrap(Arc::new(FileBlob::open(&OsDisk, path)?))
}

/// A zfile open for random access.
#[pyclass(frozen, module = "obdcore")]
pub struct ZFileReader(Reader);

impl ZFileReader {
    /// How many of `wanted` bytes there are from `offset` on: a read across the end is cut, as that of a file.
    fn available(&self, offset: u64, wanted: usize) -> usize {
        self.0.len().saturating_sub(offset).min(wanted as u64) as usize
    }
}

#[pymethods]
impl ZFileReader {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Reader::open(unwrapped(&path)?)).map(ZFileReader).map_err(to_py)
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.len()
    }

    fn read_at<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        let n = self.available(offset, length);
        PyBytes::new_with(py, n, |bytes| py.detach(|| self.0.read_at(bytes, offset)).map_err(to_py))
    }

    fn readinto_at(&self, py: Python<'_>, buffer: PyBuffer<u8>, offset: u64) -> PyResult<usize> {
        if buffer.readonly() || !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("a writable contiguous buffer is needed"));
        }
        let n = self.available(offset, buffer.len_bytes());
        if n == 0 {
            return Ok(0); // the pointer of an empty buffer may be null
        }
        // SAFETY: the exporter keeps this memory in place and alive while `buffer` exists, it is writable,
        // contiguous and at least `n` bytes long. Nobody else may touch it meanwhile: as with every `readinto`,
        // that is the caller's duty.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), n) };
        py.detach(|| self.0.read_at(bytes, offset)).map_err(to_py)?;
        Ok(n)
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        describe(py, &self.0.info())
    }

    #[pyo3(signature = (progress = None))]
    fn verify(&self, py: Python<'_>, progress: Option<Py<PyAny>>) -> PyResult<()> {
        progress::run(py, progress, |progress| self.0.verify(progress))
    }
}

/// What `info()` returns.
fn describe<'py>(py: Python<'py>, info: &Info) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("algorithm", info.algorithm.name())?;
    dict.set_item("block_size", info.header.block_size)?;
    dict.set_item("checksum", info.header.checksum)?;
    dict.set_item("blocks", info.header.blocks)?;
    dict.set_item("original_size", info.header.original_size)?;
    dict.set_item("stored_size", info.stored_size)?;
    dict.set_item("index_offset", info.header.index_offset)?;
    dict.set_item("header_overwritten", info.first.is_overwritten())?;
    dict.set_item("header_digest", info.first.has_digest())?;
    dict.set_item("index_digest", info.header.has_digest())?;
    dict.set_item("header_flags", info.first.flags)?;
    dict.set_item("memory_bytes", info.memory_bytes)?;
    Ok(dict)
}

/// Whether the file, or the tar member in it, begins as a zfile does.
#[pyfunction]
fn zfile_detect(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    py.detach(|| is_zfile(&*unwrapped(&path)?)).map_err(to_py)
}

/// Where a layer goes: into the open file `fd`, in a tar if wanted.
fn sink_to(fd: RawFd, tar: bool) -> overlaybd::Result<Box<dyn Sink>> {
    let file = FileSink::new(files::output(fd)?);
    Ok(if tar { Box::new(TarSink::new(file)?) } else { Box::new(file) })
}

#[pyfunction]
#[pyo3(signature = (
    source, target, *, algorithm = "lz4", block_size = 4096, checksum = true, overwrite_header = false,
    tar = false, threads = 0, progress = None
))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
fn zfile_compress<'py>(
    py: Python<'py>,
    source: RawFd,
    target: RawFd,
    algorithm: &str,
    block_size: u32,
    checksum: bool,
    overwrite_header: bool,
    tar: bool,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let algorithm = Algorithm::from_name(algorithm).map_err(to_py)?;
    let options = Options { algorithm, block_size, checksum, overwrite_header, threads };
    let summary = progress::run(py, progress, |progress| {
        let mut builder = Builder::new(sink_to(target, tar)?, options)?;
        files::read_to_end(source, progress, |bytes| builder.write(bytes))?;
        builder.finish()?;
        Ok(builder.summary())
    })?;
    let dict = PyDict::new(py);
    dict.set_item("original_size", summary.original_size)?;
    dict.set_item("stored_size", summary.stored_size)?;
    dict.set_item("blocks", summary.blocks)?;
    Ok(dict)
}

#[pyfunction]
#[pyo3(signature = (path, target, *, progress = None))]
fn zfile_decompress(py: Python<'_>, path: PathBuf, target: RawFd, progress: Option<Py<PyAny>>) -> PyResult<u64> {
    progress::run(py, progress, |progress| {
        let reader = Reader::open(unwrapped(&path)?)?;
        let mut sink = FileSink::new(files::output(target)?);
        reader.for_each_piece(progress, |bytes| sink.write(bytes))?;
        Ok(reader.len())
    })
}

/// Adds the class and the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ZFileReader>()?;
    module.add_function(wrap_pyfunction!(zfile_detect, module)?)?;
    module.add_function(wrap_pyfunction!(zfile_compress, module)?)?;
    module.add_function(wrap_pyfunction!(zfile_decompress, module)?)
}
