//! The commands that are known, and the command that lists them (REPORT SUPPORTED OPERATION CODES).

use super::words::{Cdb, Sense};

/// Operation codes.
#[allow(missing_docs)]
pub mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP: u8 = 0x1b;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const VERIFY_10: u8 = 0x2f;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    pub const WRITE_16: u8 = 0x8a;
    pub const VERIFY_16: u8 = 0x8f;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const MAINTENANCE_IN: u8 = 0xa3;
    pub const READ_12: u8 = 0xa8;
    pub const WRITE_12: u8 = 0xaa;
    pub const VERIFY_12: u8 = 0xaf;
}

/// Of SERVICE ACTION IN(16): READ CAPACITY(16).
pub const READ_CAPACITY_16: u16 = 0x10;
/// Of SERVICE ACTION IN(16): GET LBA STATUS.
pub const GET_LBA_STATUS: u16 = 0x12;
/// Of MAINTENANCE IN: REPORT SUPPORTED OPERATION CODES.
pub const REPORT_CODES: u16 = 0x0c;

/// A command: operation code, service action if it has one, and the bits of the bytes behind the code that it
/// looks at, a run of equal bytes as (bits, count).
type Known = (u8, Option<u16>, &'static [(u8, usize)]);

const KNOWN: [Known; 30] = [
    (op::TEST_UNIT_READY, None, &[(0, 5)]),
    (op::REQUEST_SENSE, None, &[(1, 1), (0, 2), (0xff, 1), (0, 1)]),
    (op::READ_6, None, &[(0x1f, 1), (0xff, 3), (0, 1)]),
    (op::WRITE_6, None, &[(0x1f, 1), (0xff, 3), (0, 1)]),
    (op::INQUIRY, None, &[(1, 1), (0xff, 3), (0, 1)]),
    (op::MODE_SELECT_6, None, &[(0x11, 1), (0, 2), (0xff, 1), (0, 1)]),
    (op::MODE_SENSE_6, None, &[(8, 1), (0xff, 3), (0, 1)]),
    (op::START_STOP, None, &[(1, 1), (0, 2), (0xf7, 1), (0, 1)]),
    (op::READ_CAPACITY_10, None, &[(0, 1), (0xff, 4), (0, 2), (1, 1), (0, 1)]),
    (op::READ_10, None, &[(0xf8, 1), (0xff, 4), (0, 1), (0xff, 2), (0, 1)]),
    (op::WRITE_10, None, &[(0xf8, 1), (0xff, 4), (0, 1), (0xff, 2), (0, 1)]),
    (op::VERIFY_10, None, &[(0xf6, 1), (0xff, 4), (0, 1), (0xff, 2), (0, 1)]),
    (op::SYNCHRONIZE_CACHE_10, None, &[(2, 1), (0xff, 4), (0, 1), (0xff, 2), (0, 1)]),
    (op::WRITE_SAME_10, None, &[(0xf8, 1), (0xff, 4), (0, 1), (0xff, 2), (0, 1)]),
    (op::UNMAP, None, &[(1, 1), (0, 5), (0xff, 2), (0, 1)]),
    (op::MODE_SELECT_10, None, &[(0x11, 1), (0, 5), (0xff, 2), (0, 1)]),
    (op::MODE_SENSE_10, None, &[(0x18, 1), (0xff, 2), (0, 3), (0xff, 2), (0, 1)]),
    (op::READ_16, None, &[(0xf8, 1), (0xff, 12), (0, 2)]),
    (op::COMPARE_AND_WRITE, None, &[(0xf8, 1), (0xff, 8), (0, 3), (0xff, 1), (0, 2)]),
    (op::WRITE_16, None, &[(0xf8, 1), (0xff, 12), (0, 2)]),
    (op::VERIFY_16, None, &[(0xf6, 1), (0xff, 12), (0, 2)]),
    (op::SYNCHRONIZE_CACHE_16, None, &[(2, 1), (0xff, 12), (0, 2)]),
    (op::WRITE_SAME_16, None, &[(0xf9, 1), (0xff, 12), (0, 2)]),
    (op::SERVICE_ACTION_IN, Some(READ_CAPACITY_16), &[(0x1f, 1), (0, 8), (0xff, 4), (0, 2)]),
    (op::SERVICE_ACTION_IN, Some(GET_LBA_STATUS), &[(0x1f, 1), (0xff, 12), (0, 2)]),
    (op::REPORT_LUNS, None, &[(0, 1), (0xff, 1), (0, 3), (0xff, 4), (0, 2)]),
    (op::MAINTENANCE_IN, Some(REPORT_CODES), &[(0x1f, 1), (0x87, 1), (0xff, 7), (0, 2)]),
    (op::READ_12, None, &[(0xf8, 1), (0xff, 8), (0, 2)]),
    (op::WRITE_12, None, &[(0xf8, 1), (0xff, 8), (0, 2)]),
    (op::VERIFY_12, None, &[(0xf6, 1), (0xff, 8), (0, 2)]),
];

/// Whether a command is known.
pub fn is_known(cdb: &Cdb) -> bool {
    KNOWN.iter().any(|(op, action, _)| *op == cdb.op() && action.is_none_or(|a| a == cdb.service_action()))
}

/// The answer to REPORT SUPPORTED OPERATION CODES.
pub fn report(cdb: &Cdb) -> Result<Vec<u8>, Sense> {
    let (wanted, action) = (cdb.byte(3), cdb.number::<2>(4) as u16);
    let same_code = |known: &&Known| known.0 == wanted;
    let has_actions = KNOWN.iter().find(same_code).is_some_and(|known| known.1.is_some());
    match (cdb.byte(2) & 7, has_actions) {
        (0, _) => Ok(all()),
        (1, false) | (3, false) => Ok(one(KNOWN.iter().find(same_code))),
        (2, true) | (3, true) => Ok(one(KNOWN.iter().find(|known| known.0 == wanted && known.1 == Some(action)))),
        // A code that nobody knows may have service actions.
        (2, false) if !KNOWN.iter().any(|known| known.0 == wanted) => Ok(one(None)),
        _ => Err(Sense::INVALID_FIELD),
    }
}

fn all() -> Vec<u8> {
    let mut list = vec![0; 4];
    for (op, action, _) in KNOWN {
        let [high, low] = action.unwrap_or(0).to_be_bytes();
        let len = Cdb::len_of(op).unwrap_or(0) as u8;
        list.extend([op, 0, high, low, 0, u8::from(action.is_some()), 0, len]);
    }
    let len = list.len() as u32 - 4;
    list[..4].copy_from_slice(&len.to_be_bytes());
    list
}

fn one(known: Option<&Known>) -> Vec<u8> {
    let Some((op, action, usage)) = known else { return vec![0, 1, 0, 0] };
    let mut list = vec![0, 3, 0, 0, *op];
    for (bits, count) in *usage {
        list.extend(std::iter::repeat_n(*bits, *count));
    }
    // The service action is not a mask but itself.
    list[5] = action.map_or(list[5], |action| action as u8);
    list[3] = list.len() as u8 - 4;
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usage_is_as_long_as_its_command() {
        for known in &KNOWN {
            assert_eq!(Some(one(Some(known)).len() - 4), Cdb::len_of(known.0), "{:#x}", known.0);
        }
        assert!(KNOWN.is_sorted_by_key(|known| known.0));
    }
}
