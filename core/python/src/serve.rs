//! Front ends for Python: `NbdServer`, `FuseMount`, and the callback that hears of failed requests.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use overlaybd::device::BlockDevice;
use overlaybd::serve::{fuse, nbd, Report};

use crate::errors::to_py;
use crate::image::PyImage;

/// How often a long wait looks whether the user wants to stop it.
pub const SIGNALS: Duration = Duration::from_millis(200);

/// Names and devices, in the mapping's order.
fn devices(images: &Bound<'_, PyMapping>) -> PyResult<Vec<(String, Arc<dyn BlockDevice>)>> {
    let mut devices = Vec::new();
    for item in images.items()?.iter() {
        let (name, image): (String, PyRef<'_, PyImage>) = item.extract()?;
        devices.push((name, image.device()? as Arc<dyn BlockDevice>));
    }
    Ok(devices)
}

/// A Python callable as the hearer of failures. What it raises is reported as unraisable.
pub fn report(on_error: Option<Py<PyAny>>) -> Option<Report> {
    let call = on_error?;
    Some(Arc::new(move |image: &str, error: overlaybd::Error| {
        // None while the interpreter ends: nobody is left to hear.
        Python::try_attach(|py| {
            let error = to_py(error).into_value(py);
            if let Err(e) = call.call1(py, (image, error)) {
                e.write_unraisable(py, Some(call.bind(py)));
            }
        });
    }))
}

/// An NBD server.
#[pyclass(frozen, module = "obdcore")]
pub struct NbdServer(nbd::Server);

#[pymethods]
impl NbdServer {
    #[new]
    #[pyo3(signature = (exports, address, *, workers = 16, on_error = None))]
    fn new(
        py: Python<'_>,
        exports: &Bound<'_, PyMapping>,
        address: &str,
        workers: usize,
        on_error: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = nbd::Options { workers, report: report(on_error), ..nbd::Options::default() };
        let exports = devices(exports)?;
        py.detach(|| nbd::Server::start(exports, address, options)).map(NbdServer).map_err(to_py)
    }

    #[getter]
    fn address(&self) -> &str {
        self.0.address()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.stats();
        let dict = PyDict::new(py);
        dict.set_item("active", stats.active)?;
        dict.set_item("connections", stats.connections)?;
        dict.set_item("refused", stats.refused)?;
        dict.set_item("requests", stats.requests)?;
        dict.set_item("read_bytes", stats.read_bytes)?;
        dict.set_item("written_bytes", stats.written_bytes)?;
        dict.set_item("errors", stats.errors)?;
        Ok(dict)
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        // A request under way may need the interpreter to end.
        Python::attach(|py| py.detach(|| self.0.stop()));
    }
}

/// A FUSE directory.
#[pyclass(frozen, module = "obdcore")]
pub struct FuseMount(fuse::Mount);

#[pymethods]
impl FuseMount {
    #[new]
    #[pyo3(signature = (
        files, directory, *, workers = 16, allow_other = false, connection = None, resume = false, on_error = None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        files: &Bound<'_, PyMapping>,
        directory: PathBuf,
        workers: usize,
        allow_other: bool,
        connection: Option<i32>,
        resume: bool,
        on_error: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = fuse::Options { workers, allow_other, report: report(on_error) };
        let files = devices(files)?;
        let connection = match connection.filter(|fd| *fd >= 0) {
            // SAFETY: the caller's descriptor, which stays the caller's and open for this call.
            Some(fd) => Some(unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()?),
            None if resume => return Err(PyValueError::new_err("there is no connection to resume")),
            None => None,
        };
        let mount = py.detach(|| match connection {
            Some(connection) if resume => fuse::Mount::resume(files, &directory, &options, connection),
            Some(connection) => fuse::Mount::start_on(files, &directory, &options, connection),
            None => fuse::Mount::start(files, &directory, &options),
        });
        Ok(FuseMount(mount.map_err(to_py)?))
    }

    fn grown(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.grown()).map_err(to_py)
    }

    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !py.detach(|| self.0.wait_for(SIGNALS)).map_err(to_py)? {
            py.check_signals()?;
        }
        Ok(())
    }

    #[pyo3(signature = (force = false))]
    fn stop(&self, py: Python<'_>, force: bool) -> PyResult<()> {
        py.detach(|| self.0.stop(force)).map_err(to_py)
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        // A request under way may need the interpreter to end.
        let _ = Python::attach(|py| py.detach(|| self.0.stop(true)));
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NbdServer>()?;
    module.add_class::<FuseMount>()
}
