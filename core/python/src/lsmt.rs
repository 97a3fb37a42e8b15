//! Layers for Python: create, commit, merge, seal, resize, import, and what a file is.

use std::collections::HashMap;
use std::fs::File as StdFile;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::disk::{Holes, Raw};
use overlaybd::inspect::{self, Description};
use overlaybd::lsmt::commit::{self, CommitOptions, Committed};
use overlaybd::lsmt::import::import;
use overlaybd::lsmt::info::{FileKind, IndexInfo, Info};
use overlaybd::lsmt::upper::{self, CreateOptions};
use overlaybd::lsmt::warp::Meta;
use overlaybd::lsmt::{Header, Layer, Upper, Uuid};
use overlaybd::progress::Progress;
use overlaybd::sink::{FileSink, Sink};
use overlaybd::sys::os::{OsDisk, OsFile, ScratchDisk};
use overlaybd::sys::{Disk, File};
use overlaybd::tar::TarSink;
use overlaybd::zfile::{Algorithm, Builder, Options};
use overlaybd::{Error, Kind, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::to_py;
use crate::image::Source;
use crate::progress;
use crate::turbo::{self, Lower, LowerSource};

/// Options of compression as Python gives them: what is absent takes its default.
pub struct Compress(Options);

impl<'py> FromPyObject<'_, 'py> for Compress {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let given: HashMap<String, Bound<'py, PyAny>> = given.extract()?;
        let mut options = Options::default();
        for (name, value) in given {
            match name.as_str() {
                "algorithm" => options.algorithm = Algorithm::from_name(value.extract()?).map_err(to_py)?,
                "block_size" => options.block_size = value.extract()?,
                "checksum" => options.checksum = value.extract()?,
                "overwrite_header" => options.overwrite_header = value.extract()?,
                "threads" => options.threads = value.extract()?,
                _ => return Err(PyTypeError::new_err(format!("compress has no option {name:?}"))),
            }
        }
        Ok(Compress(options))
    }
}

/// The caller's descriptor as a file of its own; errors name it by its path where it has one.
fn file(fd: RawFd) -> Result<Arc<dyn File>> {
    if fd < 0 {
        return Err(Error::new(Kind::Invalid, format!("{fd} is no file descriptor")));
    }
    // SAFETY: the number is not negative, and a descriptor that is not open only makes the duplication fail.
    let owned = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().map_err(|e| Error::io("descriptor", e))?;
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_else(|_| format!("descriptor {fd}").into());
    Ok(Arc::new(OsFile::new(StdFile::from(owned), path)))
}

/// Where writable layers lie: `scratch` ones are not made durable.
pub fn disk(scratch: bool) -> &'static dyn Disk {
    if scratch {
        &ScratchDisk
    } else {
        &OsDisk
    }
}

fn uuid(text: Option<&str>) -> Result<Option<Uuid>> {
    let parse = |text: &str| {
        Uuid::parse(text.as_bytes()).ok_or_else(|| Error::new(Kind::Invalid, format!("{text:?} is no uuid")))
    };
    text.map(parse).transpose()
}

fn commit_options(id: Option<&str>, parent: Option<&str>, tag: Vec<u8>) -> Result<CommitOptions> {
    Ok(CommitOptions { uuid: uuid(id)?.unwrap_or_default(), parent_uuid: uuid(parent)?, tag })
}

/// What came of writing a layer.
pub struct Written {
    committed: Committed,
    stored_bytes: u64,
    cut_records: u64,
}

/// Writes a layer into the caller's file, through the wrappers asked for. `cut_records` of the source were torn.
pub fn write(
    output: RawFd,
    compress: Option<Compress>,
    tar: bool,
    cut_records: u64,
    work: impl FnOnce(&mut dyn Sink) -> Result<Committed>,
) -> Result<Written> {
    let target = file(output)?;
    let mut sink: Box<dyn Sink> = Box::new(FileSink::new(target.clone()));
    if tar {
        sink = Box::new(TarSink::new(sink)?);
    }
    if let Some(Compress(options)) = compress {
        sink = Box::new(Builder::new(sink, options)?);
    }
    let committed = work(&mut *sink)?;
    sink.finish()?;
    let stored_bytes = target.len().map_err(|e| Error::io("length", e).in_file(target.path()))?;
    Ok(Written { committed, stored_bytes, cut_records })
}

/// What Python is told of it.
pub fn written_dict<'py>(py: Python<'py>, written: &Written) -> PyResult<Bound<'py, PyDict>> {
    let Written { committed, stored_bytes, cut_records } = written;
    let dict = PyDict::new(py);
    dict.set_item("virtual_size", committed.trailer.virtual_size)?;
    dict.set_item("uuid", committed.trailer.uuid.to_string())?;
    dict.set_item("parent_uuid", committed.trailer.parent_uuid.to_string())?;
    dict.set_item("segments", committed.entries)?;
    dict.set_item("data_size", committed.data_bytes)?;
    dict.set_item("layer_size", committed.layer_bytes)?;
    dict.set_item("stored_size", stored_bytes)?;
    dict.set_item("cut_records", cut_records)?;
    Ok(dict)
}

