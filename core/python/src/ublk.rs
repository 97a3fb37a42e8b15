//! `UblkDevice`: an image as a disk of the kernel; and what can be asked of all such disks.

use std::sync::Arc;

use overlaybd::device::BlockDevice;
use overlaybd::serve::ublk::{self, state, Control, Info};
use overlaybd::{Error, Kind};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use crate::errors::to_py;
use crate::image::PyImage;
use crate::serve::{report, SIGNALS};

/// A served disk.
#[pyclass(frozen, module = "obdcore")]
pub struct UblkDevice(ublk::Server);

#[pymethods]
impl UblkDevice {
    #[new]
    #[pyo3(signature = (image, *, number = -1, queues = 0, depth = 0, workers = 16, read_only = false, recover = false,
                        name = String::new(), on_error = None))]
    // The parameters of the Python class.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        image: PyRef<'_, PyImage>,
        number: i64,
        queues: usize,
        depth: usize,
        workers: usize,
        read_only: bool,
        recover: bool,
        name: String,
        on_error: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let number = match u32::try_from(number) {
            Ok(number) if number < u32::MAX => Some(number),
            _ if number == -1 => None,
            _ => return Err(to_py(Error::new(Kind::Invalid, format!("{number} is no number of a ublk device")))),
        };
        let report = report(on_error);
        let options = ublk::Options { number, queues, depth, read_only, workers, name, report };
        let device = image.device()? as Arc<dyn BlockDevice>;
        let start = if recover { ublk::Server::recover } else { ublk::Server::add };
        py.detach(|| start(device, options)).map(UblkDevice).map_err(to_py)
    }

    #[getter]
    fn number(&self) -> u32 {
        self.0.number()
    }

    #[getter]
    fn path(&self) -> String {
        ublk::path(self.0.number()).display().to_string()
    }

    #[getter]
    fn queues(&self) -> u16 {
        self.0.info().queues
    }

    #[getter]
    fn depth(&self) -> u16 {
        self.0.info().depth
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.0.stats().named().into_py_dict(py)
    }

    fn oldest(&self) -> Option<(f64, String)> {
        self.0.oldest().map(|(age, what)| (age.as_secs_f64(), what))
    }

    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !py.detach(|| self.0.wait_for(SIGNALS)) {
            py.check_signals()?;
        }
        Ok(())
    }

    fn update_size(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.update_size()).map_err(to_py)
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }

    fn remove(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.remove()).map_err(to_py)
    }
}

impl Drop for UblkDevice {
    fn drop(&mut self) {
        // A request under way may need the interpreter to end.
        Python::attach(|py| py.detach(|| self.0.stop()));
    }
}

#[pyfunction]
fn ublk_numbers(py: Python<'_>) -> PyResult<Vec<u32>> {
    py.detach(ublk::numbers).map_err(to_py)
}

#[pyfunction]
fn ublk_info(py: Python<'_>, number: u32) -> PyResult<Bound<'_, PyDict>> {
    let asked = py.detach(|| {
        let control = Control::open()?;
        Ok((control.info(number)?, control.parameters(number)?))
    });
    let (info, parameters) = asked.map_err(to_py)?;
    let Info { queues, depth, pid, flags, .. } = info;
    let dict = PyDict::new(py);
    dict.set_item("number", number)?;
    dict.set_item("path", ublk::path(number).display().to_string())?;
    dict.set_item("state", state_name(info.state))?;
    dict.set_item("pid", pid)?;
    dict.set_item("queues", queues)?;
    dict.set_item("depth", depth)?;
    dict.set_item("flags", flags)?;
    dict.set_item("size", parameters.map(|p| p.sectors.saturating_mul(512)))?;
    dict.set_item("read_only", parameters.is_some_and(|p| p.read_only))?;
    Ok(dict)
}

fn state_name(number: u16) -> &'static str {
    match number {
        state::DEAD => "dead",
        state::LIVE => "live",
        state::QUIESCED => "quiesced",
        state::FAIL_IO => "failing",
        _ => "unknown",
    }
}

#[pyfunction]
fn ublk_features(py: Python<'_>) -> PyResult<u64> {
    py.detach(|| Control::open()?.features()).map_err(to_py)
}

#[pyfunction]
fn ublk_stop(py: Python<'_>, number: u32) -> PyResult<()> {
    py.detach(|| Control::open()?.stop(number)).map_err(to_py)
}

#[pyfunction]
fn ublk_delete(py: Python<'_>, number: u32) -> PyResult<()> {
    py.detach(|| Control::open()?.delete(number)).map_err(to_py)
}

/// Adds class and functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<UblkDevice>()?;
    module.add_function(wrap_pyfunction!(ublk_numbers, module)?)?;
    module.add_function(wrap_pyfunction!(ublk_info, module)?)?;
    module.add_function(wrap_pyfunction!(ublk_features, module)?)?;
    module.add_function(wrap_pyfunction!(ublk_stop, module)?)?;
    module.add_function(wrap_pyfunction!(ublk_delete, module)?)
}
