//! `obdcore.FileSystem`: files inside an image, read without mounting it.

use std::sync::Arc;

use overlaybd::fs::{self, FileSystem, Node};
use overlaybd::tar::Time;
use overlaybd::{Error, Kind};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::to_py;
use crate::image::PyImage;
use crate::progress;

/// Most bytes of one read: callers read larger files in pieces.
const MAX_READ: u64 = 64 << 20;
/// Entries of one directory that are given.
const MAX_ENTRIES: usize = overlaybd::limits::MAX_LISTED_ENTRIES;

/// A file by its path, or by its number as `FileStat.ino` says it.
#[derive(FromPyObject)]
enum Name {
    Number(u64),
    Path(Vec<u8>),
}

/// What `lstat` says of a file.
#[pyclass(module = "obdcore", frozen)]
pub struct FileStat(Node);

fn nanoseconds(time: Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

#[pymethods]
impl FileStat {
    #[getter]
    fn ino(&self) -> u64 {
        self.0.number
    }

    #[getter]
    fn mode(&self) -> u32 {
        self.0.mode.into()
    }

    #[getter]
    fn nlink(&self) -> u32 {
        self.0.links
    }

    #[getter]
    fn uid(&self) -> u32 {
        self.0.uid
    }

    #[getter]
    fn gid(&self) -> u32 {
        self.0.gid
    }

    #[getter]
    fn size(&self) -> u64 {
        self.0.size
    }

    #[getter]
    fn device(&self) -> (u32, u32) {
        self.0.device
    }

    #[getter]
    fn mtime_ns(&self) -> i128 {
        nanoseconds(self.0.mtime)
    }

    #[getter]
    fn atime_ns(&self) -> i128 {
        nanoseconds(self.0.atime)
    }

    #[getter]
    fn ctime_ns(&self) -> i128 {
        nanoseconds(self.0.ctime)
    }

    fn __repr__(&self) -> String {
        format!("FileStat(ino={}, mode={:#o}, size={})", self.0.number, self.0.mode, self.0.size)
    }
}

/// The file system of an image. Keeps the image open.
#[pyclass(name = "FileSystem", module = "obdcore", frozen)]
pub struct PyFileSystem {
    files: FileSystem,
    partition: Option<u32>,
}

impl PyFileSystem {
    fn node(&self, name: &Name, follow: bool) -> overlaybd::Result<Node> {
        match name {
            Name::Number(number) => self.files.node(*number),
            Name::Path(path) => self.files.find(path, follow),
        }
    }

    /// Looks a file up and does something with it, without the GIL.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        name: &Name,
        follow: bool,
        work: impl FnOnce(&Node) -> overlaybd::Result<T> + Send,
    ) -> PyResult<T> {
        py.detach(|| self.node(name, follow).and_then(|node| work(&node))).map_err(to_py)
    }
}

#[pymethods]
impl PyFileSystem {
    #[new]
    #[pyo3(signature = (image, *, partition = None, layers = Vec::new()))]
    fn new(py: Python<'_>, image: &PyImage, partition: Option<u32>, layers: Vec<String>) -> PyResult<Self> {
        let device = Arc::new(fs::Named::new(image.device()?, layers));
        let (files, found) = py.detach(|| fs::open_in(device, partition)).map_err(to_py)?;
        Ok(PyFileSystem { files, partition: found.map(|found| found.number) })
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.files.name()
    }

    #[getter]
    fn partition(&self) -> Option<u32> {
        self.partition
    }

    #[getter]
    fn needs_recovery(&self) -> bool {
        self.files.needs_recovery()
    }

    #[pyo3(signature = (file, *, follow = false))]
    fn stat(&self, py: Python<'_>, file: Name, follow: bool) -> PyResult<FileStat> {
        self.with(py, &file, follow, |node| Ok(FileStat(node.clone())))
    }

    fn list(&self, py: Python<'_>, file: Name) -> PyResult<Vec<(Py<PyBytes>, u64)>> {
        let entries = self.with(py, &file, true, |node| {
            let mut found = Vec::new();
            self.files.entries(node, |name, number| {
                found.push((name.to_vec(), number));
                found.len() < MAX_ENTRIES
            })?;
            Ok(found)
        })?;
        Ok(entries.into_iter().map(|(name, number)| (PyBytes::new(py, &name).unbind(), number)).collect())
    }

    fn read<'py>(&self, py: Python<'py>, file: Name, offset: u64, length: u64) -> PyResult<Bound<'py, PyBytes>> {
        if length > MAX_READ {
            return Err(to_py(Error::new(Kind::Limit, format!("{length} bytes are too many for one read"))));
        }
        let bytes = self.with(py, &file, true, |node| {
            self.files.check_regular(node)?;
            let mut bytes = vec![0; length.min(node.size.saturating_sub(offset)) as usize];
            if !bytes.is_empty() {
                self.files.read_at(node, &mut bytes, offset)?;
            }
            Ok(bytes)
        })?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn data(&self, py: Python<'_>, file: Name, offset: u64, length: u64) -> PyResult<Vec<(u64, u64)>> {
        self.with(py, &file, true, |node| {
            self.files.check_regular(node)?;
            let max = overlaybd::limits::MAX_FILE_EXTENTS;
            let found = self.files.extents_from(node, offset, offset.saturating_add(length), max)?;
            Ok(found.into_iter().map(|extent| (extent.offset, extent.len)).collect())
        })
    }

    fn readlink<'py>(&self, py: Python<'py>, file: Name) -> PyResult<Bound<'py, PyBytes>> {
        let target = self.with(py, &file, false, |node| self.files.read_link(node))?;
        Ok(PyBytes::new(py, &target))
    }

    #[pyo3(signature = (file, *, follow = false))]
    fn xattrs<'py>(&self, py: Python<'py>, file: Name, follow: bool) -> PyResult<Bound<'py, PyDict>> {
        let found = self.with(py, &file, follow, |node| self.files.attributes(node))?;
        let dict = PyDict::new(py);
        for (name, value) in found {
            dict.set_item(PyBytes::new(py, &name), PyBytes::new(py, &value))?;
        }
        Ok(dict)
    }

    #[pyo3(signature = (file, other, other_file, progress = None))]
    fn difference(
        &self,
        py: Python<'_>,
        file: Name,
        other: PyRef<'_, PyFileSystem>,
        other_file: Name,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Option<u64>> {
        let other: &PyFileSystem = &other;
        progress::run(py, progress, |tell| {
            let (one, two) = (self.node(&file, true)?, other.node(&other_file, true)?);
            let (mut done, total) = (0, one.size.min(two.size));
            fs::first_difference((&self.files, &one), (&other.files, &two), &mut |bytes| {
                done += bytes;
                tell(done, total)
            })
        })
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FileStat>()?;
    module.add_class::<PyFileSystem>()
}
