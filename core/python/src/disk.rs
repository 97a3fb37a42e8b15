//! `obdcore.DiskImage`: the image of a whole disk, raw or qcow2, to make a layer of it or to copy it.

use std::os::fd::RawFd;
use std::sync::Arc;

use overlaybd::disk::{self, Format, Holes, Part};
use overlaybd::lsmt::commit::CommitOptions;
use overlaybd::lsmt::import::import;
use overlaybd::{Error, Kind};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::apply::Target;
use crate::errors::to_py;
use crate::files::output;
use crate::lsmt::{write, written_dict, Compress};
use crate::progress;

/// An open disk image, or a part of one.
#[pyclass(name = "DiskImage", module = "obdcore", frozen)]
pub struct PyDiskImage {
    disk: Arc<dyn disk::DiskImage>,
    format: Format,
    alone: bool,
}

impl PyDiskImage {
    fn part_of(&self, disk: Arc<dyn disk::DiskImage>) -> Self {
        PyDiskImage { disk, format: self.format, alone: self.alone }
    }
}

#[pymethods]
impl PyDiskImage {
    #[new]
    #[pyo3(signature = (source, *, format = None, without_backing = false))]
    fn new(py: Python<'_>, source: RawFd, format: Option<String>, without_backing: bool) -> PyResult<Self> {
        let open = || {
            let format = format.as_deref().map(Format::from_name).transpose()?;
            disk::open(output(source)?, format, without_backing)
        };
        let (disk, format) = py.detach(open).map_err(to_py)?;
        Ok(PyDiskImage { disk, format, alone: without_backing })
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.format.name()
    }

    #[getter]
    fn size(&self) -> u64 {
        self.disk.len()
    }

    fn file_system(&self, py: Python<'_>) -> PyResult<Option<&'static str>> {
        py.detach(|| disk::file_system(&*self.disk)).map_err(to_py)
    }

    fn partitions<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let found = py.detach(|| overlaybd::fs::partitions::partitions(&*self.disk)).map_err(to_py)?;
        let of = |partition: &overlaybd::fs::partitions::Partition| {
            let dict = PyDict::new(py);
            dict.set_item("number", partition.number)?;
            dict.set_item("offset", partition.start)?;
            dict.set_item("size", partition.len)?;
            dict.set_item("type", partition.kind.to_string())?;
            dict.set_item("label", &partition.label)?;
            Ok(dict)
        };
        found.iter().map(of).collect()
    }

    fn root(&self, py: Python<'_>) -> PyResult<(Self, Option<u32>, &'static str)> {
        let found = py.detach(|| disk::root(self.disk.clone())).map_err(to_py)?;
        Ok((self.part_of(found.disk), found.partition.map(|partition| partition.number), found.file_system))
    }

    fn part(&self, offset: u64, size: u64) -> PyResult<Self> {
        Ok(self.part_of(Arc::new(Part::new(self.disk.clone(), offset, size).map_err(to_py)?)))
    }

    fn read_at<'py>(&self, py: Python<'py>, offset: u64, length: usize) -> PyResult<Bound<'py, PyBytes>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.disk.len()) {
            let what = format!("{length} bytes asked beyond the end of the disk at {}", self.disk.len());
            return Err(to_py(Error::new(Kind::OutOfBounds, what).at(offset)));
        }
        PyBytes::new_with(py, length, |buf| py.detach(|| self.disk.read_at(buf, offset)).map_err(to_py))
    }

    #[pyo3(signature = (output, *, compress = None, tar = false, progress = None))]
    fn to_layer<'py>(
        &self,
        py: Python<'py>,
        output: RawFd,
        compress: Option<Compress>,
        tar: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let holes = if self.alone { Holes::Through } else { Holes::Zeros };
        let options = CommitOptions::default();
        let work = |progress: &mut overlaybd::progress::Progress<'_>| {
            write(output, compress, tar, 0, |sink| import(&*self.disk, holes, &options, sink, progress))
        };
        written_dict(py, &progress::run(py, progress, work)?)
    }

    #[pyo3(signature = (target, *, progress = None))]
    fn copy_to<'py>(
        &self,
        py: Python<'py>,
        target: Target<'_>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let device = target.open()?;
        let done = progress::run(py, progress, |progress| disk::copy(&*self.disk, &*device, progress))?;
        let dict = PyDict::new(py);
        dict.set_item("written", done.written)?;
        dict.set_item("zeros", done.zeros)?;
        dict.set_item("skipped", done.skipped)?;
        Ok(dict)
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyDiskImage>()
}
