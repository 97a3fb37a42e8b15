//! `obdcore.Prefetch` and traces: what an image reads first, recorded, looked at and fetched in advance.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use overlaybd::trace::{self, PrefetchOptions};
use overlaybd::{Error, Kind};

use crate::errors::to_py;
use crate::image::PyImage;

/// Time between two looks at signals while waiting.
const INTERVAL: Duration = Duration::from_millis(200);

/// Fetches in advance, beside the use of an image.
#[pyclass(frozen, module = "obdcore")]
pub struct Prefetch(trace::Prefetch);

#[pymethods]
impl Prefetch {
    #[new]
    #[pyo3(signature = (image, data, *, workers = 16, max_bytes = 0))]
    fn new(py: Python<'_>, image: &PyImage, data: &[u8], workers: usize, max_bytes: u64) -> PyResult<Self> {
        let image = image.device()?;
        let max_bytes = if max_bytes == 0 { u64::MAX } else { max_bytes };
        let options = PrefetchOptions { workers, max_bytes };
        let start = || {
            let Some(lowers) = image.lowers() else {
                return Err(Error::new(Kind::Invalid, "an image without lowers has nothing to fetch in advance"));
            };
            if trace::is_trace(data) {
                trace::Prefetch::trace(&lowers, trace::parse(data)?, options)
            } else {
                trace::Prefetch::list(&lowers, data.to_vec(), options)
            }
        };
        py.detach(start).map(Prefetch).map_err(to_py)
    }

    #[pyo3(signature = (timeout_s = None))]
    fn wait(&self, py: Python<'_>, timeout_s: Option<f64>) -> PyResult<bool> {
        let limit = timeout_s.map(|s| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX));
        let mut waited = Duration::ZERO;
        loop {
            let step = limit.map_or(INTERVAL, |limit| INTERVAL.min(limit.saturating_sub(waited)));
            if py.detach(|| self.0.wait(step)) {
                return Ok(true);
            }
            py.check_signals()?;
            waited += step;
            if limit.is_some_and(|limit| waited >= limit) {
                return Ok(false);
            }
        }
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.stats();
        let dict = PyDict::new(py);
        dict.set_item("pieces", stats.pieces)?;
        dict.set_item("fetched_bytes", stats.fetched_bytes)?;
        dict.set_item("failed", stats.failed)?;
        dict.set_item("first_error", stats.first_error)?;
        dict.set_item("skipped", stats.skipped)?;
        dict.set_item("notes", stats.notes)?;
        dict.set_item("done", stats.done)?;
        Ok(dict)
    }
}

/// Whether bytes begin as a trace does.
#[pyfunction]
fn trace_detect(data: &[u8]) -> bool {
    trace::is_trace(data)
}

/// The records of a trace: layer, offset, length.
#[pyfunction]
fn trace_parse(py: Python<'_>, data: &[u8]) -> PyResult<Vec<(u32, u64, u64)>> {
    let records = py.detach(|| trace::parse(data)).map_err(to_py)?;
    Ok(records.into_iter().map(|r| (r.layer, r.offset, r.len)).collect())
}

/// Adds the class and the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Prefetch>()?;
    module.add_function(wrap_pyfunction!(trace_detect, module)?)?;
    module.add_function(wrap_pyfunction!(trace_parse, module)?)
}
