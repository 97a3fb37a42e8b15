//! The NBD protocol's numbers and headers (document: "The NBD protocol", sections "Values",
//! "Transmission phase"). Pure: bytes in, values out.

use crate::error::{Error, Kind};

/// First eight bytes of a server, `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Start of the option phase and of every option, `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, both directions: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flags, both directions: no padding after the answer to EXPORT_NAME.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Options.
pub mod option {
    #![allow(missing_docs)]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Types of option replies.
pub mod reply {
    #![allow(missing_docs)]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = (1 << 31) + 1;
    pub const ERR_INVALID: u32 = (1 << 31) + 3;
    pub const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Types of information in an INFO reply.
pub mod info {
    #![allow(missing_docs)]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod can {
    #![allow(missing_docs)]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const CACHE: u16 = 1 << 10;
    pub const FAST_ZERO: u16 = 1 << 11;
}

/// Commands.
pub mod command {
    #![allow(missing_docs)]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub mod flag {
    #![allow(missing_docs)]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of structured reply chunks.
pub mod chunk {
    #![allow(missing_docs)]
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = (1 << 15) + 1;
    pub const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// Chunk flag: the last of its reply.
pub const CHUNK_DONE: u16 = 1;

/// The one metadata context served, and the number it gets.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Number of [`BASE_ALLOCATION`] in block status replies.
pub const BASE_ALLOCATION_ID: u32 = 1;
/// Block status of what takes no room and reads as zeros.
pub const STATE_HOLE_ZERO: u32 = 3;

/// Error numbers on the wire; they are Linux's, but fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    NoSpc = 28,
    NotSup = 95,
    Shutdown = 108,
}

impl From<&Error> for Errno {
    /// What a client is told of a failure: kinds that say nothing about the request itself (a registry
    /// refused access, a layer is corrupt) are all I/O errors.
    fn from(error: &Error) -> Self {
        match error.kind() {
            Kind::ReadOnly => Errno::Perm,
            Kind::NoSpace => Errno::NoSpc,
            Kind::OutOfBounds | Kind::Invalid => Errno::Inval,
            Kind::Unsupported => Errno::NotSup,
            _ => Errno::Io,
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Command flags.
    pub flags: u16,
    /// One of [`command`], or unknown.
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes; of payload for a write.
    pub len: u32,
}

impl Request {
    /// Bytes of a request's header.
    pub const BYTES: usize = 28;

    /// Reads a header; None if the magic is wrong, after which the stream means nothing.
    pub fn parse(b: &[u8; Self::BYTES]) -> Option<Request> {
        if u32_at(b, 0) != REQUEST_MAGIC {
            return None;
        }
        Some(Request {
            flags: u16_at(b, 4),
            command: u16_at(b, 6),
            cookie: u64_at(b, 8),
            offset: u64_at(b, 16),
            len: u32_at(b, 24),
        })
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The header on the wire, for clients.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        b[4..6].copy_from_slice(&self.flags.to_be_bytes());
        b[6..8].copy_from_slice(&self.command.to_be_bytes());
        b[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        b[16..24].copy_from_slice(&self.offset.to_be_bytes());
        b[24..].copy_from_slice(&self.len.to_be_bytes());
        b
    }
}

/// The fixed part of a reply or chunk, small enough to be passed about by value.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// As long as the longest, an error with an offset.
    bytes: [u8; 34],
    len: u8,
}

impl Head {
    /// No head at all: only a body.
    pub const NONE: Head = Head { bytes: [0; 34], len: 0 };

    /// A simple reply; data may follow if `errno` is None and it answers a read.
    pub fn simple(cookie: u64, errno: Option<Errno>) -> Head {
        let mut h = Head::NONE;
        h.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        h.put(&errno.map_or(0, |e| e as u32).to_be_bytes());
        h.put(&cookie.to_be_bytes());
        h
    }

    /// A chunk of `kind` with `len` bytes of payload; the payload's fixed fields come by `put`.
    pub fn chunk(cookie: u64, kind: u16, len: u32) -> Head {
        let mut h = Head::NONE;
        h.put(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        h.put(&0u16.to_be_bytes());
        h.put(&kind.to_be_bytes());
        h.put(&cookie.to_be_bytes());
        h.put(&len.to_be_bytes());
        h
    }

    /// `len` bytes of data at `offset` follow.
    pub fn data(cookie: u64, offset: u64, len: u32) -> Head {
        let mut h = Head::chunk(cookie, chunk::OFFSET_DATA, len + 8);
        h.put(&offset.to_be_bytes());
        h
    }

    /// `len` bytes at `offset` are zeros.
    pub fn hole(cookie: u64, offset: u64, len: u32) -> Head {
        let mut h = Head::chunk(cookie, chunk::OFFSET_HOLE, 12);
        h.put(&offset.to_be_bytes());
        h.put(&len.to_be_bytes());
        h
    }

    /// A failure, with the place if it concerns only a part of the range.
    pub fn error(cookie: u64, errno: Errno, offset: Option<u64>) -> Head {
        let kind = if offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let mut h = Head::chunk(cookie, kind, if offset.is_some() { 14 } else { 6 });
        h.put(&(errno as u32).to_be_bytes());
        h.put(&0u16.to_be_bytes());
        if let Some(offset) = offset {
            h.put(&offset.to_be_bytes());
        }
        h
    }

    /// Appends a field.
    pub fn put(&mut self, field: &[u8]) {
        let start = self.len as usize;
        self.bytes[start..start + field.len()].copy_from_slice(field);
        self.len += field.len() as u8;
    }

    /// Marks a chunk as the last of its reply.
    pub fn done(mut self) -> Head {
        self.bytes[4..6].copy_from_slice(&CHUNK_DONE.to_be_bytes());
        self
    }

    /// The bytes for the wire.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// Big-endian number at a place that the caller has checked to be inside.
pub fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Big-endian number at a place that the caller has checked to be inside.
pub fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from(u16_at(b, at)) << 16 | u32::from(u16_at(b, at + 2))
}

/// Big-endian number at a place that the caller has checked to be inside.
pub fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) << 32 | u64::from(u32_at(b, at + 4))
}
