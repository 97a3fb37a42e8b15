//! Mode pages: write protection, the write cache, how commands are queued. They can be read, not changed.

use super::opcodes::op;
use super::words::{Cdb, Sense};
use super::Lun;
use crate::device::BlockDevice;

const ERRORS: u8 = 0x01;
const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;

const SHORT_HEADER: usize = 4;
const LONG_HEADER: usize = 8;

/// Which values of a page are asked for.
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;

impl Lun {
    /// MODE SENSE, both forms.
    pub(super) fn mode_sense(&self, cdb: &Cdb, device: &dyn BlockDevice) -> Result<Vec<u8>, Sense> {
        let (values, wanted, subpage) = (cdb.byte(2) >> 6, cdb.byte(2) & 0x3f, cdb.byte(3));
        if values == SAVED {
            return Err(Sense::NO_SAVING);
        }
        let all_subpages = wanted == ALL && subpage == 0xff;
        if subpage != 0 && !all_subpages {
            return Err(Sense::INVALID_FIELD);
        }
        let mut pages: Vec<u8> = Vec::new();
        for mut page in all_pages(device) {
            if wanted == ALL || wanted == page[0] {
                if values == CHANGEABLE {
                    page[2..].fill(0);
                }
                pages.extend(page);
            }
        }
        if pages.is_empty() {
            return Err(Sense::INVALID_FIELD);
        }
        let specific = specific(device);
        if cdb.op() == op::MODE_SENSE_6 {
            let len = (SHORT_HEADER - 1 + pages.len()) as u8;
            return Ok([&[len, 0, specific, 0][..], &pages].concat());
        }
        let [high, low] = ((LONG_HEADER - 2 + pages.len()) as u16).to_be_bytes();
        Ok([&[high, low, 0, specific, 0, 0, 0, 0][..], &pages].concat())
    }

    /// MODE SELECT with this list: it may say again what is so already.
    ///
    /// Errors: sense data for a list that is cut off or asks for something else.
    pub fn mode_select(&self, list: &[u8], long: bool, device: &dyn BlockDevice) -> Result<(), Sense> {
        if list.is_empty() {
            return Ok(());
        }
        let header = if long { LONG_HEADER } else { SHORT_HEADER };
        let Some((head, mut rest)) = list.split_at_checked(header) else { return Err(Sense::LIST_LENGTH) };
        let descriptors = if long { &head[6..8] } else { &head[3..4] };
        if descriptors.iter().any(|byte| *byte != 0) {
            return Err(Sense::INVALID_PARAMETER);
        }
        let pages = all_pages(device);
        while !rest.is_empty() {
            let &[code, len, ..] = rest else { return Err(Sense::LIST_LENGTH) };
            let Some((given, behind)) = rest.split_at_checked(2 + usize::from(len)) else {
                return Err(Sense::LIST_LENGTH);
            };
            let same = pages.iter().any(|page| page[0] == code & 0x3f && page[1..] == given[1..]);
            if !same {
                return Err(Sense::INVALID_PARAMETER);
            }
            rest = behind;
        }
        Ok(())
    }
}

/// The device-specific parameter.
fn specific(device: &dyn BlockDevice) -> u8 {
    const WRITE_PROTECTED: u8 = 0x80;
    const DURABLE_WRITES: u8 = 0x10;
    if device.read_only() {
        WRITE_PROTECTED
    } else {
        DURABLE_WRITES
    }
}

/// All pages in order.
fn all_pages(device: &dyn BlockDevice) -> [Vec<u8>; 3] {
    const WRITE_CACHE: u8 = 4;
    /// No log pages are kept for long; aborted commands are told of.
    const LOGS_LOST: u8 = 2;
    const ABORTED_STATUS: u8 = 0x40;
    /// Commands are carried out in any order.
    const ANY_ORDER: u8 = 0x10;
    let mut errors = vec![0; 12];
    let mut caching = vec![0; 20];
    let mut control = vec![0; 12];
    (errors[0], errors[1]) = (ERRORS, 10);
    (caching[0], caching[1]) = (CACHING, 18);
    caching[2] = if device.read_only() { 0 } else { WRITE_CACHE };
    (control[0], control[1]) = (CONTROL, 10);
    (control[2], control[3], control[5]) = (LOGS_LOST, ANY_ORDER, ABORTED_STATUS);
    control[8..10].fill(0xff); // how long a busy unit may stay so: no limit
    [errors, caching, control]
}
