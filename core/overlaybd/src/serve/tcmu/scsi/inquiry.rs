//! INQUIRY: standard data and the pages of vital product data.

use super::words::{Cdb, Sense};
use super::Lun;
use crate::device::BlockDevice;
use crate::limits::{TCMU_MAX_UNMAP_BYTES, TCMU_MAX_UNMAP_RANGES, TCMU_MAX_WRITE_SAME_BYTES};

const VENDOR: &[u8; 8] = b"LIO-ORG ";
const PRODUCT: &[u8; 16] = b"TCMU device     ";
const REVISION: &[u8; 4] = b"0002";

/// Bytes that are discarded at a time without leaving a rest.
const UNMAP_GRANULE_BYTES: u32 = 4096;

mod page {
    pub const PAGES: u8 = 0x00;
    pub const SERIAL: u8 = 0x80;
    pub const IDENTITY: u8 = 0x83;
    pub const LIMITS: u8 = 0xb0;
    pub const CHARACTERISTICS: u8 = 0xb1;
    pub const PROVISIONING: u8 = 0xb2;
    pub const ALL: [u8; 6] = [PAGES, SERIAL, IDENTITY, LIMITS, CHARACTERISTICS, PROVISIONING];
}

impl Lun {
    /// INQUIRY.
    pub(super) fn inquiry(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Vec<u8>, Sense> {
        let code = cdb.byte(2);
        match cdb.byte(1) & 3 {
            0 if code == 0 => return Ok(standard()),
            1 => {}
            _ => return Err(Sense::INVALID_FIELD),
        }
        let body = match code {
            page::PAGES => page::ALL.to_vec(),
            page::SERIAL => self.serial.clone().into_bytes(),
            page::IDENTITY => self.identity(),
            page::LIMITS => self.limits(device),
            // A disk without rotation.
            page::CHARACTERISTICS => [&[0, 1][..], &[0; 58]].concat(),
            page::PROVISIONING => provisioning(device),
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok([&[0, code][..], &(body.len() as u16).to_be_bytes(), &body].concat())
    }

    /// Names that no other unit has, and what this one is.
    fn identity(&self) -> Vec<u8> {
        const BINARY: u8 = 1;
        const ASCII: u8 = 2;
        let vendor_and_serial = [&VENDOR[..], self.serial.as_bytes()].concat();
        let designators: [(u8, u8, &[u8]); 3] =
            [(ASCII, 1, &vendor_and_serial), (BINARY, 3, &self.naa()), (ASCII, 0, self.name.as_bytes())];
        let mut list = Vec::new();
        for (code_set, kind, text) in designators {
            list.extend([code_set, kind, 0, text.len() as u8]);
            list.extend(text);
        }
        list
    }

    /// A registered name of the target's vendor that goes on with the digits of the serial number.
    fn naa(&self) -> [u8; 16] {
        let digits = self.serial.bytes().filter_map(|b| char::from(b).to_digit(16));
        let nibbles = [6, 0, 0, 1, 4, 0, 5].into_iter().chain(digits);
        let mut name = [0; 16];
        for (place, nibble) in nibbles.take(32).enumerate() {
            name[place / 2] |= (nibble as u8) << (4 * (1 - place % 2));
        }
        name
    }

    /// The most sectors of one WRITE SAME.
    pub(super) fn max_write_same_blocks(&self) -> u64 {
        TCMU_MAX_WRITE_SAME_BYTES / u64::from(self.block_bytes)
    }

    /// The most sectors of one COMPARE AND WRITE: as many as its field and the room for its data can take.
    pub(super) fn max_compare_blocks(&self) -> u8 {
        u8::try_from(self.max_transfer_blocks / 2).unwrap_or(u8::MAX)
    }

    /// The most sectors of one UNMAP.
    pub(super) fn max_unmap_blocks(&self) -> u64 {
        TCMU_MAX_UNMAP_BYTES / u64::from(self.block_bytes)
    }

    fn limits(&self, device: &dyn BlockDevice) -> Vec<u8> {
        let granule = UNMAP_GRANULE_BYTES / self.block_bytes;
        let mut body = vec![0; 60];
        let mut put = |at: usize, number: &[u8]| body[at - 4..at - 4 + number.len()].copy_from_slice(number);
        put(4, &[1]); // a WRITE SAME of no sectors is an error
        put(6, &(granule as u16).to_be_bytes());
        put(8, &self.max_transfer_blocks.to_be_bytes());
        put(12, &self.max_transfer_blocks.to_be_bytes());
        if !device.read_only() {
            put(5, &[self.max_compare_blocks()]);
            put(20, &(self.max_unmap_blocks() as u32).to_be_bytes());
            put(24, &(TCMU_MAX_UNMAP_RANGES as u32).to_be_bytes());
            put(28, &granule.to_be_bytes());
            put(32, &[0x80]); // the alignment, 0, is valid
            put(36, &self.max_write_same_blocks().to_be_bytes());
        }
        body
    }
}

fn standard() -> Vec<u8> {
    const SPC_3: u8 = 5;
    const QUEUES: u8 = 2;
    [&[0, 0, SPC_3, 2, 31, 0, 0, QUEUES][..], VENDOR, PRODUCT, REVISION].concat()
}

fn provisioning(device: &dyn BlockDevice) -> Vec<u8> {
    /// UNMAP, both WRITE SAME with unmapping, zeros after it.
    const ALL_WAYS: u8 = 0xe4;
    const THIN: u8 = 2;
    if device.read_only() {
        return vec![0; 4];
    }
    vec![0, ALL_WAYS, THIN, 0]
}
