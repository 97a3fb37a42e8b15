//! From a stored blob to the layer inside: peels the tar wrapper, then the zfile.

use std::sync::Arc;

use crate::blob::{heal, Blob};
use crate::error::Result;
use crate::lsmt::{warp, Layer};
use crate::{tar, zfile};

/// A layer as it is stored: its wrappers are peeled off when it is opened.
pub struct Stored {
    /// The layer.
    pub blob: Arc<dyn Blob>,
    /// What a layer of turboOCI maps to, uncompressed; this is what makes it one.
    pub target: Option<Arc<dyn Blob>>,
}

impl From<Arc<dyn Blob>> for Stored {
    fn from(blob: Arc<dyn Blob>) -> Stored {
        Stored { blob, target: None }
    }
}

/// Opens the layer in a stored blob, whatever it is wrapped in. If anything of it proves wrong and the blob has it
/// from elsewhere, that is fetched again first.
///
/// Errors: those of [`unwrap`] and of [`Layer::open`].
pub fn open(blob: &Arc<dyn Blob>) -> Result<Layer> {
    open_stored(&Stored::from(Arc::clone(blob)))
}

/// As [`open`], of a layer that may be of turboOCI: then it is read with its target.
///
/// Errors: as [`open`]; those of [`warp::open`].
pub fn open_stored(stored: &Stored) -> Result<Layer> {
    open_tapped(stored, |blob| blob)
}

/// As [`open_stored`], with something put between the layer, out of its wrappers, and its bytes.
pub(crate) fn open_tapped(stored: &Stored, tap: impl Fn(Arc<dyn Blob>) -> Arc<dyn Blob>) -> Result<Layer> {
    heal(&stored.blob, |blob| match (unwrap(blob)?, &stored.target) {
        (meta, Some(target)) => warp::open(meta, Arc::clone(target), &tap),
        (layer, None) => Layer::open(tap(layer)),
    })
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
