//! A blob in a local file.

use std::path::Path;
use std::sync::Arc;

use super::{check_range, Blob};
use crate::error::{Error, Result};
use crate::sys::{read_exact, Disk, File, Mode};

/// A local file, read with `pread`. Its length is taken once, at open.
pub struct FileBlob {
    file: Arc<dyn File>,
    name: String,
    len: u64,
}

impl FileBlob {
    /// Opens `path` read-only.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        Self::new(disk.open(path, Mode::Read)?)
    }

    /// Uses a file that is open already.
    pub fn new(file: Arc<dyn File>) -> Result<Self> {
        let len = file.len().map_err(|e| Error::io("length", e).in_file(file.path()))?;
        let name = file.path().display().to_string();
        Ok(FileBlob { file, name, len })
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
        read_exact(&*self.file, buf, offset)
    }

    fn as_file(&self) -> Option<(&Arc<dyn File>, u64)> {
        Some((&self.file, 0))
    }
}
