//! Fuzzes layers: finished ones, and pairs of a writable layer's files with their replay and recovery.
#![no_main]

// The disk in memory of the core's own tests.
#[allow(dead_code)]
#[path = "../overlaybd/tests/lsmt/disk.rs"]
mod disk;

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use overlaybd::blob::{Blob, MemoryBlob};
use overlaybd::inspect;
use overlaybd::lsmt::upper::{open_as_layer, open_as_meta};
use overlaybd::lsmt::warp::{self, Meta};
use overlaybd::lsmt::{Layer, Segment, Stack, Upper};

/// Entries whose bytes are compared.
const ENTRIES: usize = 64;
/// Bytes of a target, which ends in the middle of a sector.
const TARGET: usize = 5000;
/// Bytes of a device that are compared.
const START: usize = 32 << 10;

fuzz_target!(|bytes: &[u8]| {
    finished(bytes);
    turbo(bytes);
    if let Some((len, files)) = bytes.split_first_chunk::<2>() {
        let (data, index) = files.split_at(files.len().min(u16::from_le_bytes(*len).into()));
        writable(data, index);
        writable_turbo(data, index);
    }
});

fn finished(bytes: &[u8]) {
    let blob: Arc<dyn Blob> = Arc::new(MemoryBlob::new("fuzz", bytes.to_vec()));
    let _ = inspect::describe(&blob);
    let Ok(layer) = Layer::open(blob) else { return };
    let segments = layer.segments().to_vec();
    let stack = Stack::new(vec![layer]).expect("one layer makes a stack");
    for segment in segments.iter().filter(|s| s.length > 0).take(ENTRIES) {
        let mut sector = [0xee; 512];
        stack.read_at(&mut sector, segment.offset * 512).expect("what an index maps can be read");
        let at = segment.moffset as usize * 512;
        let expected = if segment.zeroed { &[0; 512][..] } else { &bytes[at..at + 512] };
        assert!(sector == expected, "{segment:?} reads something else");
    }
}

/// A finished layer of turboOCI: what opens with a target reads as its entries say.
fn turbo(bytes: &[u8]) {
    let target: Vec<u8> = (0..TARGET).map(|at| (at / 512) as u8 | 0x80).collect();
    let blob = || Arc::new(MemoryBlob::new("fuzz", bytes.to_vec())) as Arc<dyn Blob>;
    let Ok(meta) = Meta::open(blob()) else { return };
    let Ok(layer) = warp::open(blob(), Arc::new(MemoryBlob::new("target", target.clone())), |joined| joined) else {
        return;
    };
    let stack = Stack::new(vec![layer]).expect("one layer makes a stack");
    for segment in meta.segments().iter().filter(|s| s.length > 0).take(ENTRIES) {
        let mut sector = [0xee; 512];
        stack.read_at(&mut sector, segment.offset * 512).expect("what an index maps can be read");
        let at = segment.moffset as usize * 512;
        let mut expected = [0; 512];
        if !segment.zeroed {
            let from = if segment.tag == warp::REMOTE { &target[..] } else { bytes };
            let there = &from[at..from.len().min(at + 512)];
            expected[..there.len()].copy_from_slice(there);
        }
        assert!(sector == expected, "{segment:?} reads something else");
    }
}

/// As [`writable`], of a layer of turboOCI.
fn writable_turbo(data: &[u8], index: &[u8]) {
    let (data_path, index_path) = (Path::new("/data"), Path::new("/index"));
    let disk = disk::MemDisk::default();
    disk.put(data_path, data);
    disk.put(index_path, index);
    let read_only = open_as_meta(&disk, data_path, index_path).map(|(meta, _)| meta.segments().to_vec());
    let open = || Upper::open_warp(&disk, data_path, index_path, None, 3);
    let upper = open();
    assert_eq!(read_only.is_ok(), upper.is_ok(), "one opens and the other does not");
    let (Ok(read_only), Ok(upper)) = (read_only, upper) else { return };
    assert!(read_only == upper.segments(), "reader and writer see different layers");
    let _ = upper.map_remote(2048, 1024, 512).is_ok() && upper.write_at(&[7; 1024], 512, below).is_ok();
    let _ = upper.discard(4096, 8192);
    let before = upper.segments();
    drop(upper);
    assert!(open().expect("a layer that opened opens again").segments() == before, "not what was done");
}

/// Opening to read and opening to write must agree, and a layer that opened must open again.
fn writable(data: &[u8], index: &[u8]) {
    let (data_path, index_path) = (Path::new("/data"), Path::new("/index"));
    let disk = disk::MemDisk::default();
    disk.put(data_path, data);
    disk.put(index_path, index);
    let read_only = open_as_layer(&disk, data_path, index_path).map(|(layer, _)| layer.segments().to_vec());
    let open = || Upper::open(&disk, data_path, index_path);
    let upper = open();
    assert_eq!(read_only.is_ok(), upper.is_ok(), "one opens and the other does not");
    let (Ok(read_only), Ok(upper)) = (read_only, upper) else { return };
    assert!(read_only == upper.segments(), "reader and writer see different layers");
    let wrote = upper.write_at(&[7; 1024], 512, below).is_ok() && upper.discard(4096, 8192).is_ok();
    let _ = upper.flush();
    let before = (covered(upper.segments()), start(&upper));
    drop(upper);
    let again = open().expect("a layer that opened opens again");
    assert!(!wrote || (covered(again.segments()), start(&again)) == before, "not what was written");
}

/// What stands below the layer.
fn below(part: &mut [u8], _at: u64) -> overlaybd::Result<()> {
    part.fill(0xbe);
    Ok(())
}

/// The bytes at the start of the device; None if they cannot be read.
fn start(upper: &Upper) -> Option<Vec<u8>> {
    let mut bytes = vec![0; START];
    upper.read_at(&mut bytes, 0, below).ok().map(|()| bytes)
}

/// The runs of sectors that a layer holds. A sparse layer may tell zeros from data that is zeros only
/// until it is opened again.
fn covered(segments: Vec<Segment>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for segment in segments {
        match runs.last_mut() {
            Some((_, end)) if *end == segment.offset => *end = segment.end(),
            _ => runs.push((segment.offset, segment.end())),
        }
    }
    runs
}
