//! ZFile: block-compressed random-access file.

use std::sync::Arc;

use crate::blob::Blob;
use crate::error::{Error, Kind, Result};

/// Whether the blob is a zfile.
pub fn is_zfile(_blob: &dyn Blob) -> Result<bool> {
    Ok(false)
}

/// A zfile, read as the file that was compressed.
pub struct Reader {
    blob: Arc<dyn Blob>,
}

impl Reader {
    /// Opens a zfile.
    pub fn open(blob: Arc<dyn Blob>) -> Result<Self> {
        Ok(Reader { blob })
    }
}

impl Blob for Reader {
    fn name(&self) -> &str {
        self.blob.name()
    }

    fn len(&self) -> u64 {
        self.blob.len()
    }

    fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
        Err(Error::new(Kind::Unsupported, "zfile"))
    }
}
