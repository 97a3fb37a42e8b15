//! `TcmuDevice`: an image behind a SCSI target of the kernel.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use overlaybd::device::BlockDevice;
use overlaybd::serve::tcmu;
use overlaybd::{Error, Kind};

use crate::errors::to_py;
use crate::image::PyImage;
use crate::serve::report;

/// A served ring.
#[pyclass(frozen, module = "obdcore")]
pub struct TcmuDevice(tcmu::Server);

#[pymethods]
impl TcmuDevice {
    #[new]
    #[pyo3(signature = (image, uio_path, *, serial, name, block_bytes = 512, workers = 16, on_error = None))]
    // The parameters of the Python class.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        image: PyRef<'_, PyImage>,
        uio_path: PathBuf,
        serial: String,
        name: String,
        block_bytes: u32,
        workers: usize,
        on_error: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = tcmu::Options { block_bytes, serial, name, workers, report: report(on_error) };
        let device = image.device()? as Arc<dyn BlockDevice>;
        py.detach(|| tcmu::start(device, &uio_path, options)).map(TcmuDevice).map_err(to_py)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.0.stats().named().into_py_dict(py)
    }

    fn oldest(&self) -> Option<(f64, String)> {
        self.0.oldest().map(|(age, what)| (age.as_secs_f64(), what))
    }

    #[pyo3(signature = (drain_s = 0.0))]
    fn cease(&self, py: Python<'_>, drain_s: f64) -> PyResult<()> {
        let drain = time(drain_s)?;
        py.detach(|| self.0.cease(drain));
        Ok(())
    }

    #[pyo3(signature = (drain_s = 0.0))]
    fn stop(&self, py: Python<'_>, drain_s: f64) -> PyResult<bool> {
        let drain = time(drain_s)?;
        Ok(py.detach(|| self.0.stop(drain)))
    }
}

fn time(seconds: f64) -> PyResult<Duration> {
    let wrong = |_| to_py(Error::new(Kind::Invalid, format!("{seconds} is no time to wait")));
    Duration::try_from_secs_f64(seconds).map_err(wrong)
}

impl Drop for TcmuDevice {
    fn drop(&mut self) {
        // A request under way may need the interpreter to end.
        Python::attach(|py| py.detach(|| self.0.stop(Duration::ZERO)));
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TcmuDevice>()
}