/// How files are read here.
const DEFAULT_ENGINE: overlaybd::engine::Kind = overlaybd::engine::Kind::Psync;

/// Opens a finished layer in whatever it is wrapped.
fn open_layer(source: &Source) -> Result<Layer> {
    overlaybd::layer::open(&source.open(DEFAULT_ENGINE)?)
}

#[pyfunction]
#[pyo3(signature = (data, index, *, size, sparse = false, turbo = false, uuid = None, parent_uuid = None,
                    tag = Vec::new(), scratch = false))]
#[allow(clippy::too_many_arguments)] // They are keywords on the other side.
fn lsmt_create(
    py: Python<'_>,
    data: PathBuf,
    index: PathBuf,
    size: u64,
    sparse: bool,
    turbo: bool,
    uuid: Option<String>,
    parent_uuid: Option<String>,
    tag: Vec<u8>,
    scratch: bool,
) -> PyResult<()> {
    let work = || {
        let parent_uuid = self::uuid(parent_uuid.as_deref())?.unwrap_or_default();
        let options = CreateOptions { size, sparse, warp: turbo, uuid: self::uuid(uuid.as_deref())?, parent_uuid, tag };
        upper::create(disk(scratch), &data, &index, &options)
    };
    py.detach(work).map_err(to_py)
}

#[pyfunction]
#[pyo3(signature = (data, index, output, *, turbo = false, uuid = None, parent_uuid = None, tag = Vec::new(),
                    compress = None, tar = false, progress = None))]
#[allow(clippy::too_many_arguments)]
fn lsmt_commit(
    py: Python<'_>,
    data: PathBuf,
    index: Option<PathBuf>,
    output: RawFd,
    turbo: bool,
    uuid: Option<String>,
    parent_uuid: Option<String>,
    tag: Vec<u8>,
    compress: Option<Compress>,
    tar: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let work = |progress: &mut Progress<'_>| {
        let options = commit_options(uuid.as_deref(), parent_uuid.as_deref(), tag)?;
        if turbo {
            let (meta, cut) = match &index {
                Some(index) => upper::open_as_meta(&OsDisk, &data, index)?,
                None => (Meta::open(overlaybd::layer::unwrap(Source::Path(data).open(DEFAULT_ENGINE)?)?)?, 0),
            };
            return write(output, compress, tar, cut, |sink| commit::commit_meta(&meta, &options, sink, progress));
        }
        let (layer, cut) = match &index {
            Some(index) => upper::open_as_layer(&OsDisk, &data, index)?,
            None => (open_layer(&Source::Path(data))?, 0),
        };
        write(output, compress, tar, cut, |sink| commit::commit(&layer, &options, sink, progress))
    };
    written_dict(py, &progress::run(py, progress, work)?)
}

#[pyfunction]
#[pyo3(signature = (lowers, output, *, upper = None, uuid = None, parent_uuid = None, tag = Vec::new(),
                    compress = None, tar = false, progress = None))]
#[allow(clippy::too_many_arguments)]
fn lsmt_merge<'py>(
    py: Python<'py>,
    lowers: Vec<Lower<'_>>,
    output: RawFd,
    upper: Option<turbo::Upper>,
    uuid: Option<String>,
    parent_uuid: Option<String>,
    tag: Vec<u8>,
    compress: Option<Compress>,
    tar: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let lowers: Vec<LowerSource> = lowers.into_iter().map(LowerSource::from).collect();
    let work = |progress: &mut Progress<'_>| {
        let options = commit_options(uuid.as_deref(), parent_uuid.as_deref(), tag)?;
        let open = |lower: LowerSource| overlaybd::layer::open_stored(&lower.open(DEFAULT_ENGINE)?);
        let mut layers = lowers.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut cut = 0;
        if let Some(upper) = &upper {
            let (data, index) = upper.files();
            let (layer, records) = match upper.target()? {
                Some(target) => {
                    let (meta, records) = upper::open_as_meta(&OsDisk, data, index)?;
                    (meta.with_target(target)?, records)
                }
                None => upper::open_as_layer(&OsDisk, data, index)?,
            };
            layers.push(layer);
            cut = records;
        }
        write(output, compress, tar, cut, |sink| commit::merge(layers, &options, sink, progress))
    };
    written_dict(py, &progress::run(py, progress, work)?)
}

#[pyfunction]
#[pyo3(signature = (data, index, *, scratch = false))]
fn lsmt_seal(py: Python<'_>, data: PathBuf, index: PathBuf, scratch: bool) -> PyResult<u64> {
    let work = || {
        let upper = Upper::open(disk(scratch), &data, &index)?;
        let cut = upper.cut_records();
        upper.seal().map(|_| cut)
    };
    py.detach(work).map_err(to_py)
}

