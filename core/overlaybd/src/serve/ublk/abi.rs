//! The kernel's numbers and structures, as `linux/ublk_cmd.h` has them, to and from bytes. Pure.

use crate::error::{Error, Kind, Result};
use crate::limits::{SECTOR, UBLK_MAX_DEPTH, UBLK_MAX_IO_BYTES, UBLK_MAX_QUEUES};

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

/// The number of a command: direction, type `u`, and the size of what it carries.
const fn ioc(direction: u32, number: u32, bytes: usize) -> u32 {
    direction << 30 | (bytes as u32) << 16 | (b'u' as u32) << 8 | number
}

/// Commands to `/dev/ublk-control`.
pub mod control {
    use super::{ioc, CONTROL_BYTES, READ, READ_WRITE};

    pub const GET_INFO: u32 = ioc(READ, 0x02, CONTROL_BYTES);
    pub const ADD: u32 = ioc(READ_WRITE, 0x04, CONTROL_BYTES);
    pub const DELETE: u32 = ioc(READ_WRITE, 0x05, CONTROL_BYTES);
    pub const START: u32 = ioc(READ_WRITE, 0x06, CONTROL_BYTES);
    pub const STOP: u32 = ioc(READ_WRITE, 0x07, CONTROL_BYTES);
    pub const SET_PARAMETERS: u32 = ioc(READ_WRITE, 0x08, CONTROL_BYTES);
    pub const GET_PARAMETERS: u32 = ioc(READ, 0x09, CONTROL_BYTES);
    pub const START_RECOVERY: u32 = ioc(READ_WRITE, 0x10, CONTROL_BYTES);
    pub const END_RECOVERY: u32 = ioc(READ_WRITE, 0x11, CONTROL_BYTES);
    pub const GET_FEATURES: u32 = ioc(READ, 0x13, CONTROL_BYTES);
    pub const DELETE_ASYNC: u32 = ioc(READ, 0x14, CONTROL_BYTES);
    pub const UPDATE_SIZE: u32 = ioc(READ_WRITE, 0x15, CONTROL_BYTES);
}

/// Commands to `/dev/ublkcN`.
pub mod io {
    use super::{ioc, IO_BYTES, READ_WRITE};

    pub const FETCH: u32 = ioc(READ_WRITE, 0x20, IO_BYTES);
    pub const COMMIT_AND_FETCH: u32 = ioc(READ_WRITE, 0x21, IO_BYTES);
}

/// What a kernel can do, and what a device is asked to have.
pub mod feature {
    /// The disk outlives its server.
    pub const USER_RECOVERY: u64 = 1 << 3;
    /// What was under way when a server ended is handed out again.
    pub const USER_RECOVERY_REISSUE: u64 = 1 << 4;
    /// The size of a disk can be changed.
    pub const UPDATE_SIZE: u64 = 1 << 10;
}

/// States of a device.
pub mod state {
    /// There is no disk, not yet or not any more.
    pub const DEAD: u16 = 0;
    /// It is served.
    pub const LIVE: u16 = 1;
    /// It waits for a server.
    pub const QUIESCED: u16 = 2;
    /// It has no server, and fails.
    pub const FAIL_IO: u16 = 3;
}

/// Operations of requests, and the flags beside them.
pub mod op {
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const FLUSH: u8 = 2;
    pub const DISCARD: u8 = 3;
    pub const WRITE_ZEROES: u8 = 5;

    pub const FUA: u32 = 1 << 13;
    pub const NO_UNMAP: u32 = 1 << 15;
}

/// Attributes of a disk.
mod attribute {
    pub const READ_ONLY: u32 = 1 << 0;
    pub const VOLATILE_CACHE: u32 = 1 << 2;
    pub const FUA: u32 = 1 << 3;
}

const TYPE_BASIC: u32 = 1 << 0;
const TYPE_DISCARD: u32 = 1 << 1;

/// Bytes of a control command, of an I/O command, of a request's descriptor, of what is known of a device, of
/// its parameters as far as they are used here.
pub const CONTROL_BYTES: usize = 32;
const IO_BYTES: usize = 16;
pub const DESCRIPTOR_BYTES: usize = 24;
pub const INFO_BYTES: usize = 64;
pub const PARAMETER_BYTES: usize = 60;
pub const FEATURE_BYTES: usize = 8;

/// The largest depth that the kernel has: descriptors of a queue are mapped at a multiple of their room.
const KERNEL_MAX_DEPTH: usize = 4096;

/// Where the descriptors of a queue are mapped.
pub fn descriptors_offset(queue: u16) -> u64 {
    u64::from(queue) * (KERNEL_MAX_DEPTH * DESCRIPTOR_BYTES) as u64
}

/// Takes numbers out of a structure.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.get(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.get(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.get(at))
    }
}

