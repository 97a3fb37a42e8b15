//! A blob in a local file.

use std::path::Path;
use std::sync::Arc;

use super::{check_range, Blob};
use crate::audit;
use crate::engine::{self, Engine};
use crate::error::{Error, Result};
use crate::sys::{read_exact_with, Disk, File, Mode};

/// A local file, read by an [`Engine`]. Its length is taken once, at open.
pub struct FileBlob {
    file: Arc<dyn File>,
    engine: Arc<dyn Engine>,
    name: String,
    len: u64,
}

impl FileBlob {
    /// Opens `path` read-only.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        Self::new(disk.open(path, Mode::Read)?)
    }

    /// Opens `path` read-only, to be read in the way that `kind` says, if that can be had.
    pub fn open_with(disk: &dyn Disk, path: &Path, kind: engine::Kind) -> Result<Self> {
        Self::with_engine(disk.open(path, Mode::Read)?, kind)
    }

    /// Uses a file that is open already.
    pub fn new(file: Arc<dyn File>) -> Result<Self> {
        Self::with_engine(file, engine::Kind::Psync)
    }

    fn with_engine(file: Arc<dyn File>, kind: engine::Kind) -> Result<Self> {
        let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        let name = file.path().display().to_string();
        Ok(FileBlob { engine: engine::open(kind, &file), file, name, len })
    }

    /// The file underneath.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }
}

impl Blob for FileBlob {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        read_exact_with(self.file.path(), buf, offset, |buf, at| audit::layer_read(&*self.engine, &self.file, buf, at))
    }

    fn as_file(&self) -> Option<(&Arc<dyn File>, u64)> {
        Some((&self.file, 0))
    }
}
