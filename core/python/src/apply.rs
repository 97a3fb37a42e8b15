//! ext4 file systems on images and raw files: made, and layers applied to them.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::apply::{apply, Applied};
use overlaybd::device::{BlockDevice, FileDevice};
use overlaybd::ext4::Ext4;
use overlaybd::sys::os::OsDisk;
use overlaybd::sys::{Disk, Mode};
use overlaybd::tar::{Archive, Input};
use overlaybd::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_py;
use crate::files::duplicate;
use crate::image::PyImage;
use crate::progress;

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
    source: i32,
    mkfs: bool,
    sha256: Option<String>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let device = target.open()?;
    let work = |progress: &mut overlaybd::progress::Progress<'_>| -> Result<Applied> {
        let (file, name) = duplicate(source)?;
        let stored = file.metadata().map_or(0, |metadata| metadata.len());
        let of_source = |e: Error| e.in_file(&name);
        let progress = RefCell::new(progress);
        // A pipe that says nothing does not keep signals from being heard.
        let waiting = || (progress.borrow_mut())(0, 0);
        let input = Input::open(file, sha256.is_some(), waiting).map_err(|e| of_source(Error::io("read", e)))?;
        let mut archive = Archive::new(input);
        let mut ext4 = if mkfs { Ext4::create(device)? } else { Ext4::open(device)? };
        let tell = |at: u64, compressed: bool| {
            // How long it is when it is unpacked is not known.
            let total = if compressed { 0 } else { stored };
            (progress.borrow_mut())(at.min(total.saturating_sub(1)), total)
        };
        let done = apply(&mut ext4, &mut archive, &mut |at, input: &Input<'_>| tell(at, input.is_compressed()))
            .map_err(of_source)?;
        if archive.input().is_checked() {
            archive.drain().map_err(of_source)?;
        }
        if let Some(wanted) = &sha256 {
            let sum = archive.input().digest().unwrap_or_default();
            let got = sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            if !got.eq_ignore_ascii_case(wanted) {
                let what = format!("sha256 checksum mismatch, expect: sha256:{wanted}, got: sha256:{got}");
                return Err(of_source(Error::corrupt(what)));
            }
        }
        ext4.close()?;
        Ok(done)
    };
    let done = progress::run(py, progress, work)?;
    let dict = PyDict::new(py);
    dict.set_item("entries", done.entries)?;
    dict.set_item("files", done.files)?;
    dict.set_item("bytes", done.bytes)?;
    dict.set_item("whiteouts", done.whiteouts)?;
    dict.set_item("notes", done.notes)?;
    Ok(dict)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(ext4_create, module)?)?;
    module.add_function(wrap_pyfunction!(ext4_version, module)?)?;
    module.add_function(wrap_pyfunction!(ext4_apply, module)?)
}
