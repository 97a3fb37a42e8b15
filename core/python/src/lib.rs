//! `obdcore`: the core for Python. Translates types and errors, releases the GIL around all I/O.

use pyo3::prelude::*;

mod apply;
mod archive;
mod cache;
mod client;
mod disk;
mod errors;
mod files;
mod filesystem;
mod gzip;
mod image;
mod lsmt;
mod merkle;
mod observe;
mod progress;
mod remote;
mod serve;
mod snapshot;
mod tcmu;
mod trace;
mod turbo;
mod ublk;
mod zfile;

#[pymodule]
fn obdcore(module: &Bound<'_, PyModule>) -> PyResult<()> {
    apply::register(module)?;
    cache::register(module)?;
    client::register(module)?;
    disk::register(module)?;
    errors::register(module)?;
    gzip::register(module)?;
    filesystem::register(module)?;
    image::register(module)?;
    lsmt::register(module)?;
    merkle::register(module)?;
    observe::register(module)?;
    remote::register(module)?;
    serve::register(module)?;
    snapshot::register(module)?;
    tcmu::register(module)?;
    trace::register(module)?;
    turbo::register(module)?;
    ublk::register(module)?;
    zfile::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}
