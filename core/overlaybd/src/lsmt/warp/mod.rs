//! Layers of turboOCI ("warp" layers): metadata of a file system is stored in them, content lies in the original
//! layer, the *target*, which is somewhere else.
//!
//! Format: lsmt, "Warp files". The tag of an index entry is its type: [`META`] maps into the layer's own file,
//! [`REMOTE`] into the target.

mod join;
mod meta;

pub use join::Target;
pub(super) use meta::is_warp;
pub use meta::{open, Meta};

use crate::error::Result;

/// Type of an entry whose sectors are in the layer itself.
pub const META: u8 = 0;
/// Type of an entry whose sectors are in the target.
pub const REMOTE: u8 = 1;

/// What content in a target can be mapped into: the writable layer of an image that is being built.
pub trait RemoteMap {
    /// Has `len` bytes of the device, from `device_offset` on, read from the target, where they begin at
    /// `target_offset`. All three are multiples of 512. Later writes, discards and maps count over earlier ones.
    ///
    /// The target need not be there yet, so that nothing is said of its end.
    ///
    /// # Errors
    /// `OutOfBounds` for odd numbers and beyond the device; `Unsupported` where there is no such layer; those of
    /// writing to it.
    fn map(&mut self, device_offset: u64, len: u64, target_offset: u64) -> Result<()>;
}
