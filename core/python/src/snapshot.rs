//! Snapshots: what Python does with the configuration of an image, and the end of one that was interrupted.

use std::path::PathBuf;

use overlaybd::image::{finish_snapshot as finish, Publish};
use overlaybd::sys::os::OsDisk;
use overlaybd::{Error, Kind, Result};
use pyo3::prelude::*;

use crate::errors::{from_py, to_py};

/// What Python does with the configuration; None does nothing.
pub struct Configuration {
    /// Says what it is going to be.
    pub announce: Option<Py<PyAny>>,
    /// Puts it in place.
    pub publish: Option<Py<PyAny>>,
}

impl Publish for Configuration {
    fn announce(&mut self) -> Result<()> {
        call(self.announce.as_ref(), "announcing a snapshot")
    }

    fn publish(&mut self) -> Result<()> {
        call(self.publish.as_ref(), "publishing a snapshot")
    }
}

fn call(function: Option<&Py<PyAny>>, doing: &str) -> Result<()> {
    let Some(function) = function else { return Ok(()) };
    // A flush may come here while the interpreter ends.
    let ended = || Err(Error::new(Kind::Interrupted, "the interpreter has ended"));
    Python::try_attach(|py| function.call0(py).map(drop).map_err(|e| from_py(py, &e, doing))).unwrap_or_else(ended)
}

#[pyfunction]
fn finish_snapshot(
    py: Python<'_>,
    old: (PathBuf, PathBuf),
    new: (PathBuf, PathBuf),
    publish: Py<PyAny>,
) -> PyResult<bool> {
    let mut configuration = Configuration { announce: None, publish: Some(publish) };
    py.detach(|| finish(&OsDisk, (&old.0, &old.1), (&new.0, &new.1), &mut configuration)).map_err(to_py)
}

/// Adds the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(finish_snapshot, module)?)
}
