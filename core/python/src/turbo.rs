//! Layers of turboOCI as Python gives them: metadata, and the target that it maps into.

use std::path::PathBuf;
use std::sync::Arc;

use overlaybd::blob::{Blob, FileBlob};
use overlaybd::cache::{self, CachedBlob};
use overlaybd::engine;
use overlaybd::gzip::{Index, View};
use overlaybd::image::{Stored, UpperFiles};
use overlaybd::sys::os::OsDisk;
use overlaybd::tar::Compression;
use overlaybd::{Error, Kind, Result};
use pyo3::prelude::*;

use crate::cache::ChunkCache;
use crate::image::Source;
use crate::merkle::MerkleTree;
use crate::remote::RemoteBlob;

/// A lower that is stored in two blobs.
#[pyclass(name = "TurboLayer", module = "obdcore", frozen)]
pub struct TurboLayer {
    meta: Source,
    target: Target,
}

/// Where the target of a layer is.
#[derive(Clone)]
struct Target {
    source: Source,
    gzip_index: Option<PathBuf>,
    /// Keeps what is unpacked, by the digest of what is packed.
    cache: Option<(Arc<cache::ChunkCache>, String)>,
}

/// One blob as Python gives it.
#[derive(FromPyObject)]
enum BlobArg<'py> {
    Remote(PyRef<'py, RemoteBlob>),
    Path(PathBuf),
}

impl From<BlobArg<'_>> for Source {
    fn from(blob: BlobArg<'_>) -> Source {
        match blob {
            BlobArg::Remote(blob) => Source::Blob(blob.blob()),
            BlobArg::Path(path) => Source::Path(path),
        }
    }
}

#[pymethods]
impl TurboLayer {
    #[new]
    #[pyo3(signature = (meta, target, gzip_index = None, *, cache = None, digest = String::new()))]
    fn new(
        meta: BlobArg<'_>,
        target: BlobArg<'_>,
        gzip_index: Option<PathBuf>,
        cache: Option<&ChunkCache>,
        digest: String,
    ) -> Self {
        let cache = cache.map(|cache| (Arc::clone(&cache.cache), digest));
        TurboLayer { meta: meta.into(), target: Target { source: target.into(), gzip_index, cache } }
    }
}

impl Target {
    /// The uncompressed tar.
    fn open(&self, kind: engine::Kind) -> Result<Arc<dyn Blob>> {
        let blob = self.source.open(kind)?;
        let Some(index) = &self.gzip_index else {
            if let Source::Path(_) = self.source {
                refuse_compressed(&*blob)?;
            }
            return Ok(blob);
        };
        let index = Arc::new(Index::open(Arc::new(FileBlob::open(&OsDisk, index)?))?);
        let view = Arc::new(View::new(blob, Arc::clone(&index))?);
        match &self.cache {
            None => Ok(view),
            Some((cache, digest)) => Ok(CachedBlob::over(cache, &index.key(digest)?, view)?.blob),
        }
    }
}

/// Refuses what would be read as it is stored, and so as something else.
fn refuse_compressed(blob: &dyn Blob) -> Result<()> {
    let mut start = [0; 4];
    let len = blob.len().min(4) as usize;
    blob.read_at(&mut start[..len], 0)?;
    let name = match Compression::of(&start[..len]) {
        Some(Compression::Gzip) => "gzip",
        Some(Compression::Zstd) => "zstd",
        None => return Ok(()),
    };
    let what = format!("the target is compressed with {name}: a gzip index is needed, of a gzip file");
    Err(Error::new(Kind::Unsupported, what).in_file(blob.name()))
}

/// A lower as Python gives it.
#[derive(FromPyObject)]
pub enum Lower<'py> {
    Remote(PyRef<'py, RemoteBlob>),
    Turbo(PyRef<'py, TurboLayer>),
    Proven(PathBuf, PyRef<'py, MerkleTree>),
    Path(PathBuf),
}

/// A lower that can be opened without Python.
pub struct LowerSource {
    layer: Source,
    target: Option<Target>,
}

impl From<Lower<'_>> for LowerSource {
    fn from(lower: Lower<'_>) -> LowerSource {
        let plain = |layer| LowerSource { layer, target: None };
        match lower {
            Lower::Remote(blob) => plain(Source::Blob(blob.blob())),
            Lower::Path(path) => plain(Source::Path(path)),
            Lower::Proven(path, tree) => plain(Source::Proven(path, Arc::clone(&tree.tree))),
            Lower::Turbo(layer) => LowerSource { layer: layer.meta.clone(), target: Some(layer.target.clone()) },
        }
    }
}

impl LowerSource {
    /// The bytes of the layer, still in whatever it is wrapped, and those of its target. `kind` is how files are read.
    pub fn open(&self, kind: engine::Kind) -> Result<Stored> {
        let target = self.target.as_ref().map(|target| target.open(kind)).transpose()?;
        Ok(Stored { blob: self.layer.open(kind)?, target })
    }
}

/// An upper as Python gives it: data, index, and for one of turboOCI the target and perhaps its gzip index.
#[derive(FromPyObject)]
pub enum Upper {
    Plain(PathBuf, PathBuf),
    Turbo(PathBuf, PathBuf, PathBuf),
    Gzip(PathBuf, PathBuf, PathBuf, Option<PathBuf>),
}

impl Upper {
    /// Data and index.
    pub fn files(&self) -> (&PathBuf, &PathBuf) {
        match self {
            Upper::Plain(data, index) | Upper::Turbo(data, index, _) | Upper::Gzip(data, index, _, _) => (data, index),
        }
    }

    /// The target, opened, of a layer of turboOCI. An empty file is one too, for building: nothing is read of it.
    pub fn target(&self) -> Result<Option<Arc<dyn Blob>>> {
        let (path, gzip_index) = match self {
            Upper::Plain(..) => return Ok(None),
            Upper::Turbo(_, _, path) => (path, None),
            Upper::Gzip(_, _, path, gzip_index) => (path, gzip_index.clone()),
        };
        let target = Target { source: Source::Path(path.clone()), gzip_index, cache: None };
        target.open(engine::Kind::default()).map(Some)
    }

    /// What an image is opened with.
    pub fn open(&self) -> Result<UpperFiles<'_>> {
        let (data, index) = self.files();
        Ok(UpperFiles { data, index, target: self.target()? })
    }
}

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TurboLayer>()
}
