//! Buffers that are used again: no allocation, no clearing and no page faults for each request.

use crate::sync::Mutex;

/// Bytes of an ordinary buffer; most requests fit one.
pub const BUFFER_BYTES: usize = 256 << 10;

/// Bytes kept for later use at most.
const KEPT_BYTES: usize = 16 << 20;

/// A shared stock of buffers. Their contents are left over from earlier use.
#[derive(Default)]
pub struct Buffers {
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of at least `len` bytes.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let mut stock = self.stock.lock();
        // The last given back is the likeliest to be in the processor's cache; a few steps find a large one.
        let found = stock.buffers.iter().rposition(|b| b.len() >= len);
        match found {
            Some(i) => {
                let buffer = stock.buffers.swap_remove(i);
                stock.bytes -= buffer.len();
                buffer
            }
            None => {
                drop(stock);
                vec![0; len.max(BUFFER_BYTES)]
            }
        }
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Vec<u8>) {
        let mut stock = self.stock.lock();
        if !buffer.is_empty() && stock.bytes + buffer.len() <= KEPT_BYTES {
            stock.bytes += buffer.len();
            stock.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_the_stock_is_bounded() {
        let buffers = Buffers::default();
        let mut large = buffers.take(BUFFER_BYTES + 1);
        large[0] = 7;
        buffers.give(large);
        buffers.give(buffers.take(1));
        assert_eq!(buffers.take(BUFFER_BYTES + 1)[0], 7, "the large one is found again");
        for _ in 0..100 {
            buffers.give(vec![0; 1 << 20]);
        }
        assert!(buffers.stock.lock().bytes <= KEPT_BYTES);
    }
}
