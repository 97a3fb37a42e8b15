//! A SCSI disk: what it says of itself, and what a command asks of the device behind it.
//!
//! Commands become a [`Request`] here, checked against the device; carrying it out is the server's.

mod capacity;
mod inquiry;
mod lists;
mod mode;
mod opcodes;
mod request;
mod words;

pub use lists::{unmap_ranges, MAX_LIST_BYTES};
pub use opcodes::op;
pub use request::{Compare, Request, Span};
pub use words::{Cdb, Sense};

use std::sync::atomic::AtomicU64;

use crate::sync::RwLock;

use crate::error::{Error, Kind, Result};
use crate::limits::{TCMU_MAX_NAME, TCMU_MAX_SERIAL, TCMU_MAX_TRANSFER_BYTES};

/// Sector sizes that initiators know.
const BLOCK_BYTES: [u32; 2] = [512, 4096];

/// What a logical unit says of itself, beside what its device says.
pub struct Lun {
    block_bytes: u32,
    serial: String,
    name: String,
    max_transfer_blocks: u32,
    /// Bytes of the device as the initiator last heard.
    told_size: AtomicU64,
    /// Held alone by COMPARE AND WRITE, shared by all other writes.
    pub(super) writes: RwLock<()>,
}

impl Lun {
    /// A unit of sectors of 512 or 4096 bytes. `serial` tells it from all others, `name` says what it is; both
    /// are printable ASCII, the name is cut where it is too long. `data_bytes` is the room for data of commands under
    /// way.
    ///
    /// Errors: `Invalid` for another sector size, a serial or name that will not do, and a device without a sector.
    pub fn new(block_bytes: u32, serial: &str, name: &str, size: u64, data_bytes: usize) -> Result<Lun> {
        let printable = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
        let wrong = |what: String| Err(Error::new(Kind::Invalid, what));
        if !BLOCK_BYTES.contains(&block_bytes) {
            return wrong(format!("sectors of {block_bytes} bytes: 512 and 4096 are known"));
        }
        if serial.is_empty() || serial.len() > TCMU_MAX_SERIAL || !printable(serial) {
            return wrong(format!("a serial number of 1 to {TCMU_MAX_SERIAL} printable characters is needed"));
        }
        if size < u64::from(block_bytes) {
            return wrong(format!("a device of {size} bytes has no sector"));
        }
        let name = name.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' });
        // A quarter, so that one request does not keep all others waiting.
        let transfer = (data_bytes / 4).clamp(64 << 10, TCMU_MAX_TRANSFER_BYTES) as u32;
        Ok(Lun {
            block_bytes,
            serial: serial.to_string(),
            name: name.take(TCMU_MAX_NAME).collect(),
            max_transfer_blocks: transfer / block_bytes,
            told_size: AtomicU64::new(size),
            writes: RwLock::new(()),
        })
    }

    /// Bytes of a sector.
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }
}

#[cfg(test)]
mod tests;
