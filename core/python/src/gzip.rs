//! Gzip indexes for Python: `gzip_index`.

use std::os::fd::RawFd;
use std::sync::Arc;

use overlaybd::gzip::Index;
use overlaybd::sink::FileSink;
use overlaybd::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_py;
use crate::{files, progress};

/// Makes the index of a gzip file.
#[pyfunction]
#[pyo3(signature = (source, output, *, span = 1 << 20, progress = None))]
fn gzip_index<'py>(
    py: Python<'py>,
    source: RawFd,
    output: RawFd,
    span: u32,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (mut file, name) = files::duplicate(source).map_err(to_py)?;
    let output = files::output(output).map_err(to_py)?;
    let built = progress::run(py, progress, |progress| {
        let total = file.metadata().map_err(|e| Error::io("stat", e).in_file(&name))?.len();
        let mut sink = FileSink::new(Arc::clone(&output) as _);
        Index::build(&mut file, &mut sink, span, &mut |done| progress(done, total)).map_err(|e| e.in_file(&name))
    })?;
    let dict = PyDict::new(py);
    dict.set_item("points", built.points)?;
    dict.set_item("gzip_size", built.packed_bytes)?;
    dict.set_item("index_size", built.index_bytes)?;
    dict.set_item("uncompressed_size", built.plain_bytes)?;
    Ok(dict)
}

/// Adds the function to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(gzip_index, module)?)
}
