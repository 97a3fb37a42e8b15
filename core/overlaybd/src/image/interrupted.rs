//! What a process left that died while it took a snapshot: announced, perhaps cut, but not put in place.

use std::path::Path;

use super::live::Publish;
use crate::error::{Kind, Result};
use crate::lsmt::upper::clear_unfinished;
use crate::lsmt::Upper;
use crate::sys::Disk;

/// Does what is left to do of an announced snapshot: the pair `old` is sealed, then the configuration that has its data
/// file as topmost lower and the pair `new` as upper is put in place. May be repeated after it failed or was killed.
///
/// False if the new upper is not there. Then no snapshot was taken, and what was announced of it is to be taken back:
/// those files are durable before it is announced, and removed if it comes to nothing.
///
/// # Errors
/// `Denied` if the image is open elsewhere, where the snapshot may be under way; what opening and sealing say, and
/// `publish`. The image is not to be opened with its old configuration then: it would lack acknowledged writes.
pub fn finish_snapshot(
    disk: &dyn Disk,
    old: (&Path, &Path),
    new: (&Path, &Path),
    publish: &mut dyn Publish,
) -> Result<bool> {
    if clear_unfinished(disk, new.0, new.1)? {
        return Ok(false);
    }
    // Both are held until all is done, and the new one first: who takes a snapshot holds that to its end.
    let _upper = match Upper::open(disk, new.0, new.1) {
        Ok(upper) => upper,
        Err(e) if e.kind() == Kind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let frozen = Upper::open(disk, old.0, old.1)?;
    frozen.seal()?;
    publish.publish()?;
    Ok(true)
}