/// Puts bytes into a structure.
fn put(structure: &mut [u8], at: usize, bytes: &[u8]) {
    structure[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A control command: to which device, with which buffer (address and length) and number.
pub fn control_command(device: u32, buffer: (u64, u16), data: u64) -> [u8; 80] {
    let mut command = [0; 80];
    put(&mut command, 0, &device.to_ne_bytes());
    put(&mut command, 4, &u16::MAX.to_ne_bytes()); // for no queue
    put(&mut command, 6, &buffer.1.to_ne_bytes());
    put(&mut command, 8, &buffer.0.to_ne_bytes());
    put(&mut command, 16, &data.to_ne_bytes());
    command
}

/// An I/O command: the result of a request, and where the data of the next one goes.
pub fn io_command(queue: u16, tag: u16, result: i32, address: u64) -> [u8; IO_BYTES] {
    let mut command = [0; IO_BYTES];
    put(&mut command, 0, &queue.to_ne_bytes());
    put(&mut command, 2, &tag.to_ne_bytes());
    put(&mut command, 4, &result.to_ne_bytes());
    put(&mut command, 8, &address.to_ne_bytes());
    command
}

/// A request as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// One of [`op`].
    pub op: u8,
    /// Flags of [`op`].
    pub flags: u32,
    /// How much, in sectors.
    pub sectors: u32,
    /// Where, in sectors.
    pub start: u64,
}

impl Descriptor {
    /// Of the words in which it is shared: two numbers of 32 bits, one of 64.
    pub fn new(op_flags: u32, sectors: u32, start: u64) -> Descriptor {
        Descriptor { op: (op_flags & 0xff) as u8, flags: op_flags & !0xff, sectors, start }
    }
}

/// What the kernel knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Hardware queues.
    pub queues: u16,
    /// Requests of each queue.
    pub depth: u16,
    /// One of [`state`].
    pub state: u16,
    /// Bytes of one request's data.
    pub max_io_bytes: u32,
    /// Its number, `u32::MAX` for any.
    pub number: u32,
    /// The process that serves it.
    pub pid: i32,
    /// Flags of [`feature`].
    pub flags: u64,
}

impl Info {
    /// As the kernel wants it.
    pub fn encode(&self) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        put(&mut bytes, 0, &self.queues.to_ne_bytes());
        put(&mut bytes, 2, &self.depth.to_ne_bytes());
        put(&mut bytes, 4, &self.state.to_ne_bytes());
        put(&mut bytes, 8, &self.max_io_bytes.to_ne_bytes());
        put(&mut bytes, 12, &self.number.to_ne_bytes());
        put(&mut bytes, 16, &self.pid.to_ne_bytes());
        put(&mut bytes, 24, &self.flags.to_ne_bytes());
        bytes
    }

    /// As the kernel gave it, not checked: for showing.
    pub fn decode(bytes: &[u8; INFO_BYTES]) -> Info {
        let fields = Fields(bytes);
        Info {
            queues: fields.u16(0),
            depth: fields.u16(2),
            state: fields.u16(4),
            max_io_bytes: fields.u32(8),
            number: fields.u32(12),
            pid: fields.u32(16) as i32,
            flags: fields.u64(24),
        }
    }

    /// Errors: `Limit` if it has more of anything than can be served.
    pub fn check(&self) -> Result<()> {
        let (queues, depth) = (usize::from(self.queues), usize::from(self.depth));
        if !(1..=UBLK_MAX_QUEUES).contains(&queues)
            || !(1..=UBLK_MAX_DEPTH).contains(&depth)
            || !(1..=UBLK_MAX_IO_BYTES).contains(&(self.max_io_bytes as usize))
        {
            let what = format!(
                "a ublk device of {queues} queues of {depth} requests of {} bytes (at most {UBLK_MAX_QUEUES} of \
                 {UBLK_MAX_DEPTH} of {UBLK_MAX_IO_BYTES} can be served)",
                self.max_io_bytes
            );
            return Err(Error::new(Kind::Limit, what));
        }
        Ok(())
    }
}

/// What a disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Whether writes are refused.
    pub read_only: bool,
    /// Its size in sectors.
    pub sectors: u64,
    /// Bytes of one request's data.
    pub max_io_bytes: u32,
    /// Bytes that one discard may take, and one request to write zeros.
    pub max_discard_bytes: u64,
    /// As above.
    pub max_zero_bytes: u64,
}

/// Logical and physical block as powers of two; what is discarded comes in whole physical blocks.
const LOGICAL_SHIFT: u8 = 9;
const PHYSICAL_SHIFT: u8 = 12;

