//! What can be seen of the core from outside: latencies, traffic, the events of the audit log.

use std::sync::atomic::Ordering::Relaxed;

use overlaybd::audit::{self, What};
use overlaybd::metrics::{Latency, Snapshot, READ_PEAK, REMOTE};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// A histogram as Python has it: events up to each bound in seconds (the last one infinite), and seconds in all.
type Histogram = (Vec<(f64, u64)>, f64);

fn histogram(seen: &Snapshot) -> Histogram {
    let mut sum = 0;
    let cumulated = seen.buckets.iter().enumerate().map(|(i, count)| {
        sum += count;
        (Snapshot::bound(i).map_or(f64::INFINITY, |bound| bound.as_secs_f64()), sum)
    });
    (cumulated.collect(), seen.total.as_secs_f64())
}

/// Histograms by cause.
pub fn latency<'py>(py: Python<'py>, latency: &Latency) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (cause, seen) in latency.snapshot() {
        dict.set_item(cause, histogram(&seen))?;
    }
    Ok(dict)
}

#[pyfunction]
fn remote_traffic(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("latency", histogram(&REMOTE.latency.snapshot()))?;
    dict.set_item("bytes", REMOTE.bytes.load(Relaxed))?;
    dict.set_item("errors", REMOTE.errors.load(Relaxed))?;
    Ok(dict)
}

#[pyfunction]
fn take_peaks() -> (f64, f64) {
    (READ_PEAK.take().as_secs_f64(), REMOTE.peak.take().as_secs_f64())
}

#[pyfunction]
fn audit_start() {
    audit::start();
}

#[pyfunction]
fn audit_stop() {
    audit::stop();
}

/// An event: when it was in seconds since 1970, the thread, its name, and its members.
type Event<'py> = (f64, u64, &'static str, Bound<'py, PyDict>);

#[pyfunction]
fn audit_take(py: Python<'_>) -> PyResult<(Vec<Event<'_>>, u64)> {
    let (events, dropped) = py.detach(audit::take);
    let mut lines = Vec::with_capacity(events.len());
    for event in events {
        let members = PyDict::new(py);
        let name = match event.what {
            What::Access { access, path, offset, size, latency } => {
                members.set_item("pathname", path)?;
                members.set_item("offset", offset)?;
                members.set_item("size", size)?;
                members.set_item("latency", u64::try_from(latency.as_micros()).unwrap_or(u64::MAX))?;
                access.name()
            }
            What::Eviction { actual, by_cache, by_disk, used } => {
                members.set_item("actualEvict", actual)?;
                members.set_item("evictByCache", by_cache)?;
                members.set_item("evictByDisk", by_disk)?;
                members.set_item("totalUsed_", used)?;
                "eviction"
            }
        };
        lines.push((event.time.as_secs_f64(), event.thread, name, members));
    }
    Ok((lines, dropped))
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(remote_traffic, module)?)?;
    module.add_function(wrap_pyfunction!(take_peaks, module)?)?;
    module.add_function(wrap_pyfunction!(audit_start, module)?)?;
    module.add_function(wrap_pyfunction!(audit_stop, module)?)?;
    module.add_function(wrap_pyfunction!(audit_take, module)?)
}
