//! Bounds: what is too much is refused before it costs anything; logs do not grow for ever; threads do not mix.

use std::path::Path;
use std::sync::Arc;

use overlaybd::blob::MemoryBlob;
use overlaybd::disk::{Holes, Raw};
use overlaybd::lsmt::commit::{commit, CommitOptions};
use overlaybd::lsmt::header::{COMMITTED_FLAGS, TRAILER_FLAGS, VIRTUAL_SIZE_AT};
use overlaybd::lsmt::import::import;
use overlaybd::lsmt::upper::{create, CreateOptions};
use overlaybd::lsmt::{Header, Layer, Segment, Stack, Upper, Uuid};
use overlaybd::progress::silent;
use overlaybd::sink::MemorySink;
use overlaybd::sys::fault::{Fault, FaultDisk};
use overlaybd::sys::{Disk, Mode};
use overlaybd::Kind;

use crate::disk::MemDisk;
use crate::support::*;

/// A finished layer that zeroes every other sector, with a trailer that says so many entries.
fn layer_of_zeros(entries: u64, said: u64) -> overlaybd::Result<Layer> {
    let header = Header::new(COMMITTED_FLAGS, 1 << 40, Uuid::NULL, Uuid::NULL, b"").unwrap();
    let mut bytes = header.to_block().to_vec();
    for number in 0..entries {
        let entry = Segment { offset: 2 * number, length: 1, moffset: 8, zeroed: true, tag: 0 };
        bytes.extend_from_slice(&entry.to_bytes());
    }
    let trailer = Header { flags: TRAILER_FLAGS, index_offset: 4096, index_entries: said, ..header };
    bytes.extend_from_slice(&trailer.to_block());
    Layer::open(Arc::new(MemoryBlob::new("zeros", bytes)))
}

#[test]
fn an_index_that_no_reader_would_take_is_not_written() {
    let most = layer_of_zeros(999_936, 999_936).unwrap();
    let mut sink = MemorySink::default();
    let done = commit(&most, &CommitOptions::default(), &mut sink, &mut silent).unwrap();
    assert_eq!(done.trailer.index_entries, 999_936);
    Layer::open(Arc::new(MemoryBlob::new("most", sink.bytes))).unwrap();

    let more = layer_of_zeros(999_937, 999_937).unwrap();
    let mut sink = MemorySink::default();
    let error = commit(&more, &CommitOptions::default(), &mut sink, &mut silent).unwrap_err();
    assert_eq!((error.kind(), sink.bytes.len()), (Kind::Limit, 0));
}

#[test]
fn an_index_beyond_its_file_or_the_limit_is_refused() {
    let refused = |entries, said| layer_of_zeros(entries, said).err().unwrap().kind();
    assert_eq!(refused(16, 1_000_001), Kind::Limit);
    assert_eq!(refused(16, u64::MAX), Kind::Limit);
    assert_eq!(refused(16, 17), Kind::Corrupt);
    assert_eq!(refused(16, 1_000_000), Kind::Corrupt);
    assert_eq!(layer_of_zeros(16, 0).unwrap().segments().len(), 0);
    let stack = |n| Stack::new((0..n).map(|_| layer_of_zeros(1, 1).unwrap()).collect());
    assert_eq!(stack(255).unwrap().blobs().len(), 255);
    assert_eq!(stack(256).err().unwrap().kind(), Kind::Limit);
    assert_eq!(stack(0).err().unwrap().kind(), Kind::Invalid);
}

fn files() -> (std::path::PathBuf, std::path::PathBuf) {
    pair(Path::new("/"), "upper")
}

fn small(disk: &MemDisk, sparse: bool) {
    let options = CreateOptions { size: 1 << 20, sparse, ..CreateOptions::default() };
    create(disk, &files().0, &files().1, &options).unwrap();
}

