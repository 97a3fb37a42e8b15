//! Whether two files, of two images perhaps, have the same content: read only where they do not share their bytes.

use super::device::Place;
use super::{FileSystem, Node};
use crate::error::{Error, Kind, Result};

/// Extents of a file whose places are looked at together; holes cost nothing, however large they are.
const EXTENTS: usize = 512;
/// Bytes read and compared at a time.
const PIECE: u64 = 1 << 20;

/// The first byte in which two regular files differ; the end of the shorter one if it is how the longer one begins;
/// None if they are the same. `progress` is called with bytes that have been looked at, and may end it.
///
/// # Errors
/// `Invalid` for other types of files; those of reading; that of `progress`.
pub fn first_difference(
    one: (&FileSystem, &Node),
    other: (&FileSystem, &Node),
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Option<u64>> {
    one.0.check_regular(one.1)?;
    other.0.check_regular(other.1)?;
    let end = one.1.size.min(other.1.size);
    let mut at = 0;
    while at < end {
        let (ones, others) = (places(one, at, end)?, places(other, at, end)?);
        // As far as both are known: of a file in many pieces that is not all of it.
        let known = ones.last().map_or(end, |run| run.0).min(others.last().map_or(end, |run| run.0));
        for (from, to) in apart(at, known, &ones, &others) {
            if let Some(differs) = read_and_compare(one, other, from, to, progress)? {
                return Ok(Some(differs));
            }
        }
        if known <= at {
            return Err(Error::new(Kind::Corrupt, "a file whose parts make no sense"));
        }
        progress(known - at)?;
        at = known;
    }
    Ok((one.1.size != other.1.size).then_some(end))
}

/// A run of a file: its end, and where it is.
type Run = (u64, Place);

/// Where a part of a file lies.
fn places((files, node): (&FileSystem, &Node), from: u64, to: u64) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut at = from;
    let extents = files.extents_from(node, from, to, EXTENTS)?;
    for extent in &extents {
        if extent.offset > at {
            runs.push((extent.offset, Place::Zeros));
        }
        at = extent.offset;
        files.device.places(extent.device, extent.len, &mut |len, place| {
            at += len;
            runs.push((at, place));
        });
    }
    if at < to && extents.len() < EXTENTS {
        runs.push((to, Place::Zeros));
    }
    Ok(runs)
}

/// The parts between two bytes that do not have the same place in both files.
fn apart(from: u64, to: u64, ones: &[Run], others: &[Run]) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    // Where the present runs begin.
    let (mut i, mut j, mut start_i, mut start_j) = (0, 0, from, from);
    let mut at = from;
    while at < to {
        let (Some((end_i, one)), Some((end_j, other))) = (ones.get(i), others.get(j)) else { break };
        let end = (*end_i).min(*end_j).min(to);
        let same = match (one, other) {
            (Place::Zeros, Place::Zeros) => true,
            (Place::Layer(a, offset_a), Place::Layer(b, offset_b)) => {
                a == b && offset_a + (at - start_i) == offset_b + (at - start_j)
            }
            _ => false,
        };
        if !same && end > at {
            match found.last_mut() {
                Some(last) if last.1 == at => last.1 = end,
                _ => found.push((at, end)),
            }
        }
        at = end;
        if *end_i <= at {
            (i, start_i) = (i + 1, *end_i);
        }
        if *end_j <= at {
            (j, start_j) = (j + 1, *end_j);
        }
    }
    found
}

fn read_and_compare(
    one: (&FileSystem, &Node),
    other: (&FileSystem, &Node),
    from: u64,
    to: u64,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Option<u64>> {
    let mut at = from;
    while at < to {
        let len = (to - at).min(PIECE) as usize;
        let (mut a, mut b) = (vec![0; len], vec![0; len]);
        one.0.read_at(one.1, &mut a, at)?;
        other.0.read_at(other.1, &mut b, at)?;
        if let Some(place) = a.iter().zip(&b).position(|(a, b)| a != b) {
            return Ok(Some(at + place as u64));
        }
        at += len as u64;
        progress(0)?;
    }
    Ok(None)
}
