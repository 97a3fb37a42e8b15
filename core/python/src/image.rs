//! `obdcore.Image`: a stack of layers as a block device.

use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob, ProvenBlob};
use overlaybd::device::{BlockDevice, ExtentKind};
use overlaybd::engine;
use overlaybd::image::{open_stored, Aging, Image, NewUpper};
use overlaybd::merkle::Tree;
use overlaybd::sys::os::OsDisk;
use overlaybd::trace;
use overlaybd::{Error, Kind};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::to_py;
use crate::lsmt::disk;
use crate::observe;
use crate::snapshot::Configuration;
use crate::turbo::{Lower, LowerSource, Upper};

/// An open image. Front ends keep it alive after `close`, until they have ended.
#[pyclass(name = "Image", module = "obdcore", frozen)]
pub struct PyImage {
    inner: parking_lot::RwLock<Option<Open>>,
}

/// An image, and who flushes it unasked.
struct Open {
    image: Arc<Image>,
    /// Kept for as long as the image is open.
    aging: Option<Aging>,
}

impl Drop for PyImage {
    fn drop(&mut self) {
        // A flush under way is waited for, which must not keep the interpreter, and all other images with it.
        if let Some(open) = self.inner.get_mut().take() {
            Python::attach(|py| py.detach(|| drop(open)));
        }
    }
}

impl Open {
    fn new(image: Image) -> Open {
        let image = Arc::new(image);
        Open { aging: Aging::watch(&image), image }
    }
}

/// A blob that can be opened without Python.
#[derive(Clone)]
pub enum Source {
    Path(PathBuf),
    Proven(PathBuf, Arc<Tree>),
    Blob(Arc<dyn Blob>),
}

impl Source {
    /// Its bytes. `kind` is how a file is read.
    pub fn open(&self, kind: engine::Kind) -> overlaybd::Result<Arc<dyn Blob>> {
        match self {
            Source::Blob(blob) => Ok(Arc::clone(blob)),
            Source::Path(path) => Ok(Arc::new(FileBlob::open_with(&OsDisk, path, kind)?)),
            Source::Proven(path, tree) => {
                let file = Arc::new(FileBlob::open_with(&OsDisk, path, kind)?);
                Ok(Arc::new(ProvenBlob::new(file, Arc::clone(tree))?))
            }
        }
    }
}

impl PyImage {
    /// The device, unless the image has been closed.
    pub fn device(&self) -> PyResult<Arc<Image>> {
        let closed = || to_py(Error::new(Kind::Invalid, "the image is closed"));
        self.inner.read().as_ref().map(|open| Arc::clone(&open.image)).ok_or_else(closed)
    }
}

#[pymethods]
impl PyImage {
    #[new]
    #[pyo3(signature = (lowers, upper = None, *, engine = None, scratch = false))]
    fn new(
        py: Python<'_>,
        lowers: Vec<Lower<'_>>,
        upper: Option<Upper>,
        engine: Option<u32>,
        scratch: bool,
    ) -> PyResult<Self> {
        let no_engine = |number| to_py(Error::new(Kind::Invalid, format!("there is no I/O engine {number}")));
        let kind = engine.map_or(Ok(engine::Kind::default()), |number| {
            engine::Kind::from_number(number).ok_or_else(|| no_engine(number))
        })?;
        let sources: Vec<LowerSource> = lowers.into_iter().map(LowerSource::from).collect();
        py.detach(|| {
            let lowers = sources.iter().map(|source| source.open(kind)).collect::<overlaybd::Result<_>>()?;
            open_stored(disk(scratch), lowers, upper.as_ref().map(Upper::open).transpose()?)
        })
        .map(|image| PyImage { inner: parking_lot::RwLock::new(Some(Open::new(image))) })
        .map_err(to_py)
    }

    #[getter]
    fn size(&self) -> PyResult<u64> {
        Ok(self.device()?.size())
    }

    #[getter]
    fn read_only(&self) -> PyResult<bool> {
        Ok(self.device()?.read_only())
    }

