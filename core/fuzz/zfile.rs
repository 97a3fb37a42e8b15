//! Fuzzes a layer blob from the outside in: tar wrapper, zfile header, jump table, blocks.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::{layer, progress, tar, zfile};

/// Plain bytes read from each end of what opens.
const PART: u64 = 128 << 10;

fuzz_target!(|bytes: &[u8]| {
    let blob: Arc<dyn Blob> = Arc::new(MemoryBlob::new("fuzz", bytes.to_vec()));
    if let Ok(content) = layer::unwrap(blob.clone()) {
        let part = content.len().min(PART);
        for start in [0, content.len() - part] {
            agree(&*content, start, part as usize);
        }
    }
    if let Ok(Ok(reader)) = tar::unwrap(blob).map(zfile::Reader::open) {
        if reader.len() <= 1 << 20 {
            let _ = reader.verify(&mut progress::silent);
        }
    }
});

/// Whatever way a range is read, its bytes must be the same.
fn agree(content: &dyn Blob, start: u64, len: usize) {
    let mut whole = vec![0; len];
    let read = content.read_at(&mut whole, start).is_ok();
    let step = len / 7 + 1;
    for at in (0..len).step_by(step) {
        let mut piece = vec![0; step.min(len - at)];
        if content.read_at(&mut piece, start + at as u64).is_ok() {
            assert!(!read || piece == whole[at..at + piece.len()], "two reads differ at {at}");
        } else {
            assert!(!read, "a part of a readable range is not readable");
        }
    }
}
