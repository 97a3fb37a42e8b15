//! What a descriptor asks for, checked against the device.

use super::abi::{op, Descriptor};
use crate::device::BlockDevice;
use crate::limits::{SECTOR, UBLK_MAX_DISCARD_BYTES, UBLK_MAX_ZERO_BYTES};

/// A range of the device, inside it and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A request that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Into the buffer of its tag.
    Read(Span),
    /// From the buffer of its tag; durable before it is acknowledged if so asked.
    Write {
        /// Where.
        span: Span,
        /// Whether a flush belongs to it.
        durable: bool,
    },
    /// All that was acknowledged becomes durable.
    Flush,
    /// Reads as zeros from now on, and takes no room.
    Discard(Span),
    /// Zeros, which take the room of data if `fill`.
    Zero {
        /// Where.
        span: Span,
        /// Whether room for later writes is wanted.
        fill: bool,
        /// Whether a flush belongs to it.
        durable: bool,
    },
}

impl Request {
    /// Of a descriptor. `buffer_bytes` is the room for a request's data; `read_only` counts beside the device's own.
    ///
    /// Errors: an errno for whoever asked.
    pub fn new(
        asked: Descriptor,
        device: &dyn BlockDevice,
        read_only: bool,
        buffer_bytes: usize,
    ) -> Result<Request, i32> {
        let durable = asked.flags & op::FUA != 0;
        if asked.op == op::FLUSH {
            return Ok(Request::Flush);
        }
        if asked.op != op::READ && (read_only || device.read_only()) {
            return Err(libc::EROFS);
        }
        let span = |most: u64| {
            let len = u64::from(asked.sectors) * SECTOR;
            let offset = asked.start.checked_mul(SECTOR).ok_or(libc::EIO)?;
            let inside = offset.checked_add(len).is_some_and(|end| end <= device.size());
            if len == 0 || len > most || !inside {
                return Err(libc::EIO);
            }
            Ok(Span { offset, len })
        };
        match asked.op {
            op::READ => span(buffer_bytes as u64).map(Request::Read),
            op::WRITE => span(buffer_bytes as u64).map(|span| Request::Write { span, durable }),
            op::DISCARD => span(UBLK_MAX_DISCARD_BYTES).map(Request::Discard),
            op::WRITE_ZEROES => span(UBLK_MAX_ZERO_BYTES).map(|span| {
                let fill = asked.flags & op::NO_UNMAP != 0;
                Request::Zero { span, fill, durable }
            }),
            _ => Err(libc::EOPNOTSUPP),
        }
    }

    /// In words, for reports.
    pub fn describe(&self) -> String {
        let (verb, span) = match self {
            Request::Flush => return "flushing".into(),
            Request::Read(span) => ("reading", span),
            Request::Write { span, .. } => ("writing", span),
            Request::Discard(span) => ("discarding", span),
            Request::Zero { span, .. } => ("zeroing", span),
        };
        format!("{verb} {} bytes at {}", span.len, span.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::test_device::{Device, SIZE};

    const BUFFER: usize = 64 << 10;

    fn asked(op_flags: u32, sectors: u32, start: u64) -> Result<Request, i32> {
        Request::new(Descriptor::new(op_flags, sectors, start), &Device::new(), false, BUFFER)
    }

    #[test]
    fn requests_are_as_asked() {
        let span = Span { offset: 4096, len: 512 };
        assert_eq!(asked(0, 1, 8), Ok(Request::Read(span)));
        assert_eq!(asked(1, 1, 8), Ok(Request::Write { span, durable: false }));
        assert_eq!(asked(1 | op::FUA | 1 << 11, 1, 8), Ok(Request::Write { span, durable: true }));
        assert_eq!(asked(2, 0, 0), Ok(Request::Flush));
        assert_eq!(asked(3, 1, 8), Ok(Request::Discard(span)));
        assert_eq!(asked(5, 1, 8), Ok(Request::Zero { span, fill: false, durable: false }));
        assert_eq!(asked(5 | op::NO_UNMAP, 1, 8), Ok(Request::Zero { span, fill: true, durable: false }));
        assert_eq!(asked(0, 1, SIZE / 512 - 1), Ok(Request::Read(Span { offset: SIZE - 512, len: 512 })));
        assert_eq!(asked(1, 1, 8).unwrap().describe(), "writing 512 bytes at 4096");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (op_flags, sectors, start) in [
            (0, 0, 0),                // nothing
            (0, 129, 0),              // more than the buffer has room for
            (1, u32::MAX, 0),         // likewise
            (0, 1, SIZE / 512),       // beyond the end
            (0, 2, SIZE / 512 - 1),   // across it
            (0, 1, u64::MAX),         // no offset has so many bits
            (3, 1, u64::MAX / 512),   // overflows with its length
            (5, (64 << 20) / 512, 0), // longer than a request may be
        ] {
            assert_eq!(asked(op_flags, sectors, start), Err(libc::EIO), "{op_flags} {sectors} {start}");
        }
        for op in [4, 10, 15, 18, 255] {
            assert_eq!(asked(op, 1, 0), Err(libc::EOPNOTSUPP), "{op}");
        }
        for op in [1, 3, 5] {
            let asked = Request::new(Descriptor::new(op, 1, 0), &Device::new(), true, BUFFER);
            assert_eq!(asked, Err(libc::EROFS), "{op}");
        }
    }
}
