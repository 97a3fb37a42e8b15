//! How long work says how far it is, and how it is told to stop.

use crate::error::Result;

/// Called with `(done, total)`, both in bytes of the work's own measure; `total` is 0 where nobody
/// knows it. Work calls it often (every few milliseconds to every few hundred); whoever listens
/// decides which calls matter. An error ends the work, which returns that error.
pub type Progress<'a> = dyn FnMut(u64, u64) -> Result<()> + 'a;

/// A listener for those who do not care: `verify(&mut progress::silent)`.
pub fn silent(_done: u64, _total: u64) -> Result<()> {
    Ok(())
}
