//! What a cached blob fetches from: a registry, or any other blob that is slower than the disk.

use std::sync::Arc;

use crate::audit::{self, Access};
use crate::blob::Blob;
use crate::error::Result;
use crate::fetch::{Fetched, RemoteBlob, Source, Stream};
use crate::merkle::Tree;

/// The source of a cached blob.
#[derive(Clone)]
pub(super) enum Origin {
    Registry(Arc<Source>),
    Blob(Arc<dyn Blob>),
}

impl Origin {
    pub fn name(&self) -> &str {
        match self {
            Origin::Registry(source) => source.name(),
            Origin::Blob(blob) => blob.name(),
        }
    }

    /// What all that it gives is held against, if anything.
    pub fn tree(&self) -> Option<&Arc<Tree>> {
        match self {
            Origin::Registry(source) => source.tree(),
            Origin::Blob(_) => None,
        }
    }

    /// The length of the blob, as far as it is known beforehand.
    ///
    /// Errors: those of [`Source::proven_len`].
    pub fn known_len(&self, len: Option<u64>) -> Result<Option<u64>> {
        match self {
            Origin::Registry(source) => source.proven_len(len),
            Origin::Blob(_) => Ok(len),
        }
    }

    /// As [`Source::fetch_ahead`], for what, and whether it is awaited; only a registry sends anything ahead.
    pub fn fetch(
        &self,
        (access, awaited): (Access, bool),
        offset: u64,
        buf: &mut [u8],
        total: Option<u64>,
        ahead: u64,
        stream: Option<Stream>,
    ) -> Result<(Fetched, Option<Stream>)> {
        match self {
            Origin::Registry(source) => {
                let len = buf.len();
                let fetch = || source.fetch_ahead(offset, buf, total, ahead, stream, awaited);
                audit::remote(access, source.name(), offset, len, fetch)
            }
            Origin::Blob(blob) => {
                let len = blob.len().saturating_sub(offset).min(buf.len() as u64) as usize;
                blob.read_at(&mut buf[..len], offset)?;
                Ok((Fetched { len, total: blob.len() }, None))
            }
        }
    }

    /// Length and first bytes of the blob, by one fetch.
    pub fn learn(&self, chunk: u32) -> Result<(u64, Option<Vec<u8>>)> {
        let mut bytes = vec![0; chunk as usize];
        let (got, _) = self.fetch((Access::Download, true), 0, &mut bytes, None, 0, None)?;
        bytes.truncate(got.len);
        Ok((got.total, Some(bytes)))
    }

    /// Takes note that bytes of this range proved wrong.
    pub fn distrusted(&self, offset: u64, len: u64) {
        if let Origin::Registry(source) = self {
            source.distrusted(offset, len);
        }
    }

    /// The blob without a cache.
    pub fn uncached(self, len: u64) -> Result<Arc<dyn Blob>> {
        match self {
            Origin::Registry(source) => Ok(Arc::new(RemoteBlob::open(source, Some(len))?)),
            Origin::Blob(blob) => Ok(blob),
        }
    }
}
