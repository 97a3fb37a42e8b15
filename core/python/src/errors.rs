//! The one exception of the core: `obdcore.Error`, an `OSError` with kind, file and offset.

use std::path::PathBuf;

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;

use overlaybd::{Error, Kind};

pyo3::create_exception!(obdcore, CoreError, PyOSError, "A failure of the core: kind, file, offset and cause.");

/// Turns a core error into the Python exception: `errno`, `strerror` (the whole line), and the
/// attributes `kind` (str), `file` (str or None), `offset` (int or None), `what`, `cause`.
pub fn to_py(error: Error) -> PyErr {
    let err = CoreError::new_err((error.errno(), error.to_string()));
    Python::attach(|py| {
        let value = err.value(py);
        let file: Option<PathBuf> = error.file().map(Into::into);
        // Setting attributes on a fresh exception object cannot fail short of memory exhaustion.
        let _ = value.setattr("kind", error.kind().name());
        let _ = value.setattr("file", file.map(|f| f.display().to_string()));
        let _ = value.setattr("offset", error.offset());
        let _ = value.setattr("what", error.what());
        let _ = value.setattr("cause", error.cause());
    });
    err
}

/// A Python exception as a core error about `doing`. Its kind, which may decide whether the core tries again, is that
/// of the exception where it has one, else what passes (`Io`) for any `OSError`, and what does not for the rest.
pub fn from_py(py: Python<'_>, e: &PyErr, doing: &str) -> Error {
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
    Error::new(kind, doing).because(e.value(py).to_string())
}

/// Adds the exception to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Error", module.py().get_type::<CoreError>())
}
