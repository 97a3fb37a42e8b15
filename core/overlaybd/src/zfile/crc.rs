//! The checksum of all parts of a zfile: CRC-32C as a raw register.
//!
//! Format: zfile, "Checksums".

use crc_fast::{CrcAlgorithm, Digest};

/// Start value of a block's checksum.
pub const BLOCK_START: u32 = 100_007;

/// Start value of the digest and of the jump table's checksum.
pub const START: u32 = 0;

/// CRC-32C of `bytes` from `register` on, without the usual inversions at the start and the end, so
/// that a result can be the next call's `register`.
pub fn raw(register: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, register.into());
    digest.update(bytes);
    !(digest.finalize() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_format_document() {
        assert_eq!(raw(START, b"123456789"), 0x58E3_FA20);
        assert_eq!(raw(BLOCK_START, b"123456789"), 0x3C9B_D4E0);
        assert_eq!(!raw(!0, b"123456789"), 0xE306_9283, "with both inversions it is ordinary CRC-32C");
        assert_eq!(raw(7, b""), 7);
    }

    #[test]
    fn pieces_give_the_same_as_the_whole_at_any_length() {
        // A bit at a time, to be independent of the library.
        let slow = |mut r: u32, bytes: &[u8]| {
            for &b in bytes {
                r ^= u32::from(b);
                for _ in 0..8 {
                    r = (r >> 1) ^ (0x82F6_3B78 & (r & 1).wrapping_neg());
                }
            }
            r
        };
        let bytes: Vec<u8> = (0..1500u32).map(|i| ((i * i) >> 3) as u8).collect();
        for len in (0..300).chain([511, 512, 513, 1024, 1500]) {
            let expected = slow(BLOCK_START, &bytes[..len]);
            assert_eq!(raw(BLOCK_START, &bytes[..len]), expected, "{len} bytes");
            let half = len / 3;
            assert_eq!(raw(raw(BLOCK_START, &bytes[..half]), &bytes[half..len]), expected);
        }
    }
}