    fn read_at<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        let image = self.device()?;
        if offset.checked_add(length as u64).is_none_or(|end| end > image.size()) {
            let what = format!("{length} bytes asked beyond the end of the device at {}", image.size());
            return Err(to_py(Error::new(Kind::OutOfBounds, what).at(offset)));
        }
        PyBytes::new_with(py, length, |buf| py.detach(|| image.read_at(buf, offset)).map_err(to_py))
    }

    fn write_at(&self, py: Python<'_>, offset: u64, data: &[u8]) -> PyResult<()> {
        let image = self.device()?;
        py.detach(|| image.write_at(data, offset)).map_err(to_py)
    }

    fn discard(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<()> {
        let image = self.device()?;
        py.detach(|| image.discard(offset, length)).map_err(to_py)
    }

    fn map_remote(&self, py: Python<'_>, offset: u64, length: u64, target_offset: u64) -> PyResult<()> {
        let image = self.device()?;
        py.detach(|| image.map_remote(offset, length, target_offset)).map_err(to_py)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let image = self.device()?;
        py.detach(|| image.flush()).map_err(to_py)
    }

    fn extents(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<Vec<(u64, &'static str)>> {
        let image = self.device()?;
        let runs = py.detach(|| image.extents(offset, length, usize::MAX)).map_err(to_py)?;
        let name = |kind| match kind {
            ExtentKind::Data => "data",
            ExtentKind::Hole => "hole",
            ExtentKind::Zero => "zero",
        };
        Ok(runs.into_iter().map(|run| (run.len, name(run.kind))).collect())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let image = self.device()?;
        let dict = PyDict::new(py);
        for (name, value) in image.statistics().snapshot() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    #[pyo3(signature = (data, index, *, sparse = false, announce = None, publish = None))]
    fn snapshot<'py>(
        &self,
        py: Python<'py>,
        data: PathBuf,
        index: PathBuf,
        sparse: bool,
        announce: Option<Py<PyAny>>,
        publish: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let image = self.device()?;
        let publish = Box::new(Configuration { announce, publish });
        let new = NewUpper { data: &data, index: &index, sparse };
        let taken = py.detach(|| image.snapshot(&OsDisk, &new, publish)).map_err(to_py)?;
        let dict = PyDict::new(py);
        dict.set_item("pause_s", taken.pause.as_secs_f64())?;
        dict.set_item("segments", taken.segments)?;
        Ok(dict)
    }

    #[getter]
    fn snapshot_unfinished(&self) -> PyResult<bool> {
        Ok(self.device()?.is_unfinished())
    }

    fn resize(&self, py: Python<'_>, size: u64) -> PyResult<()> {
        let image = self.device()?;
        py.detach(|| image.resize(size)).map_err(to_py)
    }

    fn start_recording(&self) -> PyResult<()> {
        self.device()?.recorder().start().map_err(to_py)
    }

    fn stop_recording<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let image = self.device()?;
        let file = py.detach(|| image.recorder().stop().map(|records| trace::encode(&records))).map_err(to_py)?;
        Ok(PyBytes::new(py, &file))
    }

    fn recorded<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let image = self.device()?;
        let (file, truncated) = py.detach(|| {
            let (records, truncated) = image.recorder().so_far();
            (trace::encode(&records), truncated)
        });
        Ok((PyBytes::new(py, &file), truncated))
    }

    #[getter]
    fn recording(&self) -> PyResult<bool> {
        Ok(self.device()?.recorder().is_recording())
    }

    fn latency<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        observe::latency(py, self.device()?.latency())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(Open { image, aging }) = self.inner.write().take() else { return Ok(()) };
        // What is last of the image goes in there, too: its layers note in the cache what was used.
        py.detach(move || {
            drop(aging);
            if image.read_only() {
                Ok(())
            } else {
                image.flush()
            }
        })
        .map_err(to_py)
    }
}

/// What the engines that read local layers had to say since the last call.
#[pyfunction]
fn engine_notices() -> Vec<String> {
    engine::notices()
}

/// Adds class and function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(engine_notices, module)?)?;
    module.add_class::<PyImage>()
}
