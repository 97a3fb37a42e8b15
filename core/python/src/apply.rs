//! File systems on images and raw files: ext4 made, and layers applied to ext4 and EROFS; layers of turboOCI, and
//! their headers.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::apply::{apply, Applied};
use overlaybd::device::{BlockDevice, FileDevice};
use overlaybd::erofs::Erofs;
use overlaybd::ext4::Ext4;
use overlaybd::image::Image;
use overlaybd::lsmt::RemoteMap;
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sys::os::OsDisk;
use overlaybd::sys::{Disk, Mode};
use overlaybd::tar::export;
use overlaybd::{Error, Kind, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::archive::Job;
use crate::errors::to_py;
use crate::image::PyImage;
use crate::{files, progress};

/// What has the file system: an open image, or the path of a raw disk image.
#[derive(FromPyObject)]
pub enum Target<'py> {
    Image(PyRef<'py, PyImage>),
    Path(PathBuf),
}

impl Target<'_> {
    /// The device, open for writing.
    pub fn open(self) -> PyResult<Arc<dyn BlockDevice>> {
        match self {
            Target::Image(image) => Ok(image.device()?),
            Target::Path(path) => {
                let open = || FileDevice::new(OsDisk.open(&path, Mode::Write)?);
                open().map(|device| Arc::new(device) as Arc<dyn BlockDevice>).map_err(to_py)
            }
        }
    }
}

/// Makes an empty ext4 file system.
#[pyfunction]
fn ext4_create(py: Python<'_>, target: Target<'_>) -> PyResult<()> {
    let device = target.open()?;
    py.detach(|| Ext4::create(device)?.close()).map_err(to_py)
}

/// Which version of libext2fs writes them.
#[pyfunction]
fn ext4_version() -> PyResult<String> {
    overlaybd::ext4::version().map_err(to_py)
}

/// Applies the archive `source` to an ext4 file system.
#[pyfunction]
#[pyo3(signature = (target, source, *, mkfs = false, sha256 = None, progress = None))]
fn ext4_apply<'py>(
    py: Python<'py>,
    target: Target<'py>,
    source: RawFd,
    mkfs: bool,
    sha256: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let device = target.open()?;
    let job = Job { source, sha256, imported: false, turbo: false };
    let done = progress::run(py, progress, |progress| {
        let mut ext4 = if mkfs { Ext4::create(device)? } else { Ext4::open(device)? };
        let done = job.run(progress, |archive, tell| apply(&mut ext4, archive, tell))?;
        ext4.close()?;
        Ok(done)
    })?;
    said(py, &done)
}

/// Applies the archive `source` to an EROFS, or to nothing.
#[pyfunction]
#[pyo3(signature = (target, source, *, sha256 = None, progress = None))]
fn erofs_apply<'py>(
    py: Python<'py>,
    target: Target<'py>,
    source: RawFd,
    sha256: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let device = target.open()?;
    let job = Job { source, sha256, imported: false, turbo: false };
    let done = progress::run(py, progress, |progress| {
        let mut erofs = Erofs::open(device)?;
        let done = job.run(progress, |archive, tell| apply(&mut erofs, archive, tell))?;
        erofs.close()?;
        Ok(done)
    })?;
    said(py, &done)
}

/// Applies the archive `source`, whose content stays where it is, to a file system.
#[pyfunction]
#[pyo3(signature = (
    target, source, *, fstype = "ext4", mkfs = false, imported = false, sha256 = None, progress = None
))]
#[allow(clippy::too_many_arguments)]
fn turbo_apply<'py>(
    py: Python<'py>,
    target: PyRef<'py, PyImage>,
    source: RawFd,
    fstype: &str,
    mkfs: bool,
    imported: bool,
    sha256: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    if !matches!(fstype, "ext4" | "erofs") {
        return Err(to_py(Error::new(Kind::Unsupported, format!("turboOCI with the file system {fstype}"))));
    }
    let image = target.device()?;
    let job = Job { source, sha256, imported, turbo: true };
    let done = progress::run(py, progress, |progress| {
        if !image.upper().is_some_and(|upper| upper.is_warp()) {
            return Err(Error::new(Kind::Invalid, "the image has no writable layer of turboOCI on top"));
        }
        if fstype == "erofs" {
            let mut erofs = Erofs::open(image.clone())?;
            erofs.map_content(Box::new(Map(image)));
            let done = job.run(progress, |archive, tell| apply(&mut erofs, archive, tell))?;
            erofs.close()?;
            return Ok(done);
        }
        let mut ext4 = if mkfs { Ext4::create(image.clone())? } else { Ext4::open(image.clone())? };
        ext4.map_content(Box::new(Map(image)))?;
        let done = job.run(progress, |archive, tell| apply(&mut ext4, archive, tell))?;
        ext4.close()?;
        Ok(done)
    })?;
    said(py, &done)
}

/// Writes the headers of the archive `source`, which say where the content is.
#[pyfunction]
#[pyo3(signature = (source, output, *, progress = None))]
fn tar_export<'py>(
    py: Python<'py>,
    source: RawFd,
    output: RawFd,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let output = files::output(output).map_err(to_py)?;
    let job = Job { source, sha256: None, imported: false, turbo: true };
    let (members, size) = progress::run(py, progress, |progress| {
        let mut sink = FileSink::new(output);
        let members = job.run(progress, |archive, tell| export(archive, &mut sink, tell))?;
        Ok((members, sink.position()))
    })?;
    let dict = PyDict::new(py);
    dict.set_item("entries", members)?;
    dict.set_item("size", size)?;
    Ok(dict)
}

/// What content is mapped into.
struct Map(Arc<Image>);

impl RemoteMap for Map {
    fn map(&mut self, device_offset: u64, len: u64, target_offset: u64) -> Result<()> {
        self.0.map_remote(device_offset, len, target_offset)
    }
}

fn said<'py>(py: Python<'py>, done: &Applied) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("entries", done.entries)?;
    dict.set_item("files", done.files)?;
    dict.set_item("bytes", done.bytes)?;
    dict.set_item("whiteouts", done.whiteouts)?;
    dict.set_item("notes", done.notes.clone())?;
    Ok(dict)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(ext4_create, module)?)?;
    module.add_function(wrap_pyfunction!(ext4_version, module)?)?;
    module.add_function(wrap_pyfunction!(ext4_apply, module)?)?;
    module.add_function(wrap_pyfunction!(erofs_apply, module)?)?;
    module.add_function(wrap_pyfunction!(tar_export, module)?)?;
    module.add_function(wrap_pyfunction!(turbo_apply, module)?)
}
