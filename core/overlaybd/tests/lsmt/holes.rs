//! What a sparse layer makes of the holes that a file system tells of, or does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd::lsmt::header::SPARSE;
use overlaybd::lsmt::upper::{create, open_as_layer, CreateOptions};
use overlaybd::lsmt::Upper;
use overlaybd::sys::fault::FaultDisk;
use overlaybd::sys::{Disk, Mode};
use overlaybd::Kind;

use crate::disk::MemDisk;
use crate::support::*;

const PAGE: u64 = 4096;

fn files() -> (PathBuf, PathBuf) {
    pair(Path::new("/"), "upper")
}

fn new(disk: &dyn Disk, size: u64, sparse: bool) -> overlaybd::Result<()> {
    create(disk, &files().0, &files().1, &CreateOptions { size, sparse, ..CreateOptions::default() })
}

fn reopen(disk: &dyn Disk) -> overlaybd::Result<Upper> {
    Upper::open(disk, &files().0, &files().1)
}

/// The first byte of each page; below the layer all is 9.
fn pages(upper: &Upper) -> Vec<u8> {
    let mut device = vec![0xee; upper.virtual_size() as usize];
    let nines = |part: &mut [u8], _| {
        part.fill(9);
        Ok(())
    };
    upper.read_at(&mut device, 0, nines).unwrap();
    device.chunks(PAGE as usize).map(|page| page[0]).collect()
}

#[test]
fn zeros_that_a_file_system_keeps_as_a_hole_are_there_as_long_as_the_system_runs() {
    for (reboots, flushed, expected) in [(false, false, 0), (true, false, 9), (true, true, 0)] {
        let disk = MemDisk::default();
        new(&disk, 3 * PAGE, true).unwrap();
        let upper = reopen(&disk).unwrap();
        upper.write_at(&[0; PAGE as usize], PAGE, nothing_below).unwrap();
        if flushed {
            upper.flush().unwrap();
        }
        drop(upper);
        disk.open(&files().0, Mode::Write).unwrap().punch_hole(2 * PAGE, PAGE).unwrap();
        if reboots {
            disk.reboot();
        }
        let what = format!("reboots: {reboots}, flushed: {flushed}");
        let (layer, _) = open_as_layer(&disk, &files().0, &files().1).unwrap();
        assert_eq!(layer.segments().is_empty(), expected == 9, "{what}: for a commit");
        assert_eq!(pages(&reopen(&disk).unwrap()), [9, expected, 9], "{what}");
    }
}

#[test]
fn a_write_that_a_loss_of_power_took_does_not_come_back_under_the_next_boot() {
    let disk = MemDisk::default();
    new(&disk, 3 * PAGE, true).unwrap();
    let upper = reopen(&disk).unwrap();
    upper.write_at(&[7; 2 * PAGE as usize], 0, nothing_below).unwrap();
    drop(upper);
    // The log had reached the disk, and so had the first of the two pages.
    disk.open(&files().0, Mode::Write).unwrap().punch_hole(2 * PAGE, PAGE).unwrap();
    disk.reboot();
    for time in ["first", "second"] {
        assert_eq!(pages(&reopen(&disk).unwrap()), [7, 9, 9], "opened for the {time} time");
    }
}

#[test]
fn a_sparse_layer_is_not_made_where_the_file_system_does_not_tell_its_holes() {
    let disk = MemDisk::default();
    let hiding = FaultDisk::hiding_holes(Arc::new(disk.clone()));
    for size in [0, 3 * PAGE] {
        assert_eq!(new(&hiding, size, true).unwrap_err().kind(), Kind::Unsupported, "{size} bytes");
    }
    new(&hiding, 3 * PAGE, false).unwrap();
    assert_eq!(pages(&reopen(&hiding).unwrap()), [9, 9, 9]);
}

#[test]
fn a_sparse_layer_is_not_opened_where_the_file_system_does_not_tell_its_holes() {
    let disk = MemDisk::default();
    let hiding = FaultDisk::hiding_holes(Arc::new(disk.clone()));
    new(&disk, 3 * PAGE, true).unwrap();
    let refused = || {
        let before = [disk.content(&files().0), disk.content(&files().1)];
        assert_eq!(reopen(&hiding).err().unwrap().kind(), Kind::Unsupported);
        let commit = open_as_layer(&hiding, &files().0, &files().1);
        assert_eq!(commit.err().unwrap().kind(), Kind::Unsupported);
        assert!([disk.content(&files().0), disk.content(&files().1)] == before);
    };
    refused();
    let upper = reopen(&disk).unwrap();
    upper.write_at(&[7; PAGE as usize], PAGE, nothing_below).unwrap();
    drop(upper);
    refused();
    let upper = reopen(&disk).unwrap();
    assert_eq!(pages(&upper), [9, 7, 9]);
    // One that is data from end to end, as its log says, takes no harm.
    upper.write_at(&[8; 3 * PAGE as usize], 0, nothing_below).unwrap();
    drop(upper);
    assert_eq!(pages(&reopen(&hiding).unwrap()), [8, 8, 8]);
}

#[test]
fn an_index_file_that_is_no_log_of_its_layer_is_refused() {
    let own = MemDisk::default();
    new(&own, 3 * PAGE, true).unwrap();
    drop(reopen(&own).unwrap());
    let index = own.content(&files().1);
    reopen(&own).unwrap();
    // That of another sparse layer; and one of a log-structured layer with the same id.
    let other = MemDisk::default();
    new(&other, 3 * PAGE, true).unwrap();
    drop(reopen(&other).unwrap());
    let mut logged = index;
    let flags = u32::from_le_bytes(logged[28..32].try_into().unwrap());
    assert_ne!(flags & SPARSE, 0);
    logged[28..32].copy_from_slice(&(flags & !SPARSE).to_le_bytes());
    for foreign in [other.content(&files().1), logged] {
        own.put(&files().1, &foreign);
        let refused = [reopen(&own).err().unwrap(), open_as_layer(&own, &files().0, &files().1).err().unwrap()];
        for e in refused {
            assert_eq!((e.kind(), e.offset(), e.file()), (Kind::Corrupt, Some(0), Some(&*files().1)), "{e}");
            assert!(e.what().contains("not the log of the sparse layer"), "{e}");
        }
        assert!(own.content(&files().1) == foreign, "it is left as it is");
    }
}

#[test]
fn a_data_file_that_is_none_is_refused_with_what_it_may_be() {
    for sparse in [false, true] {
        let disk = MemDisk::default();
        new(&disk, 3 * PAGE, sparse).unwrap();
        disk.put(&files().0, &[7; 2 * PAGE as usize]);
        let refused = [reopen(&disk).err().unwrap(), open_as_layer(&disk, &files().0, &files().1).err().unwrap()];
        for e in refused {
            assert_eq!((e.kind(), e.file()), (Kind::Corrupt, Some(&*files().0)), "{e}");
            assert!(e.to_string().contains("data file of a writable layer (one of turboOCI"), "{e}");
        }
    }
}

#[test]
fn a_sparse_layer_that_has_no_size_yet_holds_what_its_file_has() {
    let disk = MemDisk::default();
    new(&disk, 0, true).unwrap();
    disk.open(&files().0, Mode::Write).unwrap().write_at(&[7; PAGE as usize], 2 * PAGE).unwrap();
    let (layer, _) = open_as_layer(&disk, &files().0, &files().1).unwrap();
    let segments: Vec<_> = layer.segments().iter().map(|s| (s.offset, s.length)).collect();
    assert_eq!(segments, [(8, 8)]);
}
