//! Short answers: capacity, units, sense on request.

use super::words::{Cdb, Sense};
use super::Lun;
use crate::device::BlockDevice;

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
