//! The headers of an archive without what they are of, each with the place of that: enough to apply it by reference.
//!
//! Format: turbooci, "Header stream".

use std::io::Read;

use super::Archive;
use crate::error::Result;
use crate::sink::Sink;

/// Writes the headers of all members of an archive of which nothing was read; returns how many there are.
/// [`Archive::of_headers`] reads what is written. After each member `progress` is told where in the archive it is, and
/// of its input.
///
/// # Errors
/// Those of the archive, of `sink` and of `progress`.
pub fn export<R: Read>(
    archive: &mut Archive<R>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64, &R) -> Result<()>,
) -> Result<u64> {
    archive.keep_headers();
    let mut members = 0;
    while archive.next_entry()?.is_some() {
        sink.write(archive.kept())?;
        members += 1;
        progress(archive.position(), archive.input())?;
    }
    Ok(members)
}
