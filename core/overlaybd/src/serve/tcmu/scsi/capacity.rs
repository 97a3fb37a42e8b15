//! Short answers: capacity, what is stored, units, sense on request.

use super::request::Span;
use super::words::{Cdb, Sense};
use super::Lun;
use crate::device::{BlockDevice, ExtentKind};
use crate::error::Error;
use crate::limits::TCMU_MAX_STATUS_RUNS;

impl Lun {
    fn last_block(&self, device: &dyn BlockDevice) -> u64 {
        (device.size() / u64::from(self.block_bytes)).saturating_sub(1)
    }

    /// READ CAPACITY(10).
    pub(super) fn capacity_10(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Vec<u8>, Sense> {
        let partial = cdb.byte(8) & 1 != 0;
        if !partial && cdb.number::<4>(2) != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        // All ones say that the longer form has to be asked.
        let last = u32::try_from(self.last_block(device)).unwrap_or(u32::MAX);
        Ok([last.to_be_bytes(), self.block_bytes.to_be_bytes()].concat())
    }

    /// READ CAPACITY(16).
    pub(super) fn capacity_16(&self, device: &dyn BlockDevice) -> Vec<u8> {
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&self.last_block(device).to_be_bytes());
        data[8..12].copy_from_slice(&self.block_bytes.to_be_bytes());
        // Blocks can be unmapped, and those that are read as zeros.
        data[14] = if device.read_only() { 0 } else { 0xc0 };
        data
    }
}

impl Lun {
    /// GET LBA STATUS: runs of sectors from the start of `span` on, stored or not, as many as fit `room` bytes.
    ///
    /// Errors: those of the device.
    pub fn status(&self, span: Span, room: u32, device: &dyn BlockDevice) -> Result<Vec<u8>, Error> {
        const HEADER: usize = 8;
        const RUN: usize = 16;
        const DEALLOCATED: u8 = 1;
        let unit = u64::from(self.block_bytes);
        let max = ((room as usize).saturating_sub(HEADER) / RUN).clamp(1, TCMU_MAX_STATUS_RUNS);
        // First block, number of blocks, whether deallocated. A block that is stored in part is stored.
        let mut runs: Vec<(u64, u64, bool)> = Vec::new();
        let (mut at, mut done, last) = (span.offset, span.offset / unit, (span.offset + span.len) / unit);
        for extent in device.extents(span.offset, span.len, 2 * max)? {
            at += extent.len;
            let free = extent.kind != ExtentKind::Data;
            let end = if free { at / unit } else { at.div_ceil(unit) }.min(last);
            let Some(blocks) = end.checked_sub(done).filter(|blocks| *blocks > 0) else { continue };
            match runs.last_mut() {
                Some(run) if run.2 == free => run.1 += blocks,
                _ => runs.push((done, blocks, free)),
            }
            done = end;
        }
        runs.truncate(max);
        let mut data = vec![0; HEADER];
        data[..4].copy_from_slice(&((HEADER - 4 + runs.len() * RUN) as u32).to_be_bytes());
        for (first, blocks, free) in runs {
            data.extend(first.to_be_bytes());
            data.extend(u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
            data.extend([if free { DEALLOCATED } else { 0 }, 0, 0, 0]);
        }
        data.truncate(room as usize);
        Ok(data)
    }
}

/// REPORT LUNS: one unit, number 0.
pub fn luns(cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    match cdb.byte(2) {
        0 | 2 => Ok([&[0, 0, 0, 8][..], &[0; 12]].concat()),
        1 => Ok(vec![0; 8]), // no well-known units
        _ => Err(Sense::INVALID_FIELD),
    }
}

/// REQUEST SENSE: errors come with the commands that they are of, so there is nothing left to tell.
pub fn sense(cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    let descriptors = cdb.byte(1) & 1 != 0;
    if descriptors {
        return Ok(vec![0x72, 0, 0, 0, 0, 0, 0, 0]);
    }
    Ok(Sense::NONE.fixed().to_vec())
}