#[test]
fn the_log_of_a_sparse_layer_is_rewritten_when_it_has_grown() {
    let disk = MemDisk::default();
    small(&disk, true);
    let open = || Upper::open(&disk, &files().0, &files().1).unwrap();
    let upper = open();
    for _ in 0..3000 {
        upper.write_at(&[1; 8192], 8192, nothing_below).unwrap();
        upper.write_at(&[2; 4096], 8192, nothing_below).unwrap();
        upper.discard(12288, 8192).unwrap();
    }
    let before = (flatten_upper(&upper, None), disk.content(&files().1).len());
    assert!(before.1 >= 4096 + 6000 * 16, "each round changes the map twice: {}", before.1);
    assert!(before.1 < 4096 + 6100 * 16, "rewriting what is mapped logs nothing: {}", before.1);
    drop(upper);
    let upper = open();
    assert!(disk.content(&files().1).len() < 4096 + 8 * 16);
    assert!(flatten_upper(&upper, None) == before.0);
    drop(upper);
    assert!(flatten_upper(&open(), None) == before.0);
}

#[test]
fn a_seal_that_fails_leaves_a_working_layer() {
    for (sparse, at) in [false, true].into_iter().flat_map(|sparse| (0..8).map(move |at| (sparse, at))) {
        let disk = MemDisk::default();
        small(&disk, sparse);
        drop(Upper::open(&disk, &files().0, &files().1).unwrap());
        let faulty = FaultDisk::new(Arc::new(disk.clone()), at, Fault::Short(600, libc::ENOSPC));
        let Ok(upper) = Upper::open(&faulty, &files().0, &files().1) else { continue };
        if upper.write_at(&[5; 4096], 4096, nothing_below).is_err() {
            continue;
        }
        match upper.seal() {
            Ok(()) => assert_eq!(upper.discard(0, 512).unwrap_err().kind(), Kind::ReadOnly),
            Err(e) => {
                assert_eq!(e.kind(), Kind::NoSpace, "{e}");
                let again = upper.write_at(&[6; 4096], 8192, nothing_below);
                let device = flatten_upper(&upper, None);
                drop(upper);
                let upper = Upper::open(&disk, &files().0, &files().1).unwrap();
                assert!(flatten_upper(&upper, None) == device);
                assert!(device[4096..8192].iter().all(|b| *b == 5), "sparse {sparse}, operation {at}");
                assert!(again.is_err() || device[8192..12288].iter().all(|b| *b == 6));
                upper.seal().unwrap();
            }
        }
        let layer = Layer::open(Arc::new(MemoryBlob::new("sealed", disk.content(&files().0)))).unwrap();
        assert!(flatten(&Stack::new(vec![layer]).unwrap())[4096..8192].iter().all(|b| *b == 5));
    }
}

#[test]
fn a_seal_that_fails_closes_the_layer_only_if_a_flush_failed() {
    let mut after = Vec::new();
    for at in 0.. {
        let disk = MemDisk::default();
        small(&disk, false);
        let faulty = FaultDisk::new(Arc::new(disk.clone()), at, Fault::Errno(libc::ENOSPC));
        let Ok(upper) = Upper::open(&faulty, &files().0, &files().1) else { continue };
        if upper.write_at(&[5; 4096], 4096, nothing_below).is_err() {
            continue;
        }
        if upper.seal().is_ok() {
            break;
        }
        let works = upper.write_at(&[6; 4096], 8192, nothing_below).and_then(|()| upper.flush()).is_ok();
        after.push(works);
        if works {
            upper.seal().unwrap();
            let layer = Layer::open(Arc::new(MemoryBlob::new("sealed", disk.content(&files().0)))).unwrap();
            assert!(flatten(&Stack::new(vec![layer]).unwrap())[8192..12288].iter().all(|b| *b == 6));
        }
    }
    // Length, index and trailer, flush of the data, note that it is durable, flush of the log.
    assert_eq!(after, [true, true, false, true, false]);
}

