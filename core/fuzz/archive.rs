//! Tar archives: any bytes, plain or in blocks whose checksums are made right.

#![no_main]

use libfuzzer_sys::fuzz_target;
use overlaybd::tar::Archive;

/// Members and bytes of content looked at.
const MEMBERS: usize = 1000;
const CONTENT: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut blocks = bytes.to_vec();
    blocks.resize(bytes.len().next_multiple_of(512), 0);
    for block in blocks.chunks_exact_mut(512) {
        if block.iter().any(|b| *b != 0) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    read(&blocks);
});

fn read(bytes: &[u8]) {
    let mut archive = Archive::new(bytes);
    let mut buf = [0; 777];
    for _ in 0..MEMBERS {
        let Ok(Some(entry)) = archive.next_entry() else { return };
        assert!(entry.offset < bytes.len() as u64);
        let (mut next, mut left) = (0, CONTENT);
        while let Ok(Some((offset, len))) = archive.read(&mut buf) {
            assert!(offset >= next && len > 0 && offset + len as u64 <= entry.size, "{entry:?}");
            next = offset + len as u64;
            left = left.saturating_sub(len);
            if left == 0 {
                return;
            }
        }
        assert!(archive.position() <= bytes.len() as u64);
    }
}
