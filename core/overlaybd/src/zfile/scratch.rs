//! Buffers and codecs that a thread keeps from one read to the next.

use std::cell::Cell;

use super::codec::Codecs;

/// Working memory of a read.
#[derive(Default)]
pub struct Scratch {
    /// Stored blocks as read.
    pub packed: Vec<u8>,
    /// One plain block, when the caller wants a part of it only.
    pub plain: Vec<u8>,
    /// Decompressors.
    pub codecs: Codecs,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Lends the thread's scratch to `work`. A read below that one (of a zfile inside a zfile) finds none
/// and makes its own, so there is no way to meet it in use.
pub fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

/// The first `len` bytes of `buffer`, which grows as needed and never shrinks.
pub fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}
