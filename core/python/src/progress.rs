//! Runs long work of the core for Python: progress calls, exceptions from them, and Ctrl-C.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use overlaybd::progress::Progress;
use overlaybd::{Error, Kind};

use crate::errors::to_py;

/// Least time between two visits to the interpreter.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs `work` without the GIL. A few times a second, and when all is done, `callback(done, total)`
/// is called from this thread; signal handlers run at the same moments. What either raises ends the
/// work and is what the caller sees; otherwise a failure is the core's error.
pub fn run<T: Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    work: impl FnOnce(&mut Progress<'_>) -> overlaybd::Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        let mut last: Option<Instant> = None;
        work(&mut |done, total| {
            let complete = total != 0 && done >= total;
            if !complete && last.is_some_and(|at| at.elapsed() < INTERVAL) {
                return Ok(());
            }
            let outcome = Python::attach(|py| {
                py.check_signals()?;
                callback.as_ref().map_or(Ok(()), |call| call.call1(py, (done, total)).map(drop))
            });
            last = Some(Instant::now());
            outcome.map_err(|e| {
                raised = Some(e);
                Error::new(Kind::Interrupted, "stopped by the caller")
            })
        })
    });
    match raised {
        Some(exception) => Err(exception),
        None => result.map_err(to_py),
    }
}
