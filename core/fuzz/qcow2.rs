//! Fuzzes the reader of qcow2 images: any bytes, read in more ways than one.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use overlaybd::blob::MemoryBlob;
use overlaybd::device::ExtentKind;
use overlaybd::disk::{root, DiskImage};
use overlaybd::fs::ReadAt;
use overlaybd::qcow2::Qcow2;

/// Bytes that are read at either end of a disk, and runs that are looked at.
const PART: u64 = 128 << 10;
const RUNS: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Qcow2::open(Arc::new(MemoryBlob::new("fuzz", bytes.to_vec())), true) else { return };
    let size = image.len();
    let part = size.min(PART) as usize;
    for start in [0, size - part as u64] {
        let (mut whole, mut second) = (vec![1; part], vec![2; part / 2]);
        if image.read_at(&mut whole, start).is_ok() {
            image.read_at(&mut second, start + (part - part / 2) as u64).expect("a part of what can be read");
            assert!(second == whole[part - part / 2..], "two reads differ");
        }
    }
    let mut at = 0;
    for _ in 0..RUNS {
        if at == size {
            break;
        }
        let Ok(extent) = image.extent(at) else { break };
        assert!(extent.len > 0 && extent.len % 512 == 0 && extent.len <= size - at, "{extent:?} at {at}");
        let mut start = vec![1; extent.len.min(4096) as usize];
        let read = image.read_at(&mut start, at);
        if extent.kind != ExtentKind::Data {
            read.expect("zeros are nowhere");
            assert!(start.iter().all(|byte| *byte == 0), "{extent:?} at {at}");
        }
        at += extent.len;
    }
    let _ = root(Arc::new(image));
});
