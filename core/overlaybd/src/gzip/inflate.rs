//! Inflating that can stop between deflate blocks and begin inside a byte: zlib's own interface, made safe.

use std::ffi::{c_int, CStr};
use std::mem::size_of;

use libz_rs_sys as z;

use super::WINDOW;
use crate::error::{Error, Result};

/// Deflate without a header; with that of gzip, and its checksum.
const RAW: c_int = -15;
const GZIP: c_int = 31;

/// One inflater, some 45 KiB of memory.
pub(super) struct Inflate {
    /// In a place of its own: the library may know it by address.
    stream: Box<z::z_stream>,
}

// SAFETY: the stream is owned and used by one thread at a time; the library keeps nothing elsewhere.
unsafe impl Send for Inflate {}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Bytes of input taken, and of output made.
    pub used: usize,
    /// See `used`.
    pub made: usize,
    /// Set between two blocks (not after the last): the bits of the last byte taken that are still to come.
    pub between: Option<u8>,
    /// Whether that was all; for gzip, that its checksum and length are right.
    pub ended: bool,
}

impl Inflate {
    /// For a gzip member, from its start.
    pub fn gzip() -> Result<Self> {
        Self::new(GZIP)
    }

    /// For deflate blocks; [`Inflate::restart`] says where they begin.
    pub fn raw() -> Result<Self> {
        Self::new(RAW)
    }

    fn new(kind: c_int) -> Result<Self> {
        let mut stream = Box::<z::z_stream>::default();
        let size = size_of::<z::z_stream>() as c_int;
        // SAFETY: the stream is a valid one of the size told, with no allocators of its own.
        let code = unsafe { z::inflateInit2_(&mut *stream, kind, z::zlibVersion(), size) };
        if code != z::Z_OK {
            return Err(Error::io("start of inflating", std::io::Error::from_raw_os_error(libc::ENOMEM)));
        }
        Ok(Inflate { stream })
    }

    /// Begins anew, behind `window`, with the upper `bits` bits of `byte`.
    pub fn restart(&mut self, window: &[u8; WINDOW], bits: u8, byte: u8) -> Result<()> {
        debug_assert!(bits < 8);
        let value = if bits == 0 { 0 } else { c_int::from(byte >> (8 - bits)) };
        // SAFETY: the stream was initialised; the window is WINDOW bytes, which are copied.
        let code = unsafe {
            z::inflateReset2(&mut *self.stream, RAW)
                | z::inflatePrime(&mut *self.stream, bits.into(), value)
                | z::inflateSetDictionary(&mut *self.stream, window.as_ptr(), WINDOW as u32)
        };
        match code {
            z::Z_OK => Ok(()),
            code => Err(Error::corrupt(format!("inflating cannot begin: zlib says {code}"))),
        }
    }

    /// The last bytes made, those of the window at the start included: as many as there are.
    pub fn window(&mut self, window: &mut [u8; WINDOW]) -> usize {
        let mut len = 0;
        // SAFETY: the stream was initialised; no more than WINDOW bytes are ever kept, and so written.
        unsafe { z::inflateGetDictionary(&*self.stream, window.as_mut_ptr(), &mut len) };
        (len as usize).min(WINDOW)
    }

    /// Inflates from `input` to `output` until one of them is at its end, or all is done, or, with `blocks`, up to the
    /// next boundary between blocks.
    ///
    /// # Errors
    /// `Corrupt` for what is no deflate stream, or whose checksum is wrong.
    pub fn step(&mut self, input: &[u8], output: &mut [u8], blocks: bool) -> Result<Step> {
        let len = |n: usize| n.min(u32::MAX as usize) as u32;
        let stream = &mut *self.stream;
        (stream.next_in, stream.avail_in) = (input.as_ptr(), len(input.len()));
        (stream.next_out, stream.avail_out) = (output.as_mut_ptr(), len(output.len()));
        let flush = if blocks { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        // SAFETY: the stream was initialised; input and output are as long as told and outlive the call, after which
        // nothing refers to them.
        let code = unsafe { z::inflate(stream, flush) };
        let used = len(input.len()).saturating_sub(stream.avail_in) as usize;
        let made = len(output.len()).saturating_sub(stream.avail_out) as usize;
        (stream.next_in, stream.avail_in) = (std::ptr::null(), 0);
        (stream.next_out, stream.avail_out) = (std::ptr::null_mut(), 0);
        let state = stream.data_type;
        match code {
            z::Z_OK | z::Z_BUF_ERROR => {
                let between = (state & 128 != 0 && state & 64 == 0).then_some((state & 63) as u8);
                Ok(Step { used, made, between, ended: false })
            }
            z::Z_STREAM_END => Ok(Step { used, made, between: None, ended: true }),
            code => Err(Error::corrupt(format!("not gzip, or damaged: {}", said(stream, code)))),
        }
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised, and is not used any more.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

fn said(stream: &z::z_stream, code: c_int) -> String {
    if stream.msg.is_null() {
        return format!("zlib says {code}");
    }
    // SAFETY: the library's messages are constant strings that end with NUL.
    unsafe { CStr::from_ptr(stream.msg) }.to_string_lossy().into_owned()
}