#[test]
fn threads_that_write_at_once_leave_what_the_log_says() {
    for sparse in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let upper = new_upper(dir.path(), "many", 1 << 20, sparse, None);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let upper = &upper;
                scope.spawn(move || {
                    for round in 0..150 {
                        // Half of the places are each thread's own, and half of one sector only.
                        let own = (thread * 64 + round * 7 % 64) * 512;
                        upper.write_at(&[1 + thread as u8; 512], own, nothing_below).unwrap();
                        let shared = (1024 + round * 5 % 200) * 512;
                        upper.write_at(&[10 + thread as u8; 1536], shared, nothing_below).unwrap();
                        match round % 10 {
                            3 => upper.discard((1400 + thread * 8) * 512, 8192).unwrap(),
                            6 => upper.flush().unwrap(),
                            _ => {}
                        }
                    }
                });
            }
        });
        let device = flatten_upper(&upper, None);
        for thread in 0..4 {
            let own = &device[thread * 64 * SECTOR..(thread + 1) * 64 * SECTOR];
            assert!(own.iter().all(|b| *b == 1 + thread as u8), "sparse {sparse}: the sectors of thread {thread}");
        }
        drop(upper);
        assert!(flatten_upper(&open(&pair(dir.path(), "many")), None) == device, "sparse {sparse}");
    }
}

/// As the format has it: entries say sectors in 50 bits, and the last number is padding.
const MAX_DEVICE_BYTES: u64 = ((1 << 50) - 1) * 512;

#[test]
fn a_device_that_index_entries_do_not_reach_to_the_end_of_is_refused() {
    for sparse in [false, true] {
        let disk = MemDisk::default();
        let new = |size| create(&disk, &files().0, &files().1, &CreateOptions { size, sparse, ..Default::default() });
        assert_eq!(new(MAX_DEVICE_BYTES + 512).unwrap_err().kind(), Kind::Limit);
        new(1 << 20).unwrap();
        let upper = Upper::open(&disk, &files().0, &files().1).unwrap();
        for size in [MAX_DEVICE_BYTES + 512, 1 << 63, u64::MAX - 511] {
            assert_eq!(upper.resize(size).unwrap_err().kind(), Kind::Limit, "{size}");
        }
        upper.resize(MAX_DEVICE_BYTES).unwrap();
        upper.write_at(&[5; 4096], MAX_DEVICE_BYTES - 4096, nothing_below).unwrap();
        drop(upper);
        let upper = Upper::open(&disk, &files().0, &files().1).unwrap();
        let mut last = [0; 512];
        upper.read_at(&mut last, MAX_DEVICE_BYTES - 512, nothing_below).unwrap();
        assert_eq!(last, [5; 512], "the last sector");
    }
    let disk = MemDisk::default();
    disk.put(&files().0, &[1; 512]);
    let large = Raw::of_size(disk.open(&files().0, Mode::Read).unwrap(), MAX_DEVICE_BYTES + 512).unwrap();
    let mut sink = MemorySink::default();
    let error = import(&large, Holes::Zeros, &CommitOptions::default(), &mut sink, &mut silent).unwrap_err();
    assert_eq!((error.kind(), sink.bytes.len()), (Kind::Limit, 0));
}

#[test]
fn a_layer_that_says_more_than_its_entries_can_is_written_to_as_far_as_they_reach() {
    for sparse in [false, true] {
        let disk = MemDisk::default();
        small(&disk, sparse);
        for path in [files().0, files().1] {
            let file = disk.open(&path, Mode::Write).unwrap();
            if file.len().unwrap() > 0 {
                file.write_at(&(1u64 << 60).to_le_bytes(), VIRTUAL_SIZE_AT as u64).unwrap();
            }
        }
        let upper = Upper::open(&disk, &files().0, &files().1).unwrap();
        upper.write_at(&[5; 512], MAX_DEVICE_BYTES - 512, nothing_below).unwrap();
        for at in [MAX_DEVICE_BYTES - 512, MAX_DEVICE_BYTES, 1 << 59] {
            assert_eq!(upper.write_at(&[6; 1024], at, nothing_below).unwrap_err().kind(), Kind::Limit, "{at}");
            assert_eq!(upper.discard(at, 1024).unwrap_err().kind(), Kind::Limit, "{at}");
        }
        drop(upper);
        let upper = Upper::open(&disk, &files().0, &files().1).unwrap();
        let mut last = [0; 512];
        upper.read_at(&mut last, MAX_DEVICE_BYTES - 512, nothing_below).unwrap();
        assert_eq!(last, [5; 512]);
    }
}