impl Parameters {
    /// As the kernel wants them.
    pub fn encode(&self) -> [u8; PARAMETER_BYTES] {
        let mut bytes = [0; PARAMETER_BYTES];
        let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap_or(u32::MAX).to_ne_bytes();
        let attributes = if self.read_only { attribute::READ_ONLY } else { attribute::VOLATILE_CACHE | attribute::FUA };
        let types = if self.read_only { TYPE_BASIC } else { TYPE_BASIC | TYPE_DISCARD };
        put(&mut bytes, 0, &(PARAMETER_BYTES as u32).to_ne_bytes());
        put(&mut bytes, 4, &types.to_ne_bytes());
        put(&mut bytes, 8, &attributes.to_ne_bytes());
        put(&mut bytes, 12, &[LOGICAL_SHIFT, PHYSICAL_SHIFT, PHYSICAL_SHIFT, PHYSICAL_SHIFT]);
        put(&mut bytes, 16, &sectors(self.max_io_bytes.into()));
        put(&mut bytes, 24, &self.sectors.to_ne_bytes());
        if !self.read_only {
            put(&mut bytes, 44, &(1u32 << PHYSICAL_SHIFT).to_ne_bytes());
            put(&mut bytes, 48, &sectors(self.max_discard_bytes));
            put(&mut bytes, 52, &sectors(self.max_zero_bytes));
            put(&mut bytes, 56, &1u16.to_ne_bytes()); // ranges of one discard
        }
        bytes
    }

    /// A question for parameters, which the kernel answers in its place.
    pub fn question() -> [u8; PARAMETER_BYTES] {
        let mut bytes = [0; PARAMETER_BYTES];
        put(&mut bytes, 0, &(PARAMETER_BYTES as u32).to_ne_bytes());
        bytes
    }

    /// As the kernel gave them. None if none have been set.
    pub fn decode(bytes: &[u8; PARAMETER_BYTES]) -> Option<Parameters> {
        let fields = Fields(bytes);
        let types = fields.u32(4);
        let discard = |at| if types & TYPE_DISCARD == 0 { 0 } else { u64::from(fields.u32(at)) * SECTOR };
        (types & TYPE_BASIC != 0).then(|| Parameters {
            read_only: fields.u32(8) & attribute::READ_ONLY != 0,
            sectors: fields.u64(24),
            max_io_bytes: fields.u32(16).saturating_mul(SECTOR as u32),
            max_discard_bytes: discard(48),
            max_zero_bytes: discard(52),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_commands_are_those_of_the_header() {
        assert_eq!(control::GET_INFO, 0x8020_7502);
        assert_eq!(control::ADD, 0xc020_7504);
        assert_eq!(control::GET_FEATURES, 0x8020_7513);
        assert_eq!(io::FETCH, 0xc010_7520);
        assert_eq!(io::COMMIT_AND_FETCH, 0xc010_7521);
        assert_eq!(descriptors_offset(2), 2 * 98304);
    }

    #[test]
    fn commands_carry_what_they_are_given() {
        let command = control_command(7, (0x1122, 64), 5);
        assert_eq!(command[..8], [7, 0, 0, 0, 0xff, 0xff, 64, 0]);
        assert_eq!((command[8], command[9], command[16]), (0x22, 0x11, 5));
        assert!(command[24..].iter().all(|byte| *byte == 0));
        assert_eq!(io_command(1, 2, -5, 3), [1, 0, 2, 0, 0xfb, 0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_known_of_a_device_is_checked() {
        let info =
            Info { queues: 2, depth: 128, state: state::LIVE, max_io_bytes: 1 << 19, number: 3, pid: 77, flags: 24 };
        assert_eq!(Info::decode(&info.encode()), info);
        info.check().unwrap();
        for wrong in [
            Info { queues: 0, ..info },
            Info { queues: 4096, ..info },
            Info { depth: 0, ..info },
            Info { depth: 4096, ..info },
            Info { max_io_bytes: 0, ..info },
            Info { max_io_bytes: u32::MAX, ..info },
        ] {
            assert_eq!(wrong.check().unwrap_err().kind(), Kind::Limit, "{wrong:?}");
        }
    }

    #[test]
    fn parameters_are_those_of_the_disk() {
        let disk = Parameters {
            read_only: false,
            sectors: 1 << 40,
            max_io_bytes: 512 << 10,
            max_discard_bytes: 1 << 30,
            max_zero_bytes: 32 << 20,
        };
        let bytes = disk.encode();
        assert_eq!(Parameters::decode(&bytes), Some(disk));
        assert_eq!(bytes[4], 3, "with discard");
        assert_eq!(bytes[8], 12, "a cache to flush, and FUA");
        assert_eq!(bytes[12..16], [9, 12, 12, 12]);
        let fixed = Parameters { read_only: true, max_discard_bytes: 0, max_zero_bytes: 0, ..disk };
        assert_eq!(Parameters::decode(&fixed.encode()), Some(fixed));
        assert_eq!((fixed.encode()[4], fixed.encode()[8]), (1, 1));
        assert_eq!(Parameters::decode(&Parameters::question()), None);
    }
}
