//! Memory of finished fetches for the next ones: fresh pages cost as much as receiving the bytes.

use std::sync::Arc;

use crate::sync::Mutex;

/// Bytes kept for use again.
const MAX_BYTES: usize = 16 << 20;

/// Buffers that nobody uses just now, the last one returned (and likely still in the CPU's cache) first.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// A buffer of `len` bytes, of any content.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let mut free = self.0.lock();
        let fits = |buf: &Vec<u8>| buf.len() >= len && buf.len() / 4 <= len;
        match free.iter().rposition(fits) {
            Some(at) => {
                let mut buf = free.remove(at);
                buf.truncate(len);
                buf
            }
            None => vec![0; len],
        }
    }

    /// Takes a buffer back, unless somebody still reads it or there are enough.
    pub fn put(&self, buf: Arc<Vec<u8>>) {
        let Some(buf) = Arc::into_inner(buf) else { return };
        let mut free = self.0.lock();
        if free.iter().map(Vec::len).sum::<usize>() + buf.len() <= MAX_BYTES {
            free.push(buf);
        }
    }
}
