//! A hint to the processor: these bytes are about to be written.

/// Bytes from the start of a buffer that are asked for. Hardware follows a stream by itself, but not from one page
/// into the next, so it is the start of each block's page, and its address translation, that would be waited for.
const HINTED: usize = 512;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has the start of `bytes` brought near. Costs little and never fails; without such a hint it does nothing.
#[inline]
pub fn for_writing(bytes: &mut [u8]) {
    let hinted = &bytes[..bytes.len().min(HINTED)];
    #[cfg(target_arch = "x86_64")]
    for line in hinted.chunks(LINE) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_ET0};
        // SAFETY: SSE, of which this is, belongs to every x86-64 processor; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (hinted, LINE);
}
