//! Carries out requests: between the buffer of a tag and the device.

use super::request::{Request, Span};
use crate::device::BlockDevice;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_IO_BYTES;

/// Zeros to write where room for data is wanted.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Carries out a request, whose data is in `buffer` or goes there: as long as the request says. The result for the
/// kernel is what was moved, in bytes.
///
/// Errors: those of the device; what was begun may be done in part, as with any disk.
pub fn carry_out(request: &Request, buffer: &mut [u8], device: &dyn BlockDevice) -> Result<i32> {
    match request {
        Request::Read(span) => {
            let mut at = span.offset;
            for part in buffer.chunks_mut(MAX_IO_BYTES) {
                device.read_at(part, at)?;
                at += part.len() as u64;
            }
        }
        Request::Write { span, durable } => {
            let mut at = span.offset;
            for part in buffer.chunks(MAX_IO_BYTES) {
                device.write_at(part, at)?;
                at += part.len() as u64;
            }
            flush_if(*durable, device)?;
        }
        Request::Flush => flush_if(!device.read_only(), device)?,
        Request::Discard(span) => device.discard(span.offset, span.len)?,
        Request::Zero { span, fill, durable } => {
            if *fill {
                write_zeros(device, *span)?;
            } else {
                device.discard(span.offset, span.len)?;
            }
            flush_if(*durable, device)?;
        }
    }
    Ok(buffer.len() as i32)
}

fn flush_if(wanted: bool, device: &dyn BlockDevice) -> Result<()> {
    if wanted {
        device.flush()
    } else {
        Ok(())
    }
}

fn write_zeros(device: &dyn BlockDevice, span: Span) -> Result<()> {
    let (mut at, end) = (span.offset, span.offset + span.len);
    while at < end {
        let step = (end - at).min(ZEROS.len() as u64);
        device.write_at(&ZEROS[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

/// What the kernel makes of a failure: users of the disk get this errno.
pub fn errno(error: &Error) -> i32 {
    match error.kind() {
        Kind::NoSpace => libc::ENOSPC,
        _ => libc::EIO,
    }
}
