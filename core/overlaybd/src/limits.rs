//! Every bound of the crate in one place, each with its reason.

/// Bytes of a sector: the unit of every LSMT offset and length.
pub const SECTOR: u64 = 512;

/// Read-only layers in one stack: layer tags are 8 bits, and one value is the writable layer's.
pub const MAX_LAYERS: usize = 255;

/// Index entries of one read-only file, padding included (upstream refuses more).
pub const MAX_RO_ENTRIES: u64 = 1_000_000;

/// Real entries that fit a committed file once padded to a multiple of 256.
pub const MAX_COMMITTED_ENTRIES: u64 = 999_936;

/// Index entries of a writable layer's index file, and of a merged index.
pub const MAX_RW_ENTRIES: u64 = 128_000_000;

/// Blocks of one zfile (upstream refuses more).
pub const MAX_ZFILE_BLOCKS: u64 = 1_000_000_000;

/// Largest request a front end hands down in one piece; larger ones are cut.
pub const MAX_IO_BYTES: usize = 4 << 20;
