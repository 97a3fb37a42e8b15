//! From a stored blob to the layer inside: peels the tar wrapper, then the zfile.

use std::sync::Arc;

use crate::blob::{heal, Blob};
use crate::error::Result;
use crate::lsmt::Layer;
use crate::{tar, zfile};

/// Opens the layer in a stored blob, whatever it is wrapped in. If anything of it proves wrong and the blob has it
/// from elsewhere, that is fetched again first.
///
/// Errors: those of [`unwrap`] and of [`Layer::open`].
pub fn open(blob: &Arc<dyn Blob>) -> Result<Layer> {
    heal(blob, |blob| Layer::open(unwrap(blob)?))
}

/// The content of a layer blob, whatever it is wrapped in. A blob that is neither tar nor zfile
/// comes back as it is.
///
/// Errors: `Corrupt` for a tar or zfile that is recognised but broken; `Io` from the source.
pub fn unwrap(blob: Arc<dyn Blob>) -> Result<Arc<dyn Blob>> {
    let inner = tar::unwrap(blob)?;
    if zfile::is_zfile(&*inner)? {
        return Ok(Arc::new(zfile::Reader::open(inner)?));
    }
    Ok(inner)
}
