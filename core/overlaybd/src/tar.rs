//! The tar wrapper around a layer blob.

use std::sync::Arc;

use crate::blob::Blob;
use crate::error::Result;

/// The payload of a tar-wrapped blob, or the blob itself if it is not a tar.
pub fn unwrap(blob: Arc<dyn Blob>) -> Result<Arc<dyn Blob>> {
    Ok(blob)
}
