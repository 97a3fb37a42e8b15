//! Reads of any range by reads of whole pages into page-aligned memory, as `O_DIRECT` wants them.

use std::io;

use crate::limits::MAX_BOUNCE_BYTES;

/// What offsets, lengths and addresses of a direct read are multiples of.
const PAGE: usize = 4096;

#[derive(Clone, Copy)]
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "what counts is its place")] [u8; PAGE]);

/// Page-aligned memory of one thread, which grows to what its reads need.
#[derive(Default)]
pub struct Bounce(Vec<Page>);

impl Bounce {
    /// The first `len` bytes, a multiple of the page size.
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len / PAGE {
            self.0.resize(len / PAGE, Page([0; PAGE]));
        }
        // SAFETY: so many pages are there; a `Page` is 4096 bytes without padding, any of which may have any value.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// Reads as `pread` would, by one call of `read`, which gets nothing but whole pages: by way of `bounce` unless
/// everything fits already.
pub fn read(
    buf: &mut [u8],
    offset: u64,
    bounce: &mut Bounce,
    read: impl FnOnce(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let head = (offset % PAGE as u64) as usize;
    if head == 0 && buf.len().is_multiple_of(PAGE) && buf.as_ptr().align_offset(PAGE) == 0 {
        return read(buf, offset);
    }
    let len = (head + buf.len()).min(MAX_BOUNCE_BYTES);
    let pages = bounce.room(len.next_multiple_of(PAGE));
    let got = read(pages, offset - head as u64)?.saturating_sub(head).min(len - head);
    buf[..got].copy_from_slice(&pages[head..head + got]);
    Ok(got)
}
