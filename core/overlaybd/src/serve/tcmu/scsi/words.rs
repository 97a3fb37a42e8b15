//! The words of SCSI: command descriptor blocks and sense data.

use crate::error::{Error, Kind};

/// A command descriptor block: the first 16 bytes of it, zeros where it is shorter. None that is longer is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdb {
    bytes: [u8; Cdb::MAX_BYTES],
    given: usize,
}

impl Cdb {
    /// Bytes that are looked at.
    pub const MAX_BYTES: usize = 16;

    /// The block at the start of `bytes`, which may go on behind it.
    pub fn new(bytes: &[u8]) -> Cdb {
        let mut cdb = Cdb { bytes: [0; Cdb::MAX_BYTES], given: bytes.len().min(Cdb::MAX_BYTES) };
        cdb.bytes[..cdb.given].copy_from_slice(&bytes[..cdb.given]);
        cdb
    }

    /// How long a block with this operation code is; None where the code does not say.
    pub fn len_of(op: u8) -> Option<usize> {
        match op >> 5 {
            0 => Some(6),
            1 | 2 => Some(10),
            4 => Some(16),
            5 => Some(12),
            _ => None,
        }
    }

    /// The operation code.
    pub fn op(&self) -> u8 {
        self.bytes[0]
    }

    /// Whether all bytes that the operation code asks for are there.
    pub fn is_whole(&self) -> bool {
        Cdb::len_of(self.op()).is_some_and(|len| len <= self.given)
    }

    /// A byte.
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    /// The low five bits of byte 1, which tell commands with the same operation code apart.
    pub fn service_action(&self) -> u16 {
        u16::from(self.bytes[1] & 0x1f)
    }

    /// A big-endian number.
    pub fn number<const BYTES: usize>(&self, at: usize) -> u64 {
        self.bytes[at..at + BYTES].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    /// First sector and number of sectors of a command that has both at their usual places.
    pub fn range(&self) -> (u64, u64) {
        match Cdb::len_of(self.op()) {
            Some(6) => (self.number::<3>(1) & 0x1f_ffff, if self.bytes[4] == 0 { 256 } else { self.number::<1>(4) }),
            Some(10) => (self.number::<4>(2), self.number::<2>(7)),
            Some(12) => (self.number::<4>(2), self.number::<4>(6)),
            _ => (self.number::<8>(2), self.number::<4>(10)),
        }
    }
}

/// Why a command failed: sense key, additional sense code, qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense(pub u8, pub u8, pub u8);

impl Sense {
    /// Nothing to tell.
    pub const NONE: Sense = Sense(0, 0, 0);
    /// Medium error: the data could not be read.
    pub const READ_ERROR: Sense = Sense(3, 0x11, 0);
    /// Medium error: the data could not be written.
    pub const WRITE_ERROR: Sense = Sense(3, 0x0c, 0);
    /// Hardware error: what arrived here makes no sense.
    pub const INTERNAL: Sense = Sense(4, 0x44, 0);
    /// Illegal request: a list of parameters of a wrong length.
    pub const LIST_LENGTH: Sense = Sense(5, 0x1a, 0);
    /// Illegal request: the command is not known.
    pub const INVALID_COMMAND: Sense = Sense(5, 0x20, 0);
    /// Illegal request: outside the device.
    pub const OUT_OF_RANGE: Sense = Sense(5, 0x21, 0);
    /// Illegal request: a field of the command.
    pub const INVALID_FIELD: Sense = Sense(5, 0x24, 0);
    /// Illegal request: a field of a list of parameters.
    pub const INVALID_PARAMETER: Sense = Sense(5, 0x26, 0);
    /// Illegal request: parameters cannot be saved.
    pub const NO_SAVING: Sense = Sense(5, 0x39, 0);
    /// Unit attention: the capacity has changed.
    pub const CAPACITY_CHANGED: Sense = Sense(6, 0x2a, 9);
    /// Data protect: the device is read-only.
    pub const WRITE_PROTECTED: Sense = Sense(7, 0x27, 0);
    /// Data protect: no room left below the device.
    pub const NO_SPACE: Sense = Sense(7, 0x27, 7);
    /// Aborted command: the initiator did not want it any more.
    pub const ABORTED: Sense = Sense(0x0b, 0, 0);
    /// Miscompare: the data is not what it was said to be.
    pub const MISCOMPARE: Sense = Sense(0x0e, 0x1d, 0);

    /// Bytes of [`Sense::fixed`].
    pub const BYTES: usize = 18;

    /// Sense data in fixed format.
    pub fn fixed(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        (bytes[0], bytes[2], bytes[7], bytes[12], bytes[13]) = (0x70, self.0, 10, self.1, self.2);
        bytes
    }

    /// For a failure of the device: `otherwise` unless its kind says more.
    pub fn of(error: &Error, otherwise: Sense) -> Sense {
        match error.kind() {
            Kind::ReadOnly => Sense::WRITE_PROTECTED,
            Kind::OutOfBounds => Sense::OUT_OF_RANGE,
            Kind::NoSpace => Sense::NO_SPACE,
            _ => otherwise,
        }
    }
}
