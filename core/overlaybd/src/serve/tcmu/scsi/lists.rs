//! The list of ranges that UNMAP brings.

use super::request::Span;
use super::words::Sense;
use super::Lun;
use crate::device::BlockDevice;
use crate::limits::TCMU_MAX_UNMAP_RANGES;

const HEADER: usize = 8;
const DESCRIPTOR: usize = 16;

/// Bytes of the longest list that is looked at.
pub const MAX_LIST_BYTES: usize = HEADER + TCMU_MAX_UNMAP_RANGES * DESCRIPTOR;

/// The ranges to discard, all of them inside the device.
///
/// Errors: sense data for a list that is cut off, more than was said to be allowed, or outside the device.
pub fn unmap_ranges(lun: &Lun, list: &[u8], device: &dyn BlockDevice) -> Result<Vec<Span>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if list.len() < HEADER {
        return Err(Sense::LIST_LENGTH);
    }
    let len = usize::from(u16::from_be_bytes([list[2], list[3]]));
    let count = len / DESCRIPTOR;
    if count > TCMU_MAX_UNMAP_RANGES {
        return Err(Sense::INVALID_PARAMETER);
    }
    let Some(descriptors) = list.get(HEADER..HEADER + count * DESCRIPTOR) else { return Err(Sense::LIST_LENGTH) };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let mut spans = Vec::new();
    let mut total = 0;
    for descriptor in descriptors.chunks_exact(DESCRIPTOR) {
        let (lba, blocks) = (number(&descriptor[..8]), number(&descriptor[8..12]));
        total += blocks;
        if total > lun.max_unmap_blocks() {
            return Err(Sense::INVALID_PARAMETER);
        }
        spans.push(lun.span_of(lba, blocks, device)?);
    }
    Ok(spans)
}
