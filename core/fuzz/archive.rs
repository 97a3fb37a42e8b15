//! Tar archives: any bytes, plain or in blocks whose checksums are made right.

#![no_main]

use libfuzzer_sys::fuzz_target;
use overlaybd::sink::MemorySink;
use overlaybd::tar::{export, Archive, Entry};

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

/// Headers alone say of members what the archive does.
fn read_headers(bytes: &[u8]) {
    let mut headers = MemorySink::default();
    let _ = export(&mut Archive::new(bytes), &mut headers, &mut |_, _| Ok(()));
    let (mut whole, mut bare) = (Archive::new(bytes), Archive::of_headers(&headers.bytes[..]));
    for _ in 0..MEMBERS {
        let (Ok(Some(entry)), Ok(Some(same))) = (whole.next_entry(), bare.next_entry()) else { return };
        let without_place = |entry: Entry| Entry { offset: 0, ..entry };
        let place = bare.take_place();
        assert_eq!((without_place(entry), whole.take_place()), (without_place(same), place));
        assert!(place.is_none_or(|place| place.is_multiple_of(512) && place <= bytes.len() as u64));
    }
}

fn read(bytes: &[u8]) {
    read_headers(bytes);
    // Whatever is taken for headers alone.
    let mut bare = Archive::of_headers(bytes);
    for _ in 0..MEMBERS {
        let Ok(Some(_)) = bare.next_entry() else { break };
        let _ = bare.take_place();
    }
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
