//! A registry blob without a cache: every read is a GET.

use std::sync::Arc;

use super::{Source, LANE};
use crate::audit::{self, Access};
use crate::blob::{check_range, Blob};
use crate::error::{Error, Result};
use crate::limits::{MAX_FETCH_BYTES, MAX_YIELD};

/// Reads straight from a [`Source`].
pub struct RemoteBlob {
    source: Arc<Source>,
    len: u64,
}

impl RemoteBlob {
    /// Uses `len` as the length of the blob; None asks the registry for it (one GET of one byte).
    ///
    /// Errors: those of [`Source::fetch`].
    pub fn open(source: impl Into<Arc<Source>>, len: Option<u64>) -> Result<Self> {
        let source = source.into();
        let len = match source.proven_len(len)? {
            Some(len) => len,
            None => source.fetch(0, &mut [0], None)?.total,
        };
        Ok(RemoteBlob { source, len })
    }

    fn fetch(&self, access: Access, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        for part in buf.chunks_mut(MAX_FETCH_BYTES) {
            let n = part.len();
            let awaited = !matches!(access, Access::BackgroundDownload);
            let fetch = || self.source.fetch_ahead(at, part, Some(self.len), 0, None, awaited);
            let (got, _) = audit::remote(access, self.name(), at, n, fetch)?;
            if got.len != n {
                return Err(Error::corrupt("answer too short").in_file(self.name()).at(at));
            }
            at += got.len as u64;
        }
        Ok(())
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl Blob for RemoteBlob {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        self.fetch(Access::Download, buf, offset)
    }

    fn copy_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self, offset, buf.len())?;
        LANE.give_way(MAX_YIELD);
        self.fetch(Access::BackgroundDownload, buf, offset)
    }

    fn is_ready(&self, _offset: u64, _len: u64) -> bool {
        false
    }

    /// Every read is a new GET, so it always may bring other bytes.
    fn distrust(&self, offset: u64, len: u64) -> Result<bool> {
        self.source.distrusted(offset, len);
        Ok(true)
    }
}