#[pyfunction]
fn lsmt_resize(py: Python<'_>, data: PathBuf, index: PathBuf, size: u64) -> PyResult<()> {
    py.detach(|| Upper::open(&OsDisk, &data, &index)?.resize(size)).map_err(to_py)
}

#[pyfunction]
#[pyo3(signature = (source, size, output, *, compress = None, tar = false, progress = None))]
fn lsmt_import(
    py: Python<'_>,
    source: RawFd,
    size: u64,
    output: RawFd,
    compress: Option<Compress>,
    tar: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let work = |progress: &mut Progress<'_>| {
        let source = Raw::of_size(file(source)?, size)?;
        let options = CommitOptions::default();
        write(output, compress, tar, 0, |sink| import(&source, Holes::Zeros, &options, sink, progress))
    };
    written_dict(py, &progress::run(py, progress, work)?)
}

#[pyfunction]
fn layer_info(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let describe = || {
        let blob: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &path)?);
        inspect::describe(&blob)
    };
    description_dict(py, &py.detach(describe).map_err(to_py)?)
}

#[pyfunction]
#[pyo3(signature = (path, progress = None))]
fn layer_verify(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Bound<'_, PyDict>> {
    let work = |progress: &mut Progress<'_>| {
        let blob: Arc<dyn Blob> = Arc::new(FileBlob::open(&OsDisk, &path)?);
        inspect::verify(&blob, progress)
    };
    description_dict(py, &progress::run(py, progress, work)?)
}

fn description_dict<'py>(py: Python<'py>, found: &Description) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("size", found.stored_size)?;
    if let Some(member) = &found.tar {
        let tar = PyDict::new(py);
        tar.set_item("name", &member.name)?;
        tar.set_item("offset", member.offset)?;
        tar.set_item("size", member.size)?;
        dict.set_item("tar", tar)?;
    }
    if let Some(info) = &found.zfile {
        let zfile = PyDict::new(py);
        zfile.set_item("algorithm", info.algorithm.name())?;
        zfile.set_item("block_size", info.header.block_size)?;
        zfile.set_item("blocks", info.header.blocks)?;
        zfile.set_item("checksum", info.header.checksum)?;
        zfile.set_item("stored_size", info.stored_size)?;
        zfile.set_item("original_size", info.header.original_size)?;
        dict.set_item("zfile", zfile)?;
    }
    if let Some(info) = &found.lsmt {
        dict.set_item("lsmt", lsmt_dict(py, info)?)?;
    }
    Ok(dict)
}

fn lsmt_dict<'py>(py: Python<'py>, info: &Info) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("kind", info.kind.name())?;
    dict.set_item("header", header_dict(py, &info.header)?)?;
    if let Some(trailer) = &info.trailer {
        dict.set_item("trailer", header_dict(py, trailer)?)?;
    }
    if let Some(IndexInfo { segments, zeroed, padding, mapped_bytes, remote_bytes, zeroed_bytes, longest_sectors }) =
        &info.index
    {
        let index = PyDict::new(py);
        index.set_item("segments", segments)?;
        index.set_item("zeroed", zeroed)?;
        index.set_item("padding", padding)?;
        index.set_item("mapped_bytes", mapped_bytes)?;
        if info.kind == FileKind::Turbo {
            index.set_item("remote_bytes", remote_bytes)?;
        }
        index.set_item("zeroed_bytes", zeroed_bytes)?;
        index.set_item("longest_sectors", longest_sectors)?;
        dict.set_item("index", index)?;
    }
    Ok(dict)
}

fn header_dict<'py>(py: Python<'py>, header: &Header) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("flags", header.flags)?;
    dict.set_item("virtual_size", header.virtual_size)?;
    dict.set_item("uuid", header.uuid.to_string())?;
    dict.set_item("parent_uuid", header.parent_uuid.to_string())?;
    dict.set_item("tag", String::from_utf8_lossy(&header.tag))?;
    dict.set_item("index_offset", header.index_offset)?;
    dict.set_item("index_entries", header.index_entries)?;
    Ok(dict)
}

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(lsmt_create, module)?)?;
    module.add_function(wrap_pyfunction!(lsmt_commit, module)?)?;
    module.add_function(wrap_pyfunction!(lsmt_merge, module)?)?;
    module.add_function(wrap_pyfunction!(lsmt_seal, module)?)?;
    module.add_function(wrap_pyfunction!(lsmt_resize, module)?)?;
    module.add_function(wrap_pyfunction!(lsmt_import, module)?)?;
    module.add_function(wrap_pyfunction!(layer_info, module)?)?;
    module.add_function(wrap_pyfunction!(layer_verify, module)?)
}
