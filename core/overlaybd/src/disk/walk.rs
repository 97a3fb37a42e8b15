//! A disk from its start to its end, in runs of what has to be stored and of zeros.

use super::DiskImage;
use crate::device::ExtentKind;
use crate::error::Result;
use crate::progress::Progress;

/// Bytes read at a time.
const WINDOW: u64 = 1 << 20;
/// Zeros are told from data in units of this many bytes: the block of the usual file systems.
pub const UNIT: u64 = 4096;

/// What holes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// Zeros, like all that reads as such: runs depend on nothing but what the disk reads as.
    Zeros,
    /// That whatever is there otherwise stays: no run touches them.
    Through,
}

/// A run, in bytes that are a multiple of 512.
#[derive(Debug)]
pub enum Run<'a> {
    /// Bytes, of which no aligned unit is all zeros.
    Data(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
}

/// Calls `each` with offset and run, in ascending order; with [`Holes::Zeros`] there are no runs of zeros. Progress is
/// in bytes of the disk.
///
/// # Errors
/// Those of the disk, of `each` and of `progress`.
pub fn walk(
    disk: &dyn DiskImage,
    holes: Holes,
    each: &mut dyn FnMut(u64, Run<'_>) -> Result<()>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let size = disk.len();
    let mut window = vec![0; WINDOW as usize];
    let mut at = 0;
    while at < size {
        let extent = disk.extent(at)?;
        let mut end = at + extent.len;
        match (extent.kind, holes) {
            (ExtentKind::Data, _) => {
                if holes == Holes::Zeros {
                    // Whole units, so that it makes no difference where the image has holes.
                    at -= at % UNIT;
                    end = end.next_multiple_of(UNIT).min(size);
                }
                while at < end {
                    let part = &mut window[..(WINDOW - at % UNIT).min(end - at) as usize];
                    disk.read_at(part, at)?;
                    split(part, at, holes, each)?;
                    at += part.len() as u64;
                    progress(at.min(size - 1), size)?;
                }
            }
            (ExtentKind::Zero, Holes::Through) => each(at, Run::Zeros(extent.len))?,
            (ExtentKind::Zero | ExtentKind::Hole, _) => {}
        }
        at = end;
        progress(at.min(size - 1), size)?;
    }
    progress(size, size)
}

/// The runs of one window.
fn split(part: &[u8], at: u64, holes: Holes, each: &mut dyn FnMut(u64, Run<'_>) -> Result<()>) -> Result<()> {
    const ZEROS: [u8; UNIT as usize] = [0; UNIT as usize];
    let first = (UNIT - at % UNIT) as usize;
    let (mut start, mut zeros, mut next) = (0, false, 0);
    let mut finish = |start: usize, end: usize, zeros: bool| match (zeros, holes) {
        _ if start == end => Ok(()),
        (false, _) => each(at + start as u64, Run::Data(&part[start..end])),
        (true, Holes::Through) => each(at + start as u64, Run::Zeros((end - start) as u64)),
        (true, Holes::Zeros) => Ok(()),
    };
    while next < part.len() {
        let len = if next == 0 { first } else { UNIT as usize }.min(part.len() - next);
        let unit = &part[next..next + len];
        let is_zeros = unit == &ZEROS[..len];
        if is_zeros != zeros {
            finish(start, next, zeros)?;
            (start, zeros) = (next, is_zeros);
        }
        next += len;
    }
    finish(start, next, zeros)
}
